"""`edgekd package`: a bundle as a web page, an Android library or a Swift package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgekd.commands.store import Json


def package(
    host: Annotated[str, typer.Argument(help="web, android or swift", metavar="HOST")],
    bundle: Annotated[Path, typer.Argument(help="a folder that compile wrote: out/bundles/host", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the folder to make")],
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="web: folder of npm's onnxruntime-web; default: npm fetches it", envvar="EDGEKD_ONNXRUNTIME_WEB"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lay a bundle out for another host: web, android or swift.

    web: a page that tests the bundle in the browser and shows it at work. android: a Gradle module with the C API and a
    Kotlin wrapper. swift: a Swift package with the C API and a wrapper. Each with a README.md that says what to do next.
    """
    from edgekd.package import write

    notes = write(host, bundle, out, runtime)
    if as_json:
        print(json.dumps({"host": host, "bundle": str(bundle), "out": str(out), "notes": notes}, indent=1))
        return
    print(out)
    for note in notes:
        print(f"    {note}")
