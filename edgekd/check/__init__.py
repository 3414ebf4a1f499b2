"""`edgekd check`: is the candidate slower, larger or less right than the baseline? A gate for continuous integration.

verdict.py    raw samples to pass, regressed or inconclusive: the statistics, no I/O
pair.py       two bundles, and whether they can be compared at all
stored.py     a baseline of which only report.json is left
session.py    both engines measured now, side by side, for as long as it takes to tell
gates.py      the other signals, each with its own tolerance: outputs, bytes, memory, cold start, …
operators.py  which operators cost the difference
gate.py       one check: pair, gates, session, operators
suite.py      several checks from a TOML file, with Holm's correction
told.py       what a check says, in rows and words, and a small picture made of letters
terminal.py   the same for a terminal
markdown.py   the same for a comment on a pull request
junit.py      the same for what reads JUnit's XML
lock.py       one check at a time on a device
"""
