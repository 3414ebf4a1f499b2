"""`python -m edgekd` is the `edgekd` command."""

from edgekd.cli import main

if __name__ == "__main__":
    main()
