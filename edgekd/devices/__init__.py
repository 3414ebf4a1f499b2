"""Devices that are not this machine: how a file gets there, how a program runs there, and what its runner says.

`link.py` is the contract of a way to a device; `local.py`, `ssh.py`, `adb.py` and `exec.py` are the ways, each named as
`[reach].kind` in a target. The runner's protocol: docs/devices.md.
"""
