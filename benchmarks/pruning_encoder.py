"""CoFi against uniform pruning of an encoder at one measured latency. Writes results/pruning_encoder.json and results/pruning_encoder.md.

    .venv/bin/python benchmarks/pruning_encoder.py [--speeds 2 4 8] [--seeds 0 1 2] [--gates 4] [--epochs 3] [--minutes 60] [--smoke]

MiniLM of six layers is fine-tuned on short movie reviews (how to get both: benchmarks/pruning_encoder_nets.py). It is the teacher, and
the student that is pruned to a share of its own latency on ONNX Runtime. CoFi learns which layers, heads, channels and width of the
stream go, held to that latency, and then recovers. Uniform pruning takes the same share of each by magnitude: the least of a row of
shares whose engine was measured to keep the latency; it trains as many epochs as CoFi does in all. Both may measure 5% above, as any
budget here. In the end all that was pruned to one speed is raced at once, beside the whole student. Every step is kept in a store, so a
run that was stopped goes on where it was; speeds come one after another, so the highest is left where time is short.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distillation_recipe import CE, Row, made
from paired import gain, shown, spread
from pruning_encoder_nets import LENGTH, prepare
from published import machine, publish
from quantization_recipe import ran

from edgekd import api, digest
from edgekd.errors import UserError
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.variants import race_edited
from edgekd.pruning.allocation import TOLERANCE
from edgekd.pruning.groups import cut, find
from edgekd.pruning.widths import rounded
from edgekd.store import write_whole
from edgekd.toml import dumps

WORK = Path(__file__).resolve().parent.parent / "out" / "benchmark-pruning-encoder"
SIZES, FEW = (1600, 400, 1000), (64, 20, 30)
"""Reviews to train on, to validate and to test with; in a smoke run."""
METHODS = ("uniform", "cofi")
RATIOS = [step / 24 for step in range(4, 23)]
LOSSES = [{**CE, "weight": 0.5}, {"use": "kl", "temperature": 2.0, "weight": 0.5}]
TEACHER = {"losses": [CE], "batch": 32, "lr": 5e-5, "warmup_epochs": 0.2}
Found = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where results are kept, how long is trained, and from where."""

    work: Path
    layers: int
    gates: int
    epochs: int
    teacher: int
    seconds: float
    ratios: Sequence[float]

    @property
    def sections(self) -> Found:
        """The recipe's data, and how long engines are measured."""
        data = {"factory": "pruning_encoder_nets:data", "file": str(self.work / "reviews.npz")}
        measure = {"seconds": self.seconds, "processes": 2}
        return {"data": data, "targets": {"names": ["host"]}, "measure": measure}

    @property
    def net(self) -> Found:
        return {"factory": "pruning_encoder_nets:reviewer", "layers": self.layers}

    def taught(self) -> Found:
        """The teacher, fine-tuned once."""
        begun = {**self.net, "weights": str(self.work / "begun.safetensors")}
        stage = {**TEACHER, "epochs": self.teacher}
        found = made(self.work, Row("MiniLM fine-tuned", begun, self.sections["data"], stage, teacher={}))
        if "refused" in found:
            raise UserError(found["refused"])
        return found

    def plan(self, folder: str, seed: int, stage: Found) -> Plan:
        """Of the teacher, whose weights are in the folder, pruned by this stage."""
        net = {**self.net, "weights": str(Path(folder) / "weights.safetensors")}
        table = {"seed": seed, "student": net, "teacher": net, **self.sections}
        table["stage"] = [{"use": "prune", "losses": LOSSES, "batch": 32, "lr": 1e-4, "warmup_epochs": 0.2, **stage}]
        path = self.work / "recipes" / f"{digest.of_json(table)[:16]}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, dumps(table).encode())
        return api.prepare(path, backends=["onnxruntime"], store=self.work / "store")

    def stage(self, method: str, share: float, shares: dict[float, float]) -> Found:
        """The prune stage that keeps a share of the latency. Raises UserError where uniform pruning has none in `shares`."""
        if method == "cofi":
            criterion = {"use": "cofi", "epochs": self.gates}
            return {"criterion": criterion, "budget": {"latency": f"{share:.4g}x"}, "epochs": self.epochs}
        ratio = least(shares, share)
        return {
            "criterion": "magnitude",
            "scope": "per_group",
            "ratio": ratio,
            "epochs": self.gates + self.epochs,
        }


