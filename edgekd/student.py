"""The student: a factory, the edits made to what it builds, and weights. Nothing is pickled.

    student.json          where it comes from: factory, arguments; `instead`: those that a stage put in their place
    edits.json            in order: {"edit": "prune", …}, {"edit": "replace", …}, {"edit": "quantize", …}, {"edit": "quantize_weights", …}
    weights.safetensors   of the edited network
    signature.json        inputs and outputs with names, shapes, dtypes; preprocessing; labels

Building it calls the factory, replays the edits and loads the weights, so that loading an artefact runs no code from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

Edit = Mapping[str, Any]


@dataclass(frozen=True)
class Student:
    """A student's folder. `factory()` makes the network that the edits are replayed on; further arguments by keyword."""

    path: Path
    factory: Callable[..., nn.Module]

    @property
    def edits(self) -> list[dict[str, Any]]:
        return list(self._json("edits.json"))

    @property
    def quantized(self) -> dict[str, Any] | None:
        """The "quantize" or "quantize_weights" edit, if there is one."""
        return next((e for e in self.edits if e["edit"] in ("quantize", "quantize_weights")), None)

    @property
    def origin(self) -> dict[str, Any]:
        """The factory, and the arguments that it was called with."""
        return dict(self._json("student.json"))

    @property
    def arguments(self) -> dict[str, Any]:
        """What the factory is called with: as the recipe or a search says, and what a stage put in place of some."""
        return {**self.origin.get("arguments", {}), **self.origin.get("instead", {})}

    @property
    def signature(self) -> dict[str, Any]:
        return dict(self._json("signature.json"))

    def _json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text("utf-8"))

    def weights(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path / "weights.safetensors")

    def network(self) -> nn.Module:
        """The float network: factory, edited as the edits say, with weights, in eval mode. Not for a quantized student."""
        module = self.unloaded()
        load_weights(module, self.weights(), str(self.path))
        return module.eval()

    def unloaded(self) -> nn.Module:
        """The float network as the edits leave it, weights not loaded."""
        module = self.factory(**self.origin.get("instead", {}))
        replay(module, self.edits)
        return module

    def module(self) -> nn.Module:
        """What runs: the float network, or for a quantized student its program with quantize/dequantize pairs."""
        if self.quantized is None:
            return self.network()
        from edgekd.quant.student import program

        return program(self, self.quantized)

    def fake_quantized(self) -> nn.Module:
        """The network of a quantized student as it was trained: float weights, rounded where the program rounds."""
        from edgekd.quant.student import prepared

        assert self.quantized is not None
        return prepared(self, self.quantized)

    def example(self, batch: int = 1) -> torch.Tensor:
        """Zeros of the input's shape: [batch, ...]."""
        import torch

        spec = self.signature["inputs"][0]
        return torch.zeros([batch, *spec["shape"][1:]], dtype=getattr(torch, spec["dtype"]))


def replay(module: nn.Module, edits: Sequence[Edit]) -> None:
    """Make the edits of a network's structure on a fresh one, in place and in order; a "quantize" edit is none of these.

    Raises UserError for an edit that does not fit.
    """
    from edgekd.blocks import edits as blocks
    from edgekd.pruning import edits as channels

    for edit in edits:
        if edit["edit"] == "prune":
            channels.replay(module, edit)
        elif edit["edit"] == "replace":
            blocks.replay(module, edit)


def save(
    out: Path,
    weights: Mapping[str, torch.Tensor],
    edits: Sequence[Edit],
    signature: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> None:
    """Write a student's four files into the folder `out`."""
    write_tensors(out / "weights.safetensors", weights)
    for name, value in (("edits", list(edits)), ("signature", dict(signature)), ("student", dict(origin))):
        (out / f"{name}.json").write_text(json.dumps(value, indent=1), "utf-8")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file; a full disk is an OSError, as for any file (the library's own writer hides which)."""
    from safetensors.torch import save

    path.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def save_next(out: Path, before: Student, weights: Mapping[str, torch.Tensor], *edits: Edit) -> None:
    """Write what a stage made of `before`: new weights, and the edits that it added."""
    save(out, weights, [*before.edits, *edits], before.signature, before.origin)


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Load weights strictly, half precision widened. Raises UserError naming the first tensor that does not fit."""
    import torch

    own = module.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    missing, extra = sorted(set(own) - set(weights) - optional), sorted(set(weights) - set(own))
    if missing or extra:
        kind, name = ("lack", missing[0]) if missing else ("have an unknown", extra[0])
        raise UserError(
            f'{where}: the weights {kind} "{name}"', hint="were they saved from this factory, with these arguments?"
        )
    for name, value in weights.items():
        if value.shape != own[name].shape:
            message = f'{where}: "{name}" is {list(value.shape)}, the network has {list(own[name].shape)}'
            raise UserError(message, hint="were they saved from this factory, with these arguments?")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f'{where}: "{name}" has NaN or infinite values')
    widened = {k: v.to(own[k].dtype) for k, v in weights.items()}
    module.load_state_dict(widened, strict=False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file. Raises UserError if it is missing, empty, cut short or of another kind."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        size = path.stat().st_size
        raise UserError(
            f"{path} ({size} bytes) is not a whole safetensors file: {error}", hint="save it again, or copy it again"
        ) from None
