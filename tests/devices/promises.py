"""What every runner promises, edgekd-bench and Python's alike: called by the tests of each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import int8_model
from devices.boards import X, left, real

from edgekd.backend import load_engine
from edgekd.devices.device import reached, told
from edgekd.errors import UserError
from edgekd.latency.energy import meter
from edgekd.latency.race import race
from edgekd.progress import Progress
from edgekd.target import Target

QUIET = Progress(quiet=True)


def races(target: Target, folder: Path) -> dict[str, Any]:
    """Two real engines race there, and give the outputs that they give here; what is told of the device."""
    engines = {"float": real(folder, "float"), "int8": real(folder, "int8", model=int8_model(), precision="int8")}
    said: list[dict[str, Any]] = []
    np.save(folder / "x.npy", X)
    with reached(target, QUIET) as device:
        asked: dict[str, Any] = {"inputs": [folder / "x.npy"], "wait": 0.0, "on_progress": said.append}
        found = race(engines, processes=1, seconds=0.1, **asked, device=device)
        there = {name: device.outputs(engine, [X])[0] for name, engine in engines.items()}
    for name, one in found.runners.items():
        assert one.samples.shape[:2] == (1, len(found.order[0])) and (one.samples > 0).all()
        assert one.warm_up[0].calls > 10 and one.warm_up[0].median > 0
        assert one.cold_start[0].peak > one.cold_start[0].base > 1_000_000
        assert one.cold_start[0].seconds > one.latency().median
        with load_engine(engines[name]) as session:
            here = np.concatenate([session.run([x[None]])[0] for x in X])
        np.testing.assert_allclose(there[name], here, rtol=0, atol=1e-6)
    assert max(t["done"] / t["total"] for t in said if "total" in t) == 1.0
    assert len(found.cores[0]) == 1 and 0 <= found.others[0] <= 1
    energy = meter()  # the device is this machine
    assert found.energy == {"of": energy.of, "why": energy.why}
    assert all(bool(one.joules) == bool(energy.of) for one in found.runners.values())
    assert found.device is not None and left(target) == []
    return told(found.device)


def answers_nonsense(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Each request that makes no sense is answered with an error; what the last is answered, which is "hello"."""
    asked = [
        '{"do": "open", "name": "a", "bundle": "../secret", "inputs": "x", "index": 0}',
        '{"do": "open", "name": "a", "bundle": "/etc", "inputs": "x", "index": 0}',
        '{"do": "run", "name": "nobody", "inputs": "x", "outputs": "y"}',
        '{"do": "time", "lead": 0, "blocks": [["nobody", 1, 1]]}',
        '{"do": "dance"}',
        '{"do": 7}',
        '{"do": "open"}',
        "[1]",
        "{",
        '{"do": "hello"}',
    ]
    text = "".join(f"{line}\n" for line in asked).encode()
    ran = subprocess.run(list(command), input=text, capture_output=True, check=True, cwd=folder)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(asked)
    assert all("error" in answer and answer["error"]["message"] for answer in answers[:-1])
    assert "no path of a file inside its folder" in answers[0]["error"]["message"]
    assert "no request" in answers[4]["error"]["message"] and "known: hello" in str(answers[4])
    done: dict[str, Any] = answers[-1]["done"]
    return done


def refuses_a_changed_bundle(target: Target, folder: Path) -> str:
    """What is said where a file of an engine is another on the device than its digest says."""
    engine = real(folder, "changed")
    with reached(target, QUIET) as device:
        device.outputs(engine, [X])
        (file,) = (Path(target.reach.folder) / "work").rglob("engines/0/engine/model.onnx")  # type: ignore[union-attr]
        file.unlink()
        file.write_bytes(b"something else")
        with pytest.raises(UserError) as caught:
            device.cold_start(engine, None, 0, 1, 60)
    return caught.value.message