def least(shares: dict[float, float], share: float) -> float:
    """The smallest ratio whose engine was measured to keep that share of the latency. Raises UserError where none does.

    >>> least({0.25: 0.71, 0.5: 0.52, 0.75: 0.2}, 0.5)
    0.5
    """
    kept = [ratio for ratio, measured in shares.items() if measured <= share * (1 + TOLERANCE["latency"])]
    if not kept:
        raise UserError(
            f"uniform pruning cannot keep {share:g}x: the least of {len(shares)} ratios is {min(shares.values()):.3f}x"
        )
    return min(kept)


def uniform(plan: Plan, ratios: Sequence[float]) -> dict[float, float]:
    """{ratio: share of the whole student's latency} of engines that have lost that share of every group of channels."""
    ran(plan, ("student",))
    network = plan.student("student").network()
    groups = find(network, plan.roots.data().train[0][:2]).prunable
    edits = []
    for ratio in ratios:
        widths = {g.name: rounded((1 - ratio) * g.channels, g.channels, g.step(plan.channel_multiple)) for g in groups}
        edits.append({"edit": "prune", **cut(groups, {name: list(range(width)) for name, width in widths.items()})})
    rows, failed = race_edited(plan, "student", [[], *([edit] for edit in edits)], "uniform pruning")
    if failed:
        raise UserError(f"an engine is missing: {failed}")
    return {ratio: min(one.latency.share for one in row.values()) for ratio, row in zip(ratios, rows[1:], strict=True)}


def row(bench: Bench, folder: str, speed: float, method: str, seed: int, shares: dict[float, float]) -> Found:
    """Accuracies in percent, the edits that make the student, and what was predicted; or why the latency cannot be kept."""
    found: Found = {"speed": speed, "method": method, "seed": seed}
    try:
        plan = bench.plan(folder, seed, bench.stage(method, 1 / speed, shares))
        ran(plan, ("student", "prune", "judge student", "judge prune"))
    except UserError as error:
        if "cannot" not in error.message:
            raise
        return {**found, "refused": error.message}
    facts, judged = plan.entry("prune").facts, plan.entry("judge prune").facts
    told = facts.get("latency", {})
    return {
        **found,
        "test": 100 * judged["metric"]["test"],
        "validation": 100 * judged["metric"]["validation"],
        "whole": 100 * plan.entry("judge student").facts["metric"]["test"],
        "cut": 100 * facts["pruned"]["validation"],
        "parameters": judged["parameters"],
        **{name: told.get(name) for name in ("allowed", "predicted", "measured")},
        "plans": len(facts.get("plan", {}).get("tried", [])),
        "removed": facts.get("removed", []),
        "groups": facts["groups"],
        "trained_seconds": plan.entry("prune").seconds,
        "edits": plan.student("prune").edits,
    }


def raced(plan: Plan, rows: list[Found], speed: float) -> list[Found]:
    """The rows of one speed, with seconds, speed and bytes of their engines by one race; those alike are one engine."""
    mine = of(rows, speed=speed)
    edits = list({digest.of_json(one["edits"]): one["edits"] for one in mine}.values())
    found, failed = race_edited(plan, "student", [[], *edits], f"encoders at {speed:g}x") if mine else ([], {})
    if failed:
        raise UserError(f"an engine is missing: {failed}")
    told = []
    for one in rows:
        if one in mine:
            (kind, whole), engine = next(iter(found[0].items())), found[1 + edits.index(one["edits"])]
            timed = engine[kind]
            one |= {"seconds": timed.latency.seconds, "times": 1 / timed.latency.share, "bytes": timed.size}
            one |= {"whole_seconds": whole.latency.seconds, "whole_bytes": whole.size}
            told.append({name: value for name, value in one.items() if name != "edits"})
        elif one["speed"] == speed:
            told.append(one)
    return told


def of(rows: list[Found], **fields: Any) -> list[Found]:
    return [one for one in rows if "test" in one and all(one[key] == value for key, value in fields.items())]


