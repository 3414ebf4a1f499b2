"""A report as a run of the fashion example could give it, with raw samples to match. Figures are plausible, not measured."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np

from edgekd.report.preview import grid

FLOAT = "prune on onnxruntime"
INT8 = "quantize on onnxruntime"
TEACHER = "teacher on onnxruntime"


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def latency(median: float, spread: float = 0.01) -> dict[str, Any]:
    low, high = median * (1 - spread), median * (1 + spread)
    p90 = median * 1.09
    return {
        "median": median, "low": low, "high": high, "p90": p90, "p90_low": p90 * 0.99, "p90_high": p90 * 1.02,
        "p99": median * 1.4, "count": 7200,
    }  # fmt: skip


def ratio(point: float, spread: float = 0.03) -> dict[str, float]:
    return {"point": point, "low": point * (1 - spread), "high": point * (1 + spread)}


def row(name: str, version: str, runs_in: str, right: int, **more: Any) -> dict[str, Any]:
    return {
        "row": name,
        "version": version,
        "runs_in": runs_in,
        "metric": right / 2800,
        "metric_validation": 0.93,
        **more,
    }


def agreement(top1: float, kl: float) -> dict[str, float]:
    return {"top1": top1, "kl": kl}


def candidate(
    name: str, precision: str, size: int, median: float, right: int, validation: float, **more: Any
) -> dict[str, Any]:
    return {
        "name": name, "version": name.split(" ")[0], "backend": name.split(" ")[-1], "precision": precision,
        "grid": "affine" if precision == "int8" else "none", "float_engine": None, "bytes": size,
        "latency": latency(median), "versus_float": None, "versus_teacher": ratio(median / 1.93e-3),
        "metric": right / 2800, "metric_validation": validation, "agreement": agreement(0.958, 0.041),
        "parity": {"top1": 1.0, "steps": 0.5}, "integer_nodes": 0, "float_nodes": 24, "cold_start": 0.031,
        "compile_seconds": 1.1, "peak_memory": 61_300_000, **more,
    }  # fmt: skip


def sample() -> dict[str, Any]:
    """One target, seven candidates: a choice, a teacher, slower floats, an integer engine slower than float, a failure."""
    student = {"parameters": 78_122, "macs": 11_310_000, "bytes": 316_400}
    pruned = {"parameters": 47_930, "macs": 6_820_000, "bytes": 195_200}
    ledger = [
        row("teacher", "teacher", "torch", 2638, parameters=371_018, macs=96_400_000, bytes=1_490_000,
            latency=latency(1.93e-3), note="latency on onnxruntime"),
        row("float student", "student", "torch", 281, agreement=agreement(0.101, 2.31), **student, note="as given, untrained"),
        row("distilled", "distill", "torch", 2605, agreement=agreement(0.968, 0.0301), **student,
            flips={"better": 2390, "worse": 66}, latency=latency(3.02e-4), note="latency on onnxruntime"),
        row("pruned", "prune", "torch", 2598, agreement=agreement(0.962, 0.0362), **pruned,
            flips={"better": 31, "worse": 38}, latency=latency(2.14e-4), note="latency on onnxruntime"),
        row("fake-quantized", "quantize", "torch", 2587, agreement=agreement(0.958, 0.0410), parameters=47_930,
            macs=6_820_000, flips={"better": 9, "worse": 20}),
        row("exported", "quantize", "torch", 2587, agreement=agreement(0.958, 0.0410), parameters=47_930,
            macs=6_820_000, flips={"better": 0, "worse": 0}),
        row("compiled", "quantize", "onnxruntime", 2588, agreement=agreement(0.958, 0.0411), parameters=47_930,
            macs=6_820_000, bytes=66_900, latency=latency(1.31e-4), flips={"better": 1, "worse": 0}),
    ]  # fmt: skip
    candidates = [
        candidate(TEACHER, "float32", 1_490_000, 1.93e-3, 2638, 0.944, agreement=agreement(1.0, 0.0), versus_teacher=None,
                  verdict="reference", reason="the teacher, to compare with"),
        candidate("distill on onnxruntime", "float32", 318_000, 3.02e-4, 2605, 0.936, verdict="rejected",
                  reason="size 318 kB, limit 200 kB"),
        candidate(FLOAT, "float32", 197_000, 2.14e-4, 2598, 0.933, verdict="kept",
                  reason="keeps the budget, 1.63× slower than the chosen one (1.58–1.68)"),
        candidate(INT8, "int8", 66_900, 1.31e-4, 2588, 0.929, verdict="chosen", float_engine=FLOAT,
                  versus_float=ratio(0.612), parity={"top1": 0.9996, "steps": 1.0}, integer_nodes=21, float_nodes=3,
                  delegated_share=0.875, note="on portable kernels: 1 × aten.amax.default",
                  reason="the fastest, median 131 µs"),
        candidate("prune on openvino", "float32", 231_000, 2.95e-4, 2598, 0.933, verdict="rejected",
                  reason="size 231 kB, limit 200 kB"),
        candidate("quantize on openvino", "int8", 129_000, 3.31e-4, 2586, 0.929, verdict="rejected",
                  float_engine="prune on openvino", versus_float=ratio(1.12), parity={"top1": 0.9989, "steps": 2.0},
                  integer_nodes=19, float_nodes=6,
                  reason="int8 is not faster than float on openvino: 1.12× slower (1.09–1.15)"),
        {"name": "quantize on tvm", "version": "quantize", "backend": "tvm", "precision": "int8", "verdict": "failed",
         "reason": "compiling: QLinearConv with per-channel zero points is not implemented in this importer"},
    ]  # fmt: skip
    steps = [
        ("student", "build the student", 0.4, False, ["data"]),
        ("distill", "train the student on the teacher, 12 epochs", 118.2, False, ["data", "teacher"]),
        ("prune", "remove 30% of the channels, recover 2 epochs", 31.7, True, ["data", "teacher", "target"]),
        (
            "quantize",
            "calibrate on 512 samples, fine-tune 2 epochs",
            44.9,
            False,
            ["data", "teacher", "calibration", "target"],
        ),
        ("export quantize", "write the program as ONNX", 7.3, False, []),
        ("compile quantize on onnxruntime", "optimise for this processor", 1.1, False, ["target"]),
        ("race on host", "time 6 engines in 3 processes", 13.8, False, ["target"]),
    ]
    return {
        "schema": 1,
        "edgekd": "0.1.0",
        "name": "fashion",
        "seed": 0,
        "metric": {"name": "accuracy", "reference": "distill"},
        "splits": {"train": 9000, "validation": 1000, "test": 2800},
        "budget": {"metric_drop": 0.01, "latency_p90": 5e-4, "size": 200_000},
        "ledger": ledger,
        "first_loss": {
            "row": "fake-quantized", "lost": 11 / 2800, "share": 0.0025, "standard_error": 0.00192, "within_noise": False,
            "text": '"fake-quantized" lost 0.39 points (92.79% → 92.39%); its share of the allowed 1.00 point is 0.25 points. '
            "The loss is sure to ±0.38 points (95%): the loss is beyond noise, but not surely more than the share.",
        },
        "targets": [
            {
                "name": "host", "chip": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "threads": 1,
                "candidates": candidates, "chosen": INT8, "nearest": None,
                "reason": f"{INT8} is the fastest, median 131 µs, keeping the budget (accuracy drop ≤ "
                "1.00 point, latency p90 ≤ 500 µs, size ≤ 200 kB); not quantize on openvino: int8 is not faster than float on "
                "openvino: 1.12× slower (1.09–1.15).",
                "race": {"processes": 3, "rounds": 40, "busy": 0.03, "notes": []},
                "samples_file": "samples-host.json",
            }
        ],
        "calibration": [
            {
                "version": "quantize", "recipe": "zero-shot", "source": "bn_statistics", "synthetic": True, "count": 512,
                "seed": 0, "shape": [1, 28, 28], "options": {"steps": 120, "lr": 0.4}, "observer": "mse", "seconds": 38.2,
                "notes": [], "preview": "calibration-quantize.png",
            }
        ],
        "search": [
            {
                "version": "search", "kind": "student", "budget": "0.5x", "allowed": 4.1e-4, "found": "found.toml",
                "tried": [
                    {"what": "width = 24, depth = 3", "score": -0.0213, "latency": 8.2e-4, "low": 8.1e-4, "high": 8.3e-4,
                     "engine": "float32 on onnxruntime", "parameters": 78123, "verdict": "too slow"},
                    {"what": "width = 16, depth = 2", "score": -0.0241, "latency": 3.9e-4, "low": 3.85e-4, "high": 3.99e-4,
                     "engine": "float32 on onnxruntime", "parameters": 31200, "epochs": 2, "validation": 0.921,
                     "verdict": "chosen"},
                    {"what": "width = 8, depth = 3", "score": -0.0302, "latency": 2.7e-4, "low": 2.6e-4, "high": 2.8e-4,
                     "engine": "float32 on openvino", "parameters": 12000, "epochs": 2, "validation": 0.907, "verdict": "trained"},
                    {"what": "width = 8, depth = 1", "score": -0.051, "latency": 1.1e-4, "low": 1.05e-4, "high": 1.2e-4,
                     "engine": "float32 on onnxruntime", "parameters": 4100, "verdict": "kept"},
                    {"what": "width = 7, depth = 3", "verdict": "failed", "reason": "ValueError: width must be a multiple of 8"},
                ],
            },
            {
                "version": "distill", "kind": "losses", "budget": "60 epochs", "found": "found.toml",
                "tried": [
                    {"what": '{ use = "cross_entropy", weight = 0.5 }, { use = "kl", temperature = 4.0, weight = 0.5 }', "epochs": 12,
                     "validation": 0.931, "verdict": "stopped"},
                    {"what": '{ use = "dist", temperature = 2.0, weight = 1.0 }', "epochs": 12, "validation": 0.934,
                     "verdict": "chosen"},
                ],
            },
        ],
        "pruned": [
            {
                "version": "prune", "engine": "float32 on onnxruntime", "plans": 2,
                "limits": [
                    {"quantity": "latency", "budget": "0.5x", "allowed": 4.1e-4, "whole": 8.2e-4, "predicted": 4.0e-4,
                     "measured": 3.92e-4, "error": 0.011, "largest": 0.043},
                    {"quantity": "size", "budget": "200 kB", "allowed": 2e5, "whole": 3.2e5, "predicted": 1.9e5,
                     "measured": 1.91e5, "error": 0.002, "largest": 0.008},
                ],
            }
        ],
        "sensitivity": [
            {
                "version": "quantize", "measure": "KL", "samples": 64,
                "layers": [
                    {"layer": "stem.0", "loss": 0.00213, "bits": 8},
                    {"layer": "body.0.conv1", "loss": 0.0187, "bits": 32, "cost": ratio(1.06, 0.01)},
                    {"layer": "body.0.conv2", "loss": 0.00054, "bits": 8},
                    {"layer": "body.1.conv1", "loss": 0.00081, "bits": 4, "bytes": 1234},
                    {"layer": "head", "loss": 1.2e-06, "bits": 8},
                ],
                "control": {
                    "allowed": 0.005, "expected": 0.936, "before": 0.921, "after": 0.934, "tried": 4,
                    "reverted": ["body.0.conv1"], "backend": "onnxruntime",
                },
                "plan": {"budget": 60_000, "bytes": 58_900, "least": 21_000, "most": 84_000, "loss": 0.021},
            }
        ],
        "plan": [
            {"step": step, "label": label, "key": key(step), "seconds": seconds, "cached": cached, "reads": reads}
            for step, label, seconds, cached, reads in steps
        ],
        "provenance": {
            "machine": {"chip": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "cores": 2, "system": "Linux x86_64",
                        "python": "3.11.7"},
            "versions": {"edgekd": "0.1.0", "torch": "2.13.0", "torchao": "0.18.0", "onnx": "1.23.2", "onnxruntime": "1.31.1",
                         "numpy": "2.4.6"},
            "digests": {"recipe": key("recipe"), "data": key("data"), "teacher": key("weights")},
            "made": "2026-11-22T03:13:09+00:00",
        },
    }  # fmt: skip


def samples(report: dict[str, Any] | None = None) -> dict[str, list[float]]:
    """Raw samples for every candidate that was measured: a body, a skewed tail, a second mode, some far outliers."""
    generator = random.Random(0)
    found = {}
    for target in (report or sample())["targets"]:
        for one in target["candidates"]:
            if one.get("latency"):
                median = one["latency"]["median"]
                body = [median * (0.985 + generator.gammavariate(2.0, 0.012)) for _ in range(2400)]
                body += [median * generator.gauss(1.12, 0.02) for _ in range(260)]
                found[one["name"]] = body + [median * generator.uniform(1.5, 9.0) for _ in range(14)]
    return found


def previews() -> dict[str, bytes]:
    """The picture that the report names: 64 grey images with a gradient across each."""
    ramp = np.linspace(-1, 1, 28)[:, None] * np.linspace(-1, 1, 28)
    made = grid(np.stack([ramp * (1 - i / 32) for i in range(64)])[:, None], {"mean": [0.5], "std": [0.5]})
    assert made is not None
    return {"calibration-quantize.png": made}


def odd() -> dict[str, Any]:
    """A report that is hard to draw: no choice, no budget but one, hostile and long names, a metric of the user's, two targets."""
    report = sample()
    report["name"] = '<script>alert("x")</script> | *b* `c`'
    report["metric"] = {"name": "metrics:f1", "reference": "distill"}
    report["budget"] = {"metric_drop": None, "latency_p90": None, "size": 10_000}
    report["first_loss"] = None
    shown = report["calibration"][0]
    shown.update(recipe="<i>mine</i>.toml", source="images", synthetic=False, count=1, notes=["a single <b>input</b>"])
    for one in report["search"][0]["tried"]:
        one["what"] = f"kind = '<b>{'very long and ' * 9}wide|', {one['what']}"
    report["pruned"][0]["engine"] = "float32 on <b>mine</b>"
    layers = [
        {"layer": f"<b>layer</b> {i} with a name of quite some length", "loss": 1e-3 / (i + 1), "bits": 8}
        for i in range(40)
    ]
    report["sensitivity"][0].update(layers=layers, control=None, plan=None, measure="squared error")
    target = report["targets"][0]
    target.update(
        chosen=None, nearest=INT8, reason="No engine keeps the budget. size ≤ 10.0 kB: the least is <b>66.9 kB</b>."
    )
    for one in target["candidates"]:
        one["verdict"] = "failed" if one["verdict"] == "failed" else "rejected"
    crowd = [
        candidate(f"variant-{i} on a-backend-with-a-name-of-quite-some-length", "int8" if i % 2 else "float32",
                  60_000 + 9000 * i, 1.3e-4 * (1 + i % 5 / 100), 2580 + i % 4, 0.93)
        for i in range(14)
    ]  # fmt: skip
    second = {
        **target,
        "name": "rack & <board>",
        "candidates": crowd,
        "nearest": crowd[0]["name"],
        "race": None,
        "samples_file": None,
    }
    report["targets"] = [target, second]
    return report
