"""Placements of a quantized student's graph for torch: pairs taken out of graph.json around chosen operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

from edgekd.backend import Signature, open_backend
from edgekd.cuts import Costs, Keep, Link
from edgekd.json_file import read_json, write_json
from edgekd.onnx import file as onnx_file
from edgekd.pipeline.place_bench import GIVEN, JUDGED, Programs
from edgekd.quant.onnx_export import export_onnx, exported
from edgekd.quant.torch_graph import read_graph, write_graph
from edgekd.quant.torch_pairs import PRODUCT, covered, links_of, place, sites_of
from edgekd.quant.torch_rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

    from edgekd.backend import Array
    from edgekd.pipeline.plan import Plan
    from edgekd.quant.sites import Site


@final
@dataclass
class GraphPrograms(Programs):
    """`graph`: the program, rewritten for delegates; `samples` [samples, batch, …] are what quality is judged on.

    XNNPACK's profile names kernels, not nodes, so costs are not known and only races decide.
    """

    graph: fx.GraphModule
    about: Mapping[str, Any]
    sites: Sequence[Site]
    samples: Array
    named: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.covered = covered(self.graph, self.sites)
        self.given = frozenset(site.name for site in self.sites) if self.covered else GIVEN

    def links(self) -> list[Link]:
        return links_of(self.graph, self.sites)

    def program(self, keep: Keep) -> fx.GraphModule:
        return self.graph if keep == GIVEN else place(self.graph, self.sites, keep)

    def write(self, keep: Keep, out: Path) -> None:
        write_graph(exported(self.program(keep), self._example()), out)
        write_json(
            out / "program.json", {"precision": "int8" if keep else "float32", "grid": "affine" if keep else "none"}
        )
        write_json(out / "signature.json", dict(self.about))

    def finish(self, keep: Keep, out: Path) -> None:
        """The same as ONNX, which the test samples are judged by."""
        names = {f"{side}_name": self.about[f"{side}s"][0]["name"] for side in ("input", "output")}
        export_onnx(self.program(keep), self._example(), out / onnx_file.FILE, **names)

    def outputs(self, keep: Keep) -> list[Array]:
        program = self.program(keep)
        with torch.no_grad():
            found = [program(torch.from_numpy(sample)) for sample in self.samples]
        return [torch.stack(one).numpy() for one in zip(*found, strict=True)]

    def costs(self, keep: Keep, engine: Path, took: Mapping[str, float]) -> Costs | None:
        return None

    def _example(self) -> torch.Tensor:
        return torch.from_numpy(self.samples[0])


def of_graph(plan: Plan, base: str, backend: str) -> GraphPrograms:
    """Of a quantized student: its own scales and integers."""
    folder = plan.entry(base).path
    about, signature = read_json(folder / "signature.json"), Signature.read(folder)
    (port,) = signature.inputs
    batch = port.concrete(1)[0]
    arrays = plan.arrays("validation")[0]
    count = min(JUDGED, len(arrays) // batch)
    samples = np.stack([arrays[i * batch : (i + 1) * batch] for i in range(count)]).astype(port.dtype, copy=False)
    example, kinds = tuple(torch.from_numpy(value) for value in signature.noise(0)), open_backend(backend).integers
    graph = rewrite(read_graph(folder), example, whole=PRODUCT not in kinds)
    return GraphPrograms(graph, about, sites_of(graph, kinds), samples)