def page(found: Found) -> str:
    """The results as Markdown."""
    rows, setting, here = found["rows"], found["setting"], found["machine"]
    done = of(rows)
    lines = ["# An encoder pruned to a latency", ""]
    said = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines.append(
        f"{here['chip']}, {here['cores']} cores, {here['system']}; {said}. MiniLM of {setting['layers']} layers, fine-tuned on "
        f"{setting['reviews'][0]} movie reviews of at most {LENGTH} pieces: {found['teacher']:.1f}% of {setting['reviews'][2]} test "
        f"reviews. float32 on ONNX Runtime, one review at a time, one thread. {setting['gates']} epochs of CoFi's gates and "
        f"{setting['epochs']} of recovery, {setting['gates'] + setting['epochs']} after uniform pruning; seeds "
        f"{', '.join(map(str, setting['seeds']))}; mean ± standard deviation."
    )
    if done:
        whole = done[0]
        lines += ["", f"Whole: {1e3 * whole['whole_seconds']:.2f} ms, {whole['whole_bytes'] / 1e6:.1f} MB."]
    lines += [
        "",
        "| asked for | method | accuracy, % | ms | times as fast | MB | stage, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for speed in setting["speeds"]:
        for method in METHODS:
            mine = of(rows, speed=speed, method=method)
            if not mine:
                why = next(
                    (
                        one["refused"]
                        for one in rows
                        if "refused" in one and one["speed"] == speed and one["method"] == method
                    ),
                    "",
                )
                lines.append(f"| {speed:g}× | {method} | {why or 'not run'} | | | | |")
                continue
            cells = [spread([one["test"] for one in mine], 1), spread([1e3 * one["seconds"] for one in mine])]
            cells += [spread([one["times"] for one in mine]), spread([one["bytes"] / 1e6 for one in mine], 1)]
            lines.append(
                f"| {speed:g}× | {method} | {' | '.join(cells)} | {spread([one['trained_seconds'] for one in mine], 0)} |"
            )
    lines += ["", "CoFi over uniform pruning, points of accuracy by seed, with the 95% interval:", ""]
    for speed in setting["speeds"]:
        base, cofi = of(rows, speed=speed, method="uniform"), of(rows, speed=speed, method="cofi")
        lines.append(f"* {speed:g}×: {shown(gain(cofi, base)) if base and cofi else 'not run'}.")
    off = [abs(one["predicted"] / one["measured"] - 1) for one in of(rows, method="cofi")]
    if off:
        lines += ["", f"Predicted against measured, CoFi's plans: {100 * max(off):.1f}% off at most, of {len(off)}."]
    return "\n".join([*lines, ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--speeds", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--gates", type=int, default=4, help="epochs of CoFi's gates")
    options.add_argument("--epochs", type=int, default=3, help="of recovery")
    options.add_argument("--seconds", type=float, default=1.0, help="that each engine is measured")
    options.add_argument("--minutes", type=float, default=60.0, help="nothing is begun after these")
    options.add_argument("--smoke", action="store_true", help="two layers, 2x, a few reviews; results are printed only")
    args = options.parse_args()
    layers, sizes, ratios, teacher = 6, SIZES, RATIOS, 2
    if args.smoke:
        layers, sizes, ratios, teacher = 2, FEW, [0.25, 0.5, 0.75], 1
        args.speeds, args.seeds, args.gates, args.epochs, args.seconds = [1.5], [0], 2, 1, 0.2
    work, end = WORK / ("smoke" if args.smoke else "full"), time.monotonic() + 60 * args.minutes
    work.mkdir(parents=True, exist_ok=True)
    try:
        if not (work / "reviews.npz").is_file():
            prepare(work, sizes, layers)
    except (PackageNotFoundError, ValueError) as error:
        sys.exit(f"{error}: see benchmarks/pruning_encoder_nets.py")
    bench = Bench(work, layers, args.gates, args.epochs, teacher, args.seconds, ratios)
    taught = bench.taught()
    whole = bench.plan(taught["folder"], 0, {"criterion": "magnitude", "ratio": 0.5})
    shares = uniform(whole, ratios)
    setting = {name: getattr(args, name) for name in ("speeds", "seeds", "gates", "epochs", "seconds")}
    found: Found = {
        "setting": {**setting, "layers": layers, "reviews": sizes},
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime")},
        "teacher": taught["test"],
        "uniform": shares,
        "rows": [],
    }
    left = len(args.speeds) * len(args.seeds) * len(METHODS)
    for speed in args.speeds:
        rows = []
        for seed, method in ((seed, method) for seed in args.seeds for method in METHODS if time.monotonic() < end):
            rows.append(row(bench, taught["folder"], speed, method, seed, shares))
            left -= 1
            said = {name: value for name, value in rows[-1].items() if name not in ("edits", "groups")}
            print(f"{left} are left: {said}", file=sys.stderr, flush=True)
        found["rows"] += raced(whole, rows, speed)
        if not args.smoke:
            publish("pruning_encoder", found, page(found))
    if left:
        print(f"{left} are left: start it again", file=sys.stderr)
    print(page(found))


if __name__ == "__main__":
    main()
