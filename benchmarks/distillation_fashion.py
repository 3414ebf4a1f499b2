"""Fashion-MNIST for benchmarks/distillation.py: every loss screened, the best tuned, then with all seeds; and losses = "auto".

Short trainings see 10,000 images, the final ones 55,000; each image twice, so that `epochs` here are two passes. The epoch and the
setting are chosen on 5,000 validation images; the test split is read for what is trained with all seeds only.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from distillation_losses import CONTROL, FAR, LEFT_OUT, LOSSES, Losses, lighter, screened, tuned
from distillation_recipe import CE, EXAMPLE, LONG_LR, SHORT_LR, Found, Row, Setting, grouped, made, several, told
from paired import gain, shown, spread

STUDENTS = {"5 k": 5, "20 k": 10, "80 k": 21}
"""About as many parameters → the width of the example's student."""
MIDDLE = STUDENTS["20 k"]
BORN = {
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "epochs": 2,
    "losses": [CE, {"use": "kl", "temperature": 4.0}],
}
"""How the example's teacher is trained on for the committee: restarts at a high rate give members that differ (Huang et al. 2017, arXiv
1704.00109)."""


def student(setting: Setting, width: int = MIDDLE) -> Found:
    return {"factory": "fashion:student", "width": 4 if setting.smoke else width}


def short(setting: Setting, name: str, losses: Losses | str, seed: int = 0, judged: bool = False, **more: Any) -> Row:
    """The student of the middle, trained for a short time on 10,000 images."""
    stage = {"losses": losses, "epochs": setting.epochs, "lr": SHORT_LR, "warmup_epochs": 0.2, **more}
    return Row(name, student(setting), setting.data(), stage, seed, judged=judged)


def screen(setting: Setting) -> Found:
    """{"rows": {loss: its run with the first seed}, "refused": {loss: why}}."""
    names = ["cross_entropy", *(setting.only or LOSSES)]
    found = several(setting, [short(setting, name, screened(name)) for name in names])
    by_name = dict(zip(names, found, strict=True))
    rows = {name: told(one) for name, one in by_name.items() if "refused" not in one}
    return {"rows": rows, "refused": {name: one["refused"] for name, one in by_name.items() if "refused" in one}}


def tune(setting: Setting) -> Found:
    """{loss: {setting: its run, with its losses}} of the best of the screen, of kl, which everyone knows, and of what fell far below."""
    found = screen(setting)["rows"]
    best = sorted((n for n in found if n not in ("cross_entropy", CONTROL)), key=lambda n: -found[n]["validation"])
    names = [n for n in best if n in best[: setting.tuned] or n == "kl"]
    settings = [(n, said, losses) for n in names for said, losses in tuned(n).items()]
    least = found["cross_entropy"]["validation"] - FAR
    far = [n for n in best if found[n]["validation"] < least and n not in names]
    settings += [(n, said, losses) for n in far for said, losses in lighter(n).items()]
    runs = several(setting, [short(setting, f"{name}, {said}", losses) for name, said, losses in settings])
    rows: Found = {}
    for (name, said, losses), run in zip(settings, runs, strict=True):
        if "refused" not in run:
            rows.setdefault(name, {})[said] = {**told(run), "losses": losses}
    return rows


def chosen(setting: Setting) -> list[tuple[str, str, Losses]]:
    """(loss, setting, losses) of the best, in their best settings, best first: chosen on validation."""
    best = []
    for name, rows in tune(setting).items():
        said = max(rows, key=lambda one: rows[one]["validation"])
        best.append((rows[said]["validation"], name, said, rows[said]["losses"]))
    return [(name, said, losses) for _, name, said, losses in sorted(best, key=lambda one: -one[0])[: setting.best]]


