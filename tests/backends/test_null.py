"""The simulated device: its numbers are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import int8_model, write_program
from backends.null_rule import matrix, split_mix

from edgekd.backend import open_backend
from edgekd.backends.null import NullSession
from edgekd.errors import EdgekdError, UserError


def opened(tmp_path: Path, precision: str = "float32", **settings: Any) -> NullSession:
    out = tmp_path / f"engine-{precision}"
    out.mkdir(exist_ok=True)
    program = write_program(tmp_path / precision, int8_model() if precision == "int8" else None, precision)
    backend = open_backend("null")
    backend.compile(program, out, {"null": settings}, 1)
    session = backend.load(out)
    assert isinstance(session, NullSession)
    return session


def test_the_generator_is_split_mix() -> None:
    """Seed 1234567: numbers published with Vigna's splitmix64.c."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert split_mix(1234567, 4) == published


X = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)


def test_the_clock_moves_by_the_latency_and_by_nothing_else(tmp_path: Path) -> None:
    session = opened(tmp_path, seconds=0.002, seconds_per_byte=0.0)
    assert session.clock() == 0
    session.run([X])
    session.run([X])
    assert session.clock() == 4_000_000
    assert session.latency == 0.002


def test_int8_takes_its_share_and_bytes_cost_time(tmp_path: Path) -> None:
    quarter = opened(tmp_path, "int8", seconds=0.004, seconds_per_byte=0.0, integer=0.25)
    quarter.run([X])
    assert quarter.latency == 0.001
    by_size = opened(tmp_path, seconds=0.0, seconds_per_byte=1e-6)
    by_size.run([X])
    assert by_size.latency == pytest.approx((tmp_path / "float32" / "model.onnx").stat().st_size * 1e-6)


def test_tiles_of_channels_cost_time(tmp_path: Path) -> None:
    """Weights [8, 1, 3, 3], [8, 8, 3, 3] and [5, 8]: in tiles of 8 × 8 channels 9 + 9 + 1, of 4 × 4 18 + 36 + 4."""
    for tile, tiles in ((8, 19), (4, 58)):
        (tmp_path / str(tile)).mkdir()
        session = opened(tmp_path / str(tile), seconds=0.001, seconds_per_byte=0.0, seconds_per_tile=1e-5, tile=tile)
        session.run([X])
        assert session.latency == pytest.approx(0.001 + tiles * 1e-5)


def test_outputs_are_linear_and_fixed_by_the_seed(tmp_path: Path) -> None:
    session = opened(tmp_path, seed=7)
    y = session.run([X])[0]
    np.testing.assert_allclose(session.run([X * 2])[0], y * 2, rtol=1e-6)
    flat = X.reshape(1, 64).astype(np.float64)
    np.testing.assert_allclose(y, flat @ matrix(7, 64, 5), rtol=1e-4, atol=1e-4)
    assert not np.allclose(opened(tmp_path, seed=8).run([X])[0], y)
    coarse = opened(tmp_path, seed=7, step=0.5).run([X])[0]
    np.testing.assert_allclose(coarse, np.rint(y / 0.5) * 0.5)


def test_noise_is_seeded_per_process_and_keeps_its_median(tmp_path: Path) -> None:
    session = opened(tmp_path, seconds=1e-3, seconds_per_byte=0.0, noise={"spread": 0.1, "outliers": 0.02})

    def draws(*process: int) -> list[float]:
        session.clock.restart(*process)
        taken = []
        for _ in range(2000):
            session.clock.advance()
            taken.append(session.latency)
        return taken

    first = draws(1, 0)
    assert first == draws(1, 0)
    assert first != draws(1, 1)
    assert np.median(first) == pytest.approx(1e-3, rel=0.02)
    assert 10 < sum(t > 4e-3 for t in first) < 90


def test_processes_of_two_kinds_and_a_clock_that_stumbles(tmp_path: Path) -> None:
    session = opened(tmp_path, seconds=1e-3, seconds_per_byte=0.0, noise={"slow_processes": 0.5, "slow_factor": 1.25})
    taken = []
    for process in range(200):
        session.clock.restart(0, process)
        session.run([X])
        taken.append(session.latency)
    assert set(taken) == {1e-3, 1.25e-3}
    assert 70 < sum(t > 1e-3 for t in taken) < 130
    backwards = opened(tmp_path, seconds=1e-3, seconds_per_byte=0.0, noise={"backwards": 1.0})
    backwards.run([X])
    assert backwards.clock() == -1_000_000
    assert backwards.latency == 1e-3


def test_cold_calls_are_slower(tmp_path: Path) -> None:
    session = opened(tmp_path, seconds=1e-3, seconds_per_byte=0.0, noise={"cold_calls": 2, "cold_factor": 5.0})
    taken = []
    for _ in range(4):
        session.run([X])
        taken.append(session.latency)
    assert taken == [5e-3, 5e-3, 1e-3, 1e-3]


def test_unknown_settings_and_impossible_latencies_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no setting") as caught:
        opened(tmp_path, second=1.0)
    assert caught.value.hint == 'did you mean "seconds"?'
    for wrong in (-1.0, float("nan")):
        with pytest.raises(EdgekdError, match="simulated latency"):
            opened(tmp_path, seconds=wrong)


def test_it_answers_what_it_is_told_to_not_support(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p")
    assert open_backend("null").unsupported(program, {"null": {"unsupported": ["node a (Erf)"]}}) == ["node a (Erf)"]
