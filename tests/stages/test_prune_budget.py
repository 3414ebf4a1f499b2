"""Pruning under a latency, on a simulated device whose time steps at multiples of 8 channels: all plans can be checked by hand.

The engines are raced in real processes. Their programs hold the narrowed student's weights and nothing else, since that is all
that the device's latency depends on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny import tiny_context, tiny_data, tiny_saved

from edgekd import registry
from edgekd.backend import open_backend, write_json
from edgekd.errors import UserError
from edgekd.latency import race
from edgekd.latency.design import Widths, design
from edgekd.latency.table import Kind, Measured, Pricing, Table, measured_by
from edgekd.latency.turn import Turn, measure_once
from edgekd.pipeline import bench
from edgekd.pipeline.bench import Bench, narrowed, space_of
from edgekd.progress import Progress
from edgekd.pruning.budget import PruneBudget
from edgekd.pruning.groups import Group, find
from edgekd.pruning.scoring import scores
from edgekd.sections import MeasureSection
from edgekd.stages.prune import Prune
from edgekd.student import Student

torch.set_num_threads(1)
KIND = Kind("null", "float32")
DEVICE = {"seconds": 20e-6, "seconds_per_byte": 0.0, "seconds_per_tile": 1e-6}
MACHINE = {"chip": "simulated"}
GROUPS = ("stem.0", "block.conv1", "down.0")
UNIFORM = {"stem.0": 8, "block.conv1": 8, "down.0": 24}
"""At 0.6 of 186 µs, by hand: from 75% of the channels on, where 12 of 16 become 8, it takes 77 µs; above, 167."""


def seconds(plan: Mapping[str, int]) -> float:
    """By hand: stem 1 → s, block s → c → s, down s → d, all 3 × 3; the head d → 4; 8 × 8 channels a tile."""
    s, c, d = (-(-plan[group] // 8) for group in GROUPS)
    return 20e-6 + 1e-6 * (9 * s + 9 * s * c + 9 * c * s + 9 * s * d + d)


def held(plan: Mapping[str, int]) -> int:
    """Bytes by hand: 600, and the float32 weights of the same layers, batch norms with a scale and a shift."""
    s, c, d = (plan[group] for group in GROUPS)
    return 600 + 4 * (9 * s + 9 * s * c + 9 * c * s + 9 * s * d + 2 * (s + c + s + d) + 4 * d + 4)


def write_weights(student: Student, groups: tuple[Group, ...], widths: Widths, precision: str, out: Path) -> None:
    held = [
        numpy_helper.from_array(value.numpy(), name)
        for name, value in narrowed(student, groups, widths).state_dict().items()
    ]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "weights", [], [], held)), out / "model.onnx")
    write_json(out / "program.json", {"precision": precision, "grid": "none"})
    write_json(out / "signature.json", student.signature)


def compile_here(program: Path, out: Path, backend: str, target: Any, threads: int, timeout: float) -> dict[str, Any]:
    return open_backend(backend).compile(program, out, target, threads)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    made = tiny_saved(tmp_path_factory.mktemp("student"), width=16, trained=True)
    signature = made.signature
    for port in (*signature["inputs"], *signature["outputs"]):
        port["shape"][0] = 1
    (made.path / "signature.json").write_text(json.dumps(signature))
    return made


@pytest.fixture(scope="module")
def pricing(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Pricing:
    """The table of all sixteen plans' engines, and a way to measure one more time."""
    groups = find(student.network(), tiny_data().train[0][:2]).prunable
    space = space_of(groups, 8)
    work = tmp_path_factory.mktemp("work")
    brief = MeasureSection(processes=1, seconds=0.05, wait=0)
    made = Bench(
        program=partial(write_weights, student, groups),
        target={"null": DEVICE, "precisions": ["float32"]},
        threads=1,
        measure=brief,
        work=work,
        progress=Progress(quiet=True),
        timeout=60.0,
    )
    plans = design(space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "compile_engine", compile_here)
        raced, failed = made.race(plans, [KIND], "widths")

        def measure(widths: Widths) -> dict[Kind, Measured]:
            found, _ = made.race([space.whole, widths], [KIND], "the plan")
            return {KIND: measured_by(found, KIND, 2)[1]}

        table = Table(space, MACHINE, tuple(plans), {KIND: tuple(measured_by(raced, KIND, len(plans)))}, failed)
        yield Pricing(table, (KIND,), measure)


