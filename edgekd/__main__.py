"""`python -m edgekd` is the `edgekd` command."""

from collections import namedtuple

from edgekd.cli import main

if __name__ == "__main__":
    try:
        main()
    finally:
        # An interrupt that met code in a string (exec, as torch's graphs are made) would end Python by the signal, though it was
        # caught and its exit code given: any such code that runs to its end, as namedtuple's own, takes that back.
        namedtuple("Ended", ())
