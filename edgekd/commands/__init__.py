"""The parts of the command: one file for each that `cli.py` names. Each imports what it needs when it runs."""
