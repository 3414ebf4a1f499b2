"""Checks on a Ray cluster of two machines, here both this one, each with a device of its own.

Ray is 70 MB and its cluster takes half a minute to begin, so this runs where asked for: pip install 'edgekd[ray]', then
EDGEKD_TEST_RAY=1 python -m pytest tests/test_farm.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from check.bundles import made
from devices.boards import by_env
from pipeline.test_variants import RECIPE
from project import edgekd, new_project

from edgekd import api, farm
from edgekd.check.gate import Asked
from edgekd.errors import EdgekdError, UserError
from edgekd.pipeline import variants
from edgekd.progress import Progress

QUIET = Progress(quiet=True)
WANTED = "pip install 'edgekd[ray]', then EDGEKD_TEST_RAY=1 python -m pytest tests/test_farm.py"
asked_for = pytest.mark.skipif(not os.environ.get("EDGEKD_TEST_RAY"), reason=WANTED)


def test_without_ray_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed") as caught:
        farm.checked("127.0.0.1:6379", [Asked(tmp_path, tmp_path)], QUIET)
    assert caught.value.hint == "pip install 'edgekd[ray]'"


def test_an_address_where_nobody_listens_is_said_at_once() -> None:
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:1: Connection refused") as caught:
        farm._listens("127.0.0.1:1")
    assert "ray start --head" in caught.value.hint
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:99999"):
        farm._listens("127.0.0.1:99999")
    farm._listens("auto")
    farm._listens("ray://127.0.0.1:1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A head without devices, and two machines, each a device of its own and one that is called host; its address."""
    assert find_spec("ray"), WANTED
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        for name in ("one", "two"):
            made.add_node(resources={f"device:{name}": 1, "device:host": 1}, **small)
        yield made.address
    finally:
        made.shutdown()


@asked_for
def test_devices_measure_side_by_side_and_each_one_at_a_time(cluster: str, tmp_path: Path) -> None:
    """Two checks on one device and one on another: the verdicts that simulated engines must give, and who ran when."""
    made(tmp_path / "old", target="one")
    made(tmp_path / "slow", target="one", seconds=1.15e-3)
    made(tmp_path / "far", target="two")
    asked = [
        Asked(tmp_path / "slow" / "bundle", tmp_path / "old" / "bundle", "slow"),
        Asked(tmp_path / "old" / "bundle", tmp_path / "old" / "bundle", "same"),
        Asked(tmp_path / "far" / "bundle", tmp_path / "far" / "bundle", "far"),
    ]
    found = farm.checked(cluster, asked, QUIET)
    assert [one.latency_verdict for one in found] == ["regressed", "pass", "pass"]
    assert [one.asked for one in found] == asked
    assert [one.candidate.folder for one in found] == [one.candidate for one in asked], (
        "told by the paths of this machine"
    )
    assert found[0].latency is not None and found[0].latency.looks[-1].ratio.point == pytest.approx(1.15, abs=0.01)


@asked_for
def test_a_device_takes_one_check_after_the_other(cluster: str) -> None:
    """What Ray does with the resource that a check asks for: jobs on one device never overlap, those on two do."""
    import ray

    def busy(name: str) -> tuple[str, float, float]:  # in here, so that it travels by its code
        start = time.monotonic()
        time.sleep(0.3)
        return name, start, time.monotonic()

    ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    try:
        job = ray.remote(busy)
        waiting = [job.options(**farm.options(name)).remote(name) for name in ("one", "two", "one", "one")]
        spans = ray.get(waiting)
    finally:
        ray.shutdown()
    first = sorted((start, end) for name, start, end in spans if name == "one")
    assert len(first) == 3
    assert all(end <= start for (_, end), (start, _) in pairwise(first))


@asked_for
def test_the_command_and_what_it_says_of_a_device_that_is_not_there(cluster: str, tmp_path: Path) -> None:
    made(tmp_path / "new", target="one")
    made(tmp_path / "lost", target="three")
    suite = tmp_path / "suite.toml"
    suite.write_text('[[check]]\nname = "new"\nbundle = "new/bundle"\nbaseline = "new/bundle"\n')
    done = edgekd("check", suite, "--ray", cluster, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["verdict"], found["checks"][0]["name"]) == ("pass", "new")
    assert "new: 1 of 1 done, on one" in done.stderr
    with pytest.raises(UserError, match="no machine of the cluster has the device three") as caught:
        farm.checked(cluster, [Asked(tmp_path / "lost" / "bundle", tmp_path / "lost" / "bundle")], QUIET)
    assert "known: host, one, two" in caught.value.hint and '"device:three": 1' in caught.value.hint
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:1"):
        farm.checked("127.0.0.1:1", [Asked(tmp_path, tmp_path, target="one")], QUIET)


