"""Training a network: its epochs, what they minimise, how long and how fast, and where a run that was killed goes on."""
