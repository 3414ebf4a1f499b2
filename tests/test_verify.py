"""`edgekd verify`: exit 0 where the outputs are the golden ones, 1 where not, 2 where the bundle was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cxx.bundles import changed, write
from project import edgekd

from edgekd.errors import UserError
from edgekd.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("verify") / "bundle")


@pytest.fixture
def with_golden(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the bundle with other golden arrays."""

    def make(**arrays: np.ndarray) -> Path:
        with np.load(made / "golden.npz") as stored:
            golden = dict(stored) | arrays
        copy = changed(made, tmp_path / "copy", "bundle.json")
        np.savez(copy / "golden.npz", **{name: value for name, value in golden.items() if len(value)})
        return changed(copy, tmp_path / "whole", "bundle.json")

    return make


def test_a_good_bundle(made: Path) -> None:
    done = edgekd("verify", made, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["samples"], found["top1"], found["reason"]) == (True, 4, 1.0, "")
    assert found["difference"] <= 1e-6 and found["tolerance"] == {"top1": 1.0, "absolute": 1e-4}
    assert found["backend"] == "onnxruntime" and found["runtime"][0].isdigit()
    assert found["median"] > 0 and found["promised"] == 1e-9 and found["calls"] >= 5
    assert json.loads((made / "bundle.json").read_text())["promised"]["agreement"]["kl"] is None  # NaN is not JSON


def test_other_outputs_fail_with_the_reason(made: Path, with_golden: Callable[..., Path]) -> None:
    with np.load(made / "golden.npz") as stored:
        outputs = stored["outputs"]
    shifted = verify(with_golden(outputs=outputs + np.float32(0.25)))
    assert not shifted.ok and shifted.difference == pytest.approx(0.25, abs=1e-5) and shifted.top1 == 1.0
    turned = outputs.copy()
    turned[0] = np.roll(outputs[0], 1)
    assert verify(with_golden(outputs=turned)).top1 == 0.75
    turned[0] = np.nan
    lost = verify(with_golden(outputs=turned))
    assert not lost.ok and lost.difference is None
    done = edgekd("verify", with_golden(outputs=outputs + np.float32(0.25)))
    assert done.returncode == 1
    assert "largest difference 0.25 of at most 0.0001" in done.stdout


def test_too_slow_only_where_asked(made: Path) -> None:
    assert verify(made).ok
    slow = verify(made, slowdown=2.0)
    assert not slow.ok and slow.reason.startswith("too slow: median ")


def test_what_is_not_a_whole_bundle_is_a_users_error(
    made: Path, with_golden: Callable[..., Path], tmp_path: Path
) -> None:
    copy = changed(made, tmp_path / "cut", "bundle.json")
    (copy / "golden.npz").write_bytes((copy / "golden.npz").read_bytes()[:-1])
    done = edgekd("verify", copy)
    assert done.returncode == 2 and "golden.npz was changed" in done.stderr
    with pytest.raises(UserError, match=r"bundle format 2, written by edgekd 9\.9\.9") as caught:
        verify(changed(made, tmp_path / "newer", "bundle.json", format=2, edgekd="9.9.9"))
    assert caught.value.hint == "pip install edgekd==9.9.9"
    with pytest.raises(UserError, match="says no tolerance"):
        verify(changed(made, tmp_path / "bare", "bundle.json", tolerance=None))
    with pytest.raises(UserError, match="outputs is not a file in the archive"):
        verify(with_golden(outputs=np.zeros(0)))
    with pytest.raises(UserError, match=r"different numbers of samples: \[3, 4\]"):
        verify(with_golden(outputs=np.zeros((3, 5), np.float32)))


def test_cmake_dir_holds_the_config() -> None:
    done = edgekd("--cmake-dir")
    assert done.returncode == 0
    assert (Path(done.stdout.strip()) / "edgekdConfig.cmake").is_file()