def pruned(
    folder: Path, student: Student, pricing: Pricing, budget: str | PruneBudget, **fields: Any
) -> tuple[Student, dict[str, Any]]:
    stage = Prune(budget=PruneBudget(budget) if isinstance(budget, str) else budget, epochs=0, samples=32, **fields)
    folder.mkdir()
    context = replace(tiny_context(folder, channel_multiple=8), pricing=lambda: pricing)
    facts = stage.run(student, context, folder)
    json.dumps(facts)
    return Student(folder, student.factory), facts


def best_by_hand(student: Student, budget: float, size: float = 1e9) -> Widths:
    """Of all plans within the budget, the one that retains most magnitude."""
    network = student.network()
    found, _ = scores(
        network, find(network, tiny_data().train[0][:2]).prunable, registry.build("criteria", "magnitude", {}), []
    )
    plans = [dict(zip(GROUPS, drawn, strict=True)) for drawn in itertools.product((8, 16), (8, 16), (8, 16, 24, 32))]

    def kept(plan: Widths) -> float:
        return sum(float(found[group].sort(descending=True).values[:width].sum()) for group, width in plan.items())

    return max((plan for plan in plans if seconds(plan) <= budget and held(plan) <= size), key=kept)


def test_groups_that_meet_are_found_and_every_plan_is_measured_to_the_nanosecond(pricing: Pricing) -> None:
    table = pricing.table
    assert table.space.meets == (("stem.0", "block.conv1"), ("stem.0", "down.0"))
    assert table.space.widths == {"stem.0": (8, 16), "block.conv1": (8, 16), "down.0": (8, 16, 24, 32)}
    assert len(table.plans) == 16
    for plan, row in zip(table.plans, table.rows[KIND], strict=True):
        assert row.seconds == pytest.approx(seconds(plan), rel=1e-6)
        assert row.share == pytest.approx(seconds(plan) / seconds(table.space.whole), rel=1e-6)
    predictor = table.predictor(KIND)
    assert all(predictor.predicted(plan) == pytest.approx(seconds(plan), rel=1e-5) for plan in table.plans)


@pytest.mark.parametrize("latency", ["0.75x", "0.5x", "70 us"])
def test_the_widths_are_the_true_optimum_and_predicted_equals_measured(
    tmp_path: Path, student: Student, pricing: Pricing, latency: str
) -> None:
    whole = seconds(pricing.table.space.whole)
    smaller, facts = pruned(tmp_path / "out", student, pricing, latency, criterion="magnitude")
    budget = 70e-6 if latency == "70 us" else float(latency[:-1]) * whole
    expected = best_by_hand(student, budget)
    assert {name: group["after"] for name, group in facts["groups"].items()} == expected
    told = facts["latency"]
    assert told["allowed"] == pytest.approx(budget, rel=1e-6)
    assert told["measured"] == pytest.approx(seconds(expected), rel=1e-6)
    assert told["predicted"] == pytest.approx(told["measured"], rel=1e-5)
    assert len(facts["plan"]["tried"]) == 1 and facts["plan"]["engine"] == "float32 on null"
    weights = smaller.weights()
    assert [weights[f"{group}.weight"].shape[0] for group in GROUPS] == list(expected.values())
    (edit,) = smaller.edits
    assert edit["ratio"] == pytest.approx(1 - sum(expected.values()) / 64)
    assert smaller.network()(tiny_data().test[0][:2]).shape == (2, 4)


@pytest.fixture(scope="module")
def weighed(pricing: Pricing) -> Pricing:
    """The same table with bytes by hand; a process holds 40 MB, and a hundred times the engine's bytes."""

    def known(row: Measured, plan: Widths) -> Measured:
        return replace(row, bytes=held(plan), memory=40_000_000 + 100 * held(plan))

    table = pricing.table
    rows = tuple(known(row, plan) for row, plan in zip(table.rows[KIND], table.plans, strict=True))
    measure = pricing.measure
    return Pricing(replace(table, rows={KIND: rows}), (KIND,), lambda plan: {KIND: known(measure(plan)[KIND], plan)})


