"""Progress on stderr: bars with time left on a terminal, elsewhere a line a stage and one a minute, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

from edgekd.units import format_seconds

Tell = Callable[[Mapping[str, Any]], None]
"""Sends what there is to show to the process that shows it: values of JSON, which `Echo` reads."""
TELL_SECONDS = 0.5
SAY_SECONDS = 60.0
"""Between the lines of a task where there is no terminal to show a bar on."""


class Task:
    """One piece of long work, `total` units of it. `note` is shown beside the bar (a loss, a count)."""

    def __init__(
        self,
        label: str,
        total: float | None,
        bars: RichProgress | None = None,
        tell: Tell | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.label, self.total, self.note, self.done = label, total, "", 0.0
        self._bars, self._tell, self._untold, self._told = bars, tell, 0.0, 0.0
        self._say, self._said = say, time.monotonic()
        self._id = bars.add_task(label, total=total, note="") if bars else None

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        self.note = self.note if note is None else note
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, advance=amount, note=self.note)
        self._untold += amount
        self.done += amount
        if self._say is not None and self.total and time.monotonic() - self._said >= SAY_SECONDS:
            self._say(f"  {self.label:<28} {self.done / self.total:>10.0%}  {self.note}".rstrip())
            self._said = time.monotonic()
        if self._tell is not None and time.monotonic() - self._told >= TELL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Tell now what was not told yet."""
        if self._tell is not None:
            self._tell({"advance": self._untold, "note": self.note})
            self._untold, self._told = 0.0, time.monotonic()


class Progress:
    """Where long work says how far it is. `quiet` says nothing; errors are raised, not said here.

    `tell`: another process shows it.
    """

    def __init__(self, *, quiet: bool = False, tell: Tell | None = None) -> None:
        self.quiet, self._tell = quiet, tell
        self._live = not quiet and tell is None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """A line on stderr."""
        if self._tell is not None:
            self._tell({"say": text})
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """Show `label` with a bar while the block runs, then one line with the time it took."""
        started = time.perf_counter()
        if self._tell is not None:
            self._tell({"task": label, "total": total})
            task = Task(label, total, tell=self._tell)
            try:
                yield task
                task.flush()
            finally:
                self._tell({"ended": label})
            return
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
            task = Task(label, total, say=self.say)
            yield task
        note = f"  {task.note}" if task.note else ""
        self.say(f"  {label:<28} {format_seconds(time.perf_counter() - started):>10}{note}")


@final
class Echo:
    """Shows on `progress` what another process tells, in a `with` block that ends what that one left open."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: list[tuple[ExitStack, Task]] = []

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.pop()[0].close()

    def __call__(self, message: Mapping[str, Any]) -> None:
        if "say" in message:
            self._progress.say(str(message["say"]))
        elif "task" in message:
            stack = ExitStack()
            self._open.append((stack, stack.enter_context(self._progress.task(message["task"], message["total"]))))
        elif self._open and "advance" in message:
            self._open[-1][1].advance(message["advance"], message["note"])
        elif self._open and "ended" in message:
            self._open.pop()[0].close()