def committee(setting: Setting) -> Found:
    """The [teacher] of the final part: the example's, and as many trained on from it as the setting says, trained once and kept."""
    from safetensors.torch import load_file, save_file

    file = setting.work / f"committee-{setting.members}.safetensors"
    if not file.is_file():
        data = setting.data(full=True, copies=4)
        begun = Path(EXAMPLE["weights"])
        rows = [
            Row(f"member {seed}", EXAMPLE, data, BORN, seed, judged=False) for seed in range(1, setting.members + 1)
        ]
        folders = [Path(one["folder"]) for one in several(setting, rows)]
        held = [load_file(path) for path in (begun, *(folder / "weights.safetensors" for folder in folders))]
        named = {f"members.{i}.{k}": v for i, tensors in enumerate(held) for k, v in tensors.items()}
        whole = {k: v.float() if v.is_floating_point() else v for k, v in named.items()}
        part = file.with_suffix(".part")
        save_file(whole, part)
        part.replace(file)
    return {"factory": "distillation_nets:committee", "of": setting.members + 1, "weights": str(file)}


def final(setting: Setting) -> Found:
    """{"students": {size: {loss: runs}}, "settings": {loss: what was chosen}, "teacher": its test accuracy}."""
    teacher, best = committee(setting), chosen(setting)
    arms = {"cross_entropy": [CE], **{name: losses for name, _, losses in best}}
    students = {}
    for size, width in list(STUDENTS.items())[: 1 if setting.smoke else None]:
        rows = [
            Row(
                name,
                student(setting, width),
                setting.data(full=True),
                {"losses": losses, "epochs": setting.full_epochs, "lr": LONG_LR, "warmup_epochs": 0.2},
                seed,
                teacher,
            )
            for seed in setting.seeds
            for name, losses in arms.items()
        ]
        students[size] = grouped(setting, rows)
    return {
        "students": students,
        "settings": {name: {"setting": said, "losses": losses} for name, said, losses in best},
        "teacher": next(iter(students.values()))["cross_entropy"][0]["teacher"],
    }


def auto(setting: Setting) -> Found:
    """{"by hand", "found": runs with all seeds, "hand", "losses": what they are, "tried", "spent"}."""
    name, said, losses = chosen(setting)[0]
    budget = {"epochs": setting.budget, **({"among": ["cross_entropy", "kl"]} if setting.smoke else {})}
    searched = made(setting.work, short(setting, "auto", "auto", budget=budget))
    if "refused" in searched:
        return {"why": searched["refused"]}
    tried = searched["auto"]
    arms = {"by hand": losses, "found": tried["losses"]}
    rows = [short(setting, arm, arms[arm], seed, judged=True) for seed in setting.seeds for arm in arms]
    return {
        **grouped(setting, rows),
        "hand": f"{name}, {said}",
        "losses": tried["losses"],
        "tried": len(tried["tried"]),
        "spent": tried["spent"],
    }