@pytest.mark.parametrize(("latency", "size"), [("0.75x", "0.5x"), (None, "0.5x"), ("0.9x", "30 kB")])
def test_latency_and_size_are_kept_together_by_the_true_optimum(
    tmp_path: Path, student: Student, weighed: Pricing, latency: str | None, size: str
) -> None:
    whole = weighed.table.space.whole
    _, facts = pruned(tmp_path / "out", student, weighed, PruneBudget(latency, size), criterion="magnitude")
    most = float(latency[:-1]) * seconds(whole) if latency else 1.0
    expected = best_by_hand(student, most, 30_000 if size == "30 kB" else 0.5 * held(whole))
    assert {name: group["after"] for name, group in facts["groups"].items()} == expected
    assert facts["size"]["measured"] == held(expected) <= facts["size"]["allowed"]
    assert facts["size"]["predicted"] == pytest.approx(held(expected), rel=1e-3)
    assert ("latency" in facts) == bool(latency)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (PruneBudget("0.9x", "1 kB"), r"budget.size 1 kB cannot be met: the least size to be reached is 8\.20 kB"),
        (
            PruneBudget(memory="0.5x"),
            r"budget.memory 0.5x cannot be met: .* is 40\.8 MB \(0\.93x\), where the metric is 0\.",
        ),
        (PruneBudget(size="1 MB", memory="1 GB"), "takes 39.2 kB and 43.9 MB: a budget of 1 MB, 1 GB asks for nothing"),
    ],
)
def test_a_size_or_memory_that_cannot_be_met_says_the_least(
    tmp_path: Path, student: Student, weighed: Pricing, budget: PruneBudget, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pruned(tmp_path / "out", student, weighed, budget, criterion="magnitude")


@pytest.mark.parametrize("allocation", ["macs", "uniform"])
def test_other_allocations_keep_the_same_budget_and_retain_no_more(
    tmp_path: Path, student: Student, pricing: Pricing, allocation: str
) -> None:
    given = {"criterion": "magnitude", "allocation": allocation}
    _, facts = pruned(tmp_path / "other", student, pricing, "0.6x", **given)
    _, best = pruned(tmp_path / "best", student, pricing, "0.6x", criterion="magnitude")
    assert (
        facts["latency"]["measured"] <= 1.0001 * facts["latency"]["allowed"]
        and facts["plan"]["allocation"] == allocation
    )
    assert facts["plan"]["retained"] <= best["plan"]["retained"] + 1e-9
    if allocation == "uniform":
        assert {name: group["after"] for name, group in facts["groups"].items()} == UNIFORM


def test_a_group_whose_narrowing_buys_nothing_stays_whole(tmp_path: Path, student: Student, pricing: Pricing) -> None:
    """The same table, but wherever the inner convolution alone is narrow, it measured as slow as the whole."""
    table = pricing.table
    whole, rows = table.space.whole, list(table.rows[KIND])
    rows[table.plans.index({**whole, "block.conv1": 8})] = replace(rows[0], low=0.98, high=1.02)
    idle = Pricing(replace(table, rows={KIND: tuple(rows)}), (KIND,), pricing.measure)
    _, facts = pruned(tmp_path / "out", student, idle, "0.6x", criterion="magnitude")
    assert "block.conv1" not in facts["groups"]
    assert "buys no measured time: 1.000 (0.980 to 1.020) of the whole at 8" in facts["whole"]["block.conv1"]
    assert facts["latency"]["measured"] <= 0.6 * 1.05 * facts["latency"]["whole"]


def test_a_budget_below_the_least_latency_says_it_and_the_metric_there(
    tmp_path: Path, student: Student, pricing: Pricing
) -> None:
    with pytest.raises(
        UserError,
        match=r"budget.latency 10 us cannot be met: the least .* 57.0 µs \(0.31x\), where the metric is 0\.\d+",
    ) as caught:
        pruned(tmp_path / "out", student, pricing, "10 us", criterion="magnitude")
    assert seconds(pricing.table.space.least) == pytest.approx(57e-6)
    assert "channel_multiple" in caught.value.hint


def test_a_budget_that_the_whole_student_keeps_is_an_error(tmp_path: Path, student: Student, pricing: Pricing) -> None:
    with pytest.raises(UserError, match=r"takes 186 µs: a budget of 1 s asks for nothing"):
        pruned(tmp_path / "out", student, pricing, "1 s")
    assert seconds(pricing.table.space.whole) == pytest.approx(186e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": {"latency": "0 ms"}}, 'budget.latency: "0 ms" is not more than zero'),
        ({"budget": {"latency": "-1 ms"}}, 'budget.latency: "-1 ms" is not a quantity in'),
        ({"budget": {"latency": "3 kB"}}, 'budget.latency: "3 kB" is not a quantity in'),
        ({"budget": {"latency": "0x"}}, 'budget.latency: "0x" is not above "0x"'),
        ({"budget": {"latency": "1.5x"}}, 'budget.latency: "1.5x" is not above "0x" and below "1x"'),
        ({"budget": {"latency": "-0.5x"}}, 'budget.latency: "-0.5x" is not above'),
        ({"budget": {"latency": 0.5}}, "budget.latency: Input should be a valid string"),
        ({"budget": {"latency": "0.5x", "sise": "1 kB"}}, "budget.sise: "),
        ({"budget": {}}, "budget: none of latency, size, memory is given"),
        ({"budget": {"size": "3 ms"}}, 'budget.size: "3 ms" is not a quantity in'),
        ({"budget": {"memory": "1x"}}, 'budget.memory: "1x" is not above "0x" and below "1x"'),
        ({"ratio": 0.3, "allocation": "macs"}, "allocation: it is of a budget"),
        ({"budget": {"latency": "0.5x"}, "allocation": "flops"}, "allocation: Input should be "),
        ({"budget": {"latency": "0.5x"}, "ratio": 0.3}, "ratio: give it or `budget`; both are given"),
    ],
)
def test_wrong_budgets_are_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "prune", fields)
    assert message in caught.value.message


