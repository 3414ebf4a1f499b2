"""torch: the same numbers compiled and eagerly; where nothing can be compiled, it says so and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program

from edgekd.backend import load_engine, open_backend
from edgekd.backends.torch import cpp_compiler

BACKEND = open_backend("torch")
X = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)


def test_without_a_compiler_it_runs_eagerly_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backends.torch.cpp_compiler", lambda: "")
    model, out = int8_model(), tmp_path / "engine"
    out.mkdir()
    facts = BACKEND.compile(write_program(tmp_path / "program", model, "int8"), out, {}, 1)
    assert facts["note"] == "run eagerly: no C++ compiler was found (g++, clang++ or $CXX)"
    assert (facts["integer_nodes"], facts["float_nodes"], facts["delegated_share"]) == (0, 3, 0.0)
    with load_engine(out) as session:
        np.testing.assert_allclose(session.run([X])[0], unoptimised(model, X), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not cpp_compiler(), reason="torch.compile needs a C++ compiler: apt-get install g++")
@pytest.mark.filterwarnings("ignore")  # what torch.compile imports to look around is not ours
def test_with_a_compiler_it_is_compiled(tmp_path: Path) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    facts = BACKEND.compile(write_program(tmp_path / "program"), out, {}, 1)
    assert facts["note"] == "run by torch.compile" and facts["options"]["mode"] == "torch.compile"
    with load_engine(out) as session:
        np.testing.assert_allclose(session.run([X])[0], unoptimised(float_model(), X), rtol=1e-4, atol=1e-5)


def test_a_fixed_shape_is_asked_for(tmp_path: Path) -> None:
    (line,) = BACKEND.unsupported(write_program(tmp_path / "p", float_model("batch")), {})
    assert "compiles for fixed shapes" in line
