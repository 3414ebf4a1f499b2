"""A talk with a program whose standard streams are pipes of a process here: ssh's, a simulator's, or its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, final

from edgekd.devices.link import LINE_BYTES, LinkError, Talk

TAIL_LINES, TAIL_BYTES = 12, 16_384
END_SECONDS = 1.0  # for a program whose input has ended
WRITE_SECONDS = 60.0  # in which a program takes the next of what it is given
LOOK_SECONDS = 0.1  # how soon a write notices that the talk was closed by another thread


@final
class PipeTalk(Talk):
    """`told(code, stderr)` turns how the process ended into the error that it is. One thread may write while another reads."""

    def __init__(self, label: str, argv: Sequence[str], told: Callable[[int, str], LinkError]) -> None:
        self.label, self._told = label, told
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # no pipe: what ssh leaves in the background would hold it open
        try:
            self._child = started(argv, label, subprocess.PIPE, subprocess.PIPE, self._said)
        except LinkError:
            self._said.close()
            raise
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)  # a program that reads nothing would block whoever writes
        self._held = bytearray()
        self._closed = threading.Event()
        self._writing = threading.Lock()

    def write(self, line: bytes) -> None:
        """Raises LinkError also (timeout) where the program has taken nothing for a minute."""
        with self._writing:
            left = memoryview(line)
            end = time.monotonic() + WRITE_SECONDS
            while left:
                if self._closed.is_set():
                    raise LinkError(f"{self.label}: closed while it was written to", reason="cut")
                if (count := self._take(left)) > 0:
                    left, end = left[count:], time.monotonic() + WRITE_SECONDS
                elif time.monotonic() > end:
                    message = f"{self.label}: the program reads nothing for {WRITE_SECONDS:.3g} s"
                    raise LinkError(message, reason="timeout", stderr=tail(self._said))

    def _take(self, data: memoryview) -> int:
        """How many of these bytes the program's pipe takes, waiting a moment for it."""
        assert self._child.stdin is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdin, selectors.EVENT_WRITE)
            if not selector.select(LOOK_SECONDS):
                return 0
        try:
            return os.write(self._child.stdin.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            raise self._ended() from None

    def read(self, timeout: float) -> bytes:
        assert self._child.stdout is not None
        end, seen = time.monotonic() + timeout, 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while (at := self._held.find(b"\n", seen)) < 0:
                seen = len(self._held)
                if seen > LINE_BYTES:
                    raise LinkError(f"{self.label}: a line of more than {LINE_BYTES} bytes", reason="garbage")
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise LinkError(
                        f"{self.label}: no answer after {timeout:.3g} s", reason="timeout", stderr=tail(self._said)
                    )
                chunk = os.read(self._child.stdout.fileno(), 65_536)
                if not chunk:
                    raise self._ended()
                self._held += chunk
        line = bytes(self._held[:at])
        del self._held[: at + 1]
        return line

    def _ended(self) -> LinkError:
        """Why there is nothing more: how the process ended, or that it stopped in the middle of a line."""
        try:
            code = self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its output and goes on
        error = self._told(code, tail(self._said))
        if self._held and error.reason == "exited":
            half = bytes(self._held[:80]).decode("utf-8", "replace")
            return LinkError(f"{self.label}: half a line from the device: {half!r}", reason="garbage")
        return error

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        assert self._child.stdin is not None and self._child.stdout is not None
        with self._writing:  # whoever writes stops at once
            self._child.stdin.close()
        self._child.stdout.close()  # whoever still writes there gets SIGPIPE
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_SECONDS)
        end(self._child)
        self._said.close()


def started(
    argv: Sequence[str], label: str, stdin: int | IO[bytes], stdout: int | IO[bytes], stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """A process in a session of its own, its pipes unbuffered. Raises LinkError if the program cannot be started."""
    try:
        return subprocess.Popen(argv, bufsize=0, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise LinkError(f"{label}: cannot run {argv[0]}: {error.strerror}", reason="failed") from None


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill the process, unless it has ended, and reap it."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def tail(said: IO[bytes]) -> str:
    """The last lines of a file, as an error quotes them. Whoever writes it goes on where it was: nothing is moved."""
    size = os.fstat(said.fileno()).st_size
    held = os.pread(said.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
    lines = held.decode("utf-8", "replace").splitlines()
    return "\n".join(f"  | {line[:300]}" for line in lines[-TAIL_LINES:])