@asked_for
def test_a_device_behind_a_machine_of_the_cluster(cluster: str, tmp_path: Path) -> None:
    """The machine that joins reaches the device; what is wrong with a check is told as if it ran here."""
    made(tmp_path / "new", target="host")
    asked = Asked(tmp_path / "new" / "bundle", tmp_path / "new" / "bundle", device=by_env(tmp_path / "board", "two"))
    (found,) = farm.checked(cluster, [asked], QUIET)
    assert found.latency_verdict == "pass"
    assert found.latency is not None and found.latency.race is not None and found.latency.race.device is not None
    wrong = replace(asked, device=by_env(tmp_path / "wrong", "two", triple='"riscv64-linux"'))
    with pytest.raises(UserError, match="riscv64-linux"):
        farm.checked(cluster, [wrong], QUIET)


@asked_for
def test_a_recipes_race_runs_on_the_machine_that_has_the_device(cluster: str, tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters_farmed")
    by_env(recipe.parent, "two")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    measure = "[measure]\nseconds = 0.2\nprocesses = 1\nwait = 0\n"
    recipe.write_text(f'{kept}[targets]\nnames = ["two.toml"]\n{measure}[budget]\nlatency_p90 = "1 s"\n')
    report = api.compile(recipe, recipe.parent / "out", store=recipe.parent / "store", ray=cluster)
    (target,) = report["targets"]
    assert target["chosen"] == "student on onnxruntime" and target["candidates"][0]["latency"]["median"] > 0
    raw = json.loads((recipe.parent / "out" / target["samples_file"]).read_text())
    assert raw["device"]["label"] == "two (env)"
    by_env(recipe.parent / "other", "three")  # another folder there: the same device by another name needs no race
    asked = {"store": recipe.parent / "store", "targets": ["other/three.toml"], "ray": cluster}
    with pytest.raises(UserError, match="no machine of the cluster has the device three"):
        api.compile(recipe, recipe.parent / "out", **asked)


@asked_for
def test_a_searchs_candidates_are_scored_and_raced_by_the_machines_of_the_cluster(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two devices are called host, so four students are two races, each beside the recipe's own; the result is the one from here."""
    recipe = new_project(tmp_path / "quarters_spread")
    text = RECIPE.format(module="quarters_spread").replace("width = [4, 8]", "width = [4, 5, 6, 8]")
    recipe.write_text(text.replace("population = 2", "population = 4"))
    told = {}
    for name, address in (("here", None), ("there", cluster)):
        plan = api.prepare(recipe, store=tmp_path / name, ray=address)
        for step in ("teacher", "student", "search"):
            one = plan.steps[step]
            plan.entries[step] = plan.store.make(one.key, one.label, one.make)
        told[name] = plan.entry("search").facts["search"]
        said = capsys.readouterr().err
        assert ("race on 2 devices" in said) == ("score, on the cluster" in said) == (name == "there")
    assert told["there"]["chosen"] == told["here"]["chosen"]
    pairs = list(zip(told["there"]["candidates"], told["here"]["candidates"], strict=True))
    assert len(pairs) == 4
    for there, here in pairs:
        assert there["arguments"] == here["arguments"] and there["parameters"] == here["parameters"]
        assert there["score"] == pytest.approx(here["score"], abs=1e-5)
        assert there["seconds"] == pytest.approx(here["seconds"], rel=1e-6), "a simulated device has no noise"
    spread = variants.variants(plan, "student", "search", tmp_path).race.__self__  # type: ignore[attr-defined]
    stale = replace(spread, racing={**spread.racing, "keys": {"search": "0"}})
    with pytest.raises(EdgekdError, match="search: race on host: search: what the recipe reads has changed") as caught:
        stale.race([{"width": 8}, {"width": 4}], "again")
    assert "every machine of the cluster sees them" in caught.value.hint
    found, failed = replace(spread, device="nowhere").race([{"width": 8}, {"width": 4}], "again")
    assert len(found) == 2 and not failed
    assert "no machine of the cluster has the device nowhere: measured here" in capsys.readouterr().err
