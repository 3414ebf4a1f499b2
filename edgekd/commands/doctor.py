"""`edgekd doctor`: what this machine can compile and measure, and the environments that `--fix` makes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgekd.commands.store import Json, Quiet
from edgekd.errors import UserError

Names = Annotated[list[str] | None, typer.Argument(help="with --fix: only these backends", metavar="[BACKEND]...")]
Fix = Annotated[bool, typer.Option("--fix", help="install what backends need in an environment of its own")]


def doctor(backends: Names = None, fix: Fix = False, as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what this machine can compile and measure.

    For what it cannot: the command that adds what is missing. Some backends compile with packages that cannot live beside the
    others: --fix installs those in a folder of their own, $EDGEKD_ENVIRONMENTS or in the user's data folder; what is installed
    already is not touched.
    """
    from edgekd.doctor import examine, make_environments

    if backends and not fix:
        raise UserError("backends are named for --fix", hint=f"edgekd doctor --fix {' '.join(backends)}")
    if fix:
        from edgekd.progress import Progress

        make_environments(backends or [], Progress(quiet=quiet))
    checks = examine()
    if as_json:
        print(json.dumps([vars(one) for one in checks], indent=1))
        return
    for one in checks:
        print(f"{'ok ' if one.good else 'no '} {one.what:<14} {one.found}")
        if one.cure:
            print(f"{'':18} hint: {one.cure}")
