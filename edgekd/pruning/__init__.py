"""Channels that go: which belong together, how much each would be missed, how many stay, and the cut itself."""
