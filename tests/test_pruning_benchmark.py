"""What benchmarks/pruning_encoder.py computes by itself: its net, which uniform ratio keeps a latency, and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from edgekd.errors import UserError


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """It stands beside the scripts that it reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        import pruning_encoder

        yield pruning_encoder


def test_the_net_is_the_sentence_encoder_with_its_attention_apart(benchmark: ModuleType) -> None:
    nets, text = sys.modules["pruning_encoder_nets"], sys.modules["quantization_text"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = text.MiniLm().eval()
    theirs.layers = theirs.layers[:1]
    ours = nets.reviewer(1).eval()
    ours.load_state_dict(nets.begun(1, theirs.state_dict()))
    ids = torch.randint(1, 30522, (2, text.LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, nets.LENGTH :] = 0
    ids[1, 20:] = 0
    with torch.no_grad():
        ours.head = torch.nn.Identity()
        assert torch.allclose(normalize(ours(ids[:, : nets.LENGTH]), dim=1), theirs(ids), atol=1e-5)


def test_the_smallest_ratio_that_keeps_a_latency(benchmark: ModuleType) -> None:
    """5% above is kept, as by any budget."""
    shares = {0.25: 0.71, 0.5: 0.52, 0.75: 0.2}
    assert [benchmark.least(shares, share) for share in (0.7, 0.5, 0.4)] == [0.25, 0.5, 0.75]
    with pytest.raises(UserError, match=r"cannot keep 0.1x: the least of 3 ratios is 0.200x"):
        benchmark.least(shares, 0.1)


def test_the_page_tells_what_was_run_what_was_refused_and_what_is_left(benchmark: ModuleType) -> None:
    def row(method: str, seed: int, test: float) -> dict[str, Any]:
        told = {
            "seconds": 2e-3,
            "times": 2.0,
            "bytes": 5e7,
            "trained_seconds": 60.0,
            "predicted": 2.1e-3,
            "measured": 2e-3,
        }
        return {"speed": 2.0, "method": method, "seed": seed, "test": test, **told} | {
            "whole_seconds": 4e-3,
            "whole_bytes": 9e7,
        }

    rows = [row("uniform", 0, 80.0), row("cofi", 0, 82.0), row("uniform", 1, 81.0), row("cofi", 1, 83.0)]
    rows.append({"speed": 8.0, "method": "uniform", "seed": 0, "refused": "uniform pruning cannot keep 0.125x"})
    setting = {"speeds": [2.0, 8.0], "seeds": [0, 1], "gates": 4, "epochs": 3, "layers": 6, "reviews": (10, 5, 5)}
    machine = {"chip": "a chip", "cores": 2, "system": "Linux"}
    text = benchmark.page({"setting": setting, "machine": machine, "versions": {}, "teacher": 85.0, "rows": rows})
    assert "| 2× | uniform | 80.5 ± 0.7 | 2.00 ± 0.00 | 2.00 ± 0.00 | 50.0 ± 0.0 | 60 ± 0 |" in text
    assert "| 2× | cofi | 82.5 ± 0.7 |" in text and "* 2×: +2.00 (+2.00 to +2.00)." in text
    assert "| 8× | uniform | uniform pruning cannot keep 0.125x |" in text and "| 8× | cofi | not run |" in text
    assert "Whole: 4.00 ms, 90.0 MB." in text and "CoFi's plans: 5.0% off at most, of 2" in text
