"""Progress on stderr: bars with time left on a terminal, a line a stage elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

from edgekd.units import format_seconds


class Task:
    """One piece of long work, `total` units of it. `note` is shown beside the bar (a loss, a count)."""

    def __init__(self, label: str, total: float | None, bars: RichProgress | None) -> None:
        self.label, self.total, self.note = label, total, ""
        self._bars = bars
        self._id = bars.add_task(label, total=total, note="") if bars else None

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        self.note = self.note if note is None else note
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, advance=amount, note=self.note)


class Progress:
    """Where long work says how far it is. `quiet` says nothing; errors are raised, not said here."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._live = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """Show `label` with a bar while the block runs, then one line with the time it took."""
        started = time.perf_counter()
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("  {task.description:<28}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
                task = Task(label, total, bars)
                yield task
        else:
            task = Task(label, total, None)
            yield task
        note = f"  {task.note}" if task.note else ""
        self.say(f"  {label:<28} {format_seconds(time.perf_counter() - started):>10}{note}")