def test_a_table_says_whether_it_is_of_this_machine_and_reads_back_the_same(pricing: Pricing, tmp_path: Path) -> None:
    pricing.table.check({"chip": "simulated"}, "edgekd table r.toml")
    with pytest.raises(UserError, match="measured on another machine: chip 'simulated', here 'Cortex-A76'") as caught:
        pricing.table.check({"chip": "Cortex-A76"}, "edgekd table r.toml --fresh")
    assert caught.value.hint == "measure it again: edgekd table r.toml --fresh"
    path = tmp_path / "table.json"
    path.write_text(json.dumps(pricing.table.to_json()))
    assert Table.read(path).to_json() == pricing.table.to_json()
    path.write_text(json.dumps({**pricing.table.to_json(), "format": 9}))
    with pytest.raises(UserError, match="a latency table of format 9"):
        Table.read(path)
    path.write_text(json.dumps({**pricing.table.to_json(), "kinds": [{}]}))
    with pytest.raises(UserError, match="is not a latency table"):
        Table.read(path)


def test_engines_are_compiled_once_each(
    pricing: Pricing, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled before a kill is not compiled again; what fails leaves nothing behind."""
    monkeypatch.setattr(bench, "compile_engine", compile_here)
    written: list[Widths] = []

    def program(widths: Widths, precision: str, out: Path) -> None:
        written.append(widths)
        write_weights(student, (), {}, precision, out)
        if len(written) == 1:
            raise KeyboardInterrupt

    made = Bench(program, {"null": DEVICE}, 1, MeasureSection(), tmp_path, Progress(quiet=True), 60.0)
    with pytest.raises(KeyboardInterrupt):
        made.engine({"a": 8}, KIND)
    assert list(tmp_path.iterdir()) == []
    assert made.engine({"a": 8}, KIND) == made.engine({"a": 8}, KIND)
    assert len(written) == 2


def test_a_race_that_was_killed_goes_on_with_the_processes_that_are_left(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "compile_engine", compile_here)
    measured: list[int] = []

    def once(engines: Mapping[str, Path], process: int, **terms: Any) -> Turn:
        measured.append(process)
        if measured == [0, 1]:
            raise KeyboardInterrupt
        return measure_once(engines, process, **terms)

    monkeypatch.setattr(race, "measure_once", once)
    brief = MeasureSection(processes=2, seconds=0.05, wait=0)
    program = partial(write_weights, student, ())
    made = Bench(program, {"null": DEVICE}, 1, brief, tmp_path, Progress(quiet=True), 60.0)
    with pytest.raises(KeyboardInterrupt):
        made.race([{}], [KIND], "one")
    found, _ = made.race([{}], [KIND], "one")
    assert measured == [0, 1, 1] and len(found.runners["0 float32 on null"].warm_up) == 2
