"""Rewrites of a float ONNX graph that keep what it computes and may make it faster; which do is measured, each time. No torch.

A file holds one: a function of its name from a model to a new one, or to None where it has nothing to do. A backend's `rewrites`
names those that are tried for it. `write` is run in a worker process: what the fusions need is a package of top-level modules
with everyday names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from edgekd.backend import Array, Signature
from edgekd.onnx.slim import computes_the_same, slimmed

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto | None]


def write(request: dict[str, Any], _: Any) -> dict[str, Any]:
    """{"program", "out", "rewrites"} to {"made", "refused"}: a file NAME.onnx in `out` for each rewrite that changed the slimmed model.

    "slim" is that without any, and a name with "+" all that changed it. A rewrite that fails, or computes something else, is
    refused, with why.
    """
    program, out = Path(request["program"]), Path(request["out"])
    feed = Signature.read(program).feed(0)
    slim = slimmed(onnx.load(program / "model.onnx"), feed)
    made, refused = {"slim": slim}, {}
    every, names = slim, list[str]()
    for name in request["rewrites"]:
        rewrite = getattr(import_module(f"edgekd.rewrites.{name}"), name)
        alone, why = _rewritten(rewrite, slim, slim, feed)
        if alone is None:
            if why:
                refused[name] = why
            continue
        made[name] = alone
        after = _rewritten(rewrite, every, slim, feed)[0] if names else alone
        if after is not None:
            every, names = after, [*names, name]
    if len(names) > 1:
        made["+".join(names)] = every
    for name, model in made.items():
        onnx.save(model, out / f"{name}.onnx")
    return {"made": list(made), "refused": refused}


def _rewritten(
    rewrite: Rewrite, model: onnx.ModelProto, reference: onnx.ModelProto, feed: Mapping[str, Array]
) -> tuple[onnx.ModelProto | None, str]:
    """The model rewritten, or None, and why it is refused; "" where there was nothing to rewrite."""
    try:
        made = rewrite(model)
        if made is None or computes_the_same(made, reference, feed):
            return made, ""
    except Exception as error:  # whatever a third party's rewriting or the runtime raises costs this one rewrite
        return None, " ".join(str(error).split()) or type(error).__name__
    return None, "it computes something else"
