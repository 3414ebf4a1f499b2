"""Several worker processes at once that need each other: the first that fails ends them all, and is named."""

from __future__ import annotations

import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any

from edgekd.errors import EdgekdError, UserError
from edgekd.worker import Progress, WorkerError, end, exit_code, judged, parsed, started

GRACE = 10.0
"""Seconds that the others have, once one has failed, to say what they know of it."""
INSTALL = 'pip install "edgekd[distributed]"'
LOST = "lost the processes that it trains with"
"""What one says that noticed another's end: never the reason, where another gives one."""


@dataclass(eq=False)
class _Member:
    child: subprocess.Popen[bytes]
    said: IO[bytes]
    held: bytearray = field(default_factory=bytearray)
    answer: dict[str, Any] = field(default_factory=dict)
    closed: bool = False
    code: int | None = None

    @property
    def failed(self) -> bool:
        return "error" in self.answer or (self.closed and not self.answer)

    def take(self, doing: str) -> list[dict[str, Any]] | None:
        """What it sent since: messages of progress; None once it has ended."""
        assert self.child.stdout is not None
        chunk = os.read(self.child.stdout.fileno(), 65_536)
        *lines, rest = bytes(self.held + chunk).split(b"\n")
        self.held = bytearray(rest)
        told = []
        for line in lines:
            message = parsed(line, doing, self.said)
            if "progress" in message:
                told.append(dict(message["progress"]))
            else:
                self.answer = message
        return told if chunk else None


def call_all(
    function: str,
    requests: Sequence[Mapping[str, Any]],
    environments: Sequence[Mapping[str, str]],
    doing: str,
    on_progress: Progress,
) -> dict[str, Any]:
    """The result of the first of several workers, which run `function` ("module:function") at once, each with its request.

    `doing` names the work in errors. All that they tell of progress is the first one's. Raises UserError where one raises
    that, else EdgekdError naming the first that failed for a reason of its own; the others are ended.
    """
    with ExitStack() as stack:
        members: list[_Member] = []
        for request, environment in zip(requests, environments, strict=True):
            said = stack.enter_context(tempfile.TemporaryFile())
            members.append(_Member(started(function, request, environment, said), said))
            stack.callback(end, members[-1].child)
        _listen(members, doing, on_progress)
        failures: list[tuple[bool, int, EdgekdError]] = []
        results: list[dict[str, Any]] = []
        for number, member in enumerate(members):
            try:
                if member.answer or member.closed:
                    results.append(judged(member.answer, member.code, "training", member.said))
            except EdgekdError as error:
                failures.append((LOST in error.message, number, error))
    if not failures:
        return results[0]
    _, number, worst = min(failures, key=lambda failure: failure[:2])
    if isinstance(worst, UserError):
        raise worst
    hint = "; ".join(filter(None, [worst.hint, "the same command goes on from the last finished epoch"]))
    reason = worst.reason if isinstance(worst, WorkerError) else "failed"
    message = (
        f"{doing}: process {number + 1} of {len(members)} {'' if reason == 'crashed' else 'failed: '}{worst.message}"
    )
    raise EdgekdError(message, hint=hint)


def _listen(members: Sequence[_Member], doing: str, on_progress: Progress) -> None:
    """Until all have ended, or `GRACE` seconds after one failed."""
    until: float | None = None
    with selectors.DefaultSelector() as selector:
        for member in members:
            assert member.child.stdout is not None
            selector.register(member.child.stdout, selectors.EVENT_READ, member)
        while selector.get_map() and (until is None or time.monotonic() < until):
            ready = [key.data for key, _ in selector.select(0.5)]
            for member in [key.data for key in list(selector.get_map().values())]:
                told = member.take(doing) if member in ready else []
                if told is None or (member not in ready and member.child.poll() is not None):
                    selector.unregister(member.child.stdout)
                    member.closed, member.code = True, exit_code(member.child)
                elif member is members[0]:
                    for message in told:
                        on_progress(message)
            if until is None and any(member.failed for member in members):
                until = time.monotonic() + GRACE