def screen_page(found: Found, setting: Found) -> list[str]:
    """The screen as Markdown."""
    rows = found["rows"]
    base = rows["cross_entropy"]["validation"]
    lines = [
        "## The screen",
        "",
        (
            f"Each loss beside cross-entropy, in one setting; the student of about 20 k parameters, {2 * setting['epochs']} "
            f"passes of 10,000 images at a learning rate of {setting['short_lr']:g} (cross-entropy's best of four, and the largest of "
            "them), one seed; validation accuracy. The standard error of such a figure is about 0.4 points: neighbours are no order."
        ),
        "",
        "| loss | validation, % | over cross-entropy | seconds |",
        "|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["validation"]):
        control = " (a control)" if name == CONTROL else ""
        over = "" if name == "cross_entropy" else f"{row['validation'] - base:+.2f}"
        lines.append(f"| {name}{control} | {row['validation']:.2f} | {over} | {row['seconds']:.0f} |")
    below = [name for name, row in rows.items() if row["validation"] < base]
    left = {**LEFT_OUT, **found["refused"]}
    lines += ["", f"Below cross-entropy in this setting: {', '.join(sorted(below)) or 'none'}.", ""]
    return [*lines, "Left out: " + "; ".join(f"{name}: {why}" for name, why in left.items()) + ".", ""]


def tune_page(found: Found, _setting: Found) -> list[str]:
    """What was tried of the best, as Markdown."""
    lines = ["## Tuned on validation", "", "| loss | tried: validation, % |", "|---|---|"]
    for name, rows in found.items():
        best = max(row["validation"] for row in rows.values())
        cells = [
            f"**{said} {row['validation']:.2f}**" if row["validation"] == best else f"{said} {row['validation']:.2f}"
            for said, row in rows.items()
        ]
        lines.append(f"| {name} | {' · '.join(cells)} |")
    return [*lines, ""]


def final_page(found: Found, setting: Found) -> tuple[list[str], list[str]]:
    """(the final table, rows of bars) as Markdown."""
    settings = ", ".join(f"{name} ({one['setting']})" for name, one in found["settings"].items())
    lines = [
        "## All seeds, the whole set",
        "",
        (
            f"{2 * setting['full_epochs']} passes of 55,000 images at a learning rate of {setting['long_lr']:g}, seeds "
            f"{', '.join(map(str, setting['seeds']))}; mean ± standard "
            "deviation of test accuracy in percent, and what it is over cross-entropy with the same seed (95% interval, Student's t, not "
            f"corrected for their number). Settings, chosen on validation: {settings}."
        ),
        "",
    ]
    won = []
    for size, arms in found["students"].items():
        base = arms["cross_entropy"]
        lines += [f"| {size} ({base[0]['parameters']:,} parameters) | validation | test | test, over cross-entropy |"]
        lines += ["|---|---|---|---|"]
        for name, runs in arms.items():
            over = "" if name == "cross_entropy" else shown(gain(runs, base))
            test, validation = (spread([run[split] for run in runs]) for split in ("test", "validation"))
            lines.append(f"| {name} | {validation} | {test} | {over} |")
        lines.append("")
        best = max(
            (n for n in arms if n != "cross_entropy"), key=lambda n: statistics.mean(r["validation"] for r in arms[n])
        )
        over = gain(arms[best], base)
        won.append((size, best, over))
    good = sum(over[1] > 0 for _, _, over in won)
    told_of = "; ".join(f"{size}: {best} {shown(over)}" for size, best, over in won)
    if found["teacher"] < 94.5:
        lines += [
            (
                "The teacher misses its bar: its members begin as one network and were trained on for eight passes each, which is what "
                "two cores allow in half an hour; `--members` takes more of them."
            ),
            "",
        ]
    for size, best, (mean, low, _) in won:
        if low <= 0:
            lines += [
                (
                    f"At {size}, {best}, the best on validation, is {mean:+.2f} points from cross-entropy, which these seeds do not "
                    "tell from nothing."
                ),
                "",
            ]
    return lines, [
        f"| teacher, test accuracy | at least 94.5% | {found['teacher']:.2f}% | {_met(found['teacher'] >= 94.5)} |",
        f"| best by validation over cross-entropy, test | above 0 for 2 of 3 sizes | {told_of} | {_met(good >= 2)} |",
    ]


def auto_page(found: Found, _setting: Found) -> tuple[list[str], list[str]]:
    """(what the search found, its bar) as Markdown."""
    if "why" in found:
        return [f'losses = "auto": not run. {found["why"]}', ""], []
    ours, hand = ([run["test"] for run in found[name]] for name in ("found", "by hand"))
    least = statistics.mean(hand) - (statistics.stdev(hand) if len(hand) > 1 else 0.0)
    losses = ", ".join(" ".join(f"{key} {value}" for key, value in one.items()) for one in found["losses"])
    lines = [
        '## losses = "auto"',
        "",
        (
            f"{found['tried']} sets of losses tried in {found['spent']} epochs, on the split of the screen; found: {losses}. By hand: "
            f"{found['hand']}. Both then with {len(ours)} seeds, test accuracy: found {spread(ours)}%, by hand {spread(hand)}%."
        ),
        "",
    ]
    met = _met(statistics.mean(ours) >= least)
    return lines, [
        f'| losses = "auto", test | at least {least:.2f}%, the best by hand − sd | {spread(ours)}% | {met} |'
    ]


def _met(yes: bool) -> str:
    return "met" if yes else "**missed**"
