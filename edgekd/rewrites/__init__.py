"""Rewrites of a float ONNX graph that keep what it computes and may make it faster; which do is measured, each time. No torch.

A file holds one: a function of its name from a model to a new one, or to None where it has nothing to do. A backend's `rewrites`
names those that are tried for it. `write` is run in a worker process: what the fusions need is a package of top-level modules
with everyday names.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from edgekd.backend import Signature
from edgekd.onnx_slim import computes_the_same, slimmed


def write(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """{"program", "out", "rewrites"} to {"made", "refused"}: a file NAME.onnx in `out` for each rewrite that changed the slimmed model.

    "slim" is that without any, and a name with "+" all that changed it. A rewrite that fails, or computes something else, is
    refused, with why.
    """
    program, out = Path(request["program"]), Path(request["out"])
    feed = Signature.read(program).feed(0)
    slim = slimmed(onnx.load(program / "model.onnx"), feed)
    made, refused = {"slim": slim}, {}
    every, names = slim, []
    for name in request["rewrites"]:
        rewrite = getattr(import_module(f"edgekd.rewrites.{name}"), name)
        try:
            alone, after = rewrite(slim), rewrite(every)
            if alone is None or after is None:
                continue
            if not (computes_the_same(alone, slim, feed) and computes_the_same(after, slim, feed)):
                refused[name] = "it computes something else"
                continue
        except Exception as error:  # whatever a third party's rewriting or the runtime raises costs this one rewrite
            refused[name] = " ".join(str(error).split()) or type(error).__name__
            continue
        made[name], every = alone, after
        names.append(name)
    if len(names) > 1:
        made["+".join(names)] = every
    for name, model in made.items():
        onnx.save(model, out / f"{name}.onnx")
    return {"made": list(made), "refused": refused}
