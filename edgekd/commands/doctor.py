"""`edgekd doctor`: what this machine can compile and measure, and the environments that `--fix` makes."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import Annotated

import typer

from edgekd.commands.store import WIDE, Json, Quiet

EPILOG = """\b
Examples:
  edgekd doctor                 everything
  edgekd doctor openvino tvm    these backends
  edgekd doctor --fix litert    what it compiles with, in a folder of its own
"""
Names = Annotated[list[str] | None, typer.Argument(help="only these", metavar="BACKEND")]
Fix = Annotated[bool, typer.Option("--fix", help="install what backends need in an environment of its own")]


def doctor(backends: Names = None, fix: Fix = False, as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what this machine can compile and measure.

    For what it cannot: the command that adds what is missing. Some backends compile with packages that cannot live beside the
    others: --fix installs those in a folder of their own, $EDGEKD_ENVIRONMENTS or in the user's data folder; what is installed
    already is not touched.
    """
    from edgekd.doctor import examine, make_environments

    if fix:
        from edgekd.progress import Progress

        make_environments(backends or [], Progress(quiet=quiet))
    checks = examine(backends or [])
    if as_json:
        print(json.dumps([vars(one) for one in checks], indent=1))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    for one in checks:
        for text, head in (
            (one.found, f"{'ok ' if one.good else 'no '} {one.what:<14} "),
            (one.cure, f"{'':19}hint: "),
        ):
            if text:
                print(
                    textwrap.fill(
                        text, max(width, 40), initial_indent=head, subsequent_indent=" " * 19, break_on_hyphens=False
                    )
                )
