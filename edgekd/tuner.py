"""What a backend is that searches the kernels of its engines by measuring them on the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Tuner"]


class Tuner(ABC):
    """Besides a `Backend`. What it found is a folder, which `compile` is told as the target's "tuning"."""

    @abstractmethod
    def tune(
        self,
        program: Path,
        target: Mapping[str, Any],
        threads: int,
        trials: int,
        work: Path,
        out: Path,
        tell: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Measure until the program's kernels have `trials` in `work`; write the best of each into `out`; return facts.

        `work` outlives a kill, may hold what was measured for other programs, and is one process's alone meanwhile. `tell`
        is given {"done", "total"}.
        """
