"""The contract of a way to a device: files by digest, a program with lines in and lines out, one measurement at a time.

    files/DIGEST     what was ever sent, under its sha256: nothing is sent twice
    work/NAME/       one measurement's folder, laid out from files/; removed when it ends, or by the next one
    lease            who measures now, and until when it is believed without a sign of life

All of it lies in one folder on the device, the link's root, and no path that a link is given leaves it. A link that is cut
loses nothing there: one opened again finds files, folder and lease as they were.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, final

from edgekd import digest
from edgekd.errors import EdgekdError, UserError

LINE_BYTES = 512 * 2**20
LEASE_SECONDS = 60.0
LOOK_SECONDS = 1.0  # how often who waits for a device asks again

Reason = Literal["cut", "refused", "timeout", "garbage", "exited", "full", "failed"]


class LinkError(EdgekdError):
    """The device or the way to it failed.

    `reason`: cut (the connection broke, or cannot be made: opened again it may go on), refused (host key, login, token),
    timeout (it is there and says nothing), garbage (what it says is no message), exited (the program ended before it
    answered), full (no space there), failed (anything else). `stderr`: the last lines that the program wrote.
    """

    def __init__(self, message: str, *, reason: Reason, stderr: str = "", hint: str = "") -> None:
        super().__init__(f"{message}\n{stderr}" if stderr else message, hint=hint)
        self.reason, self.stderr = reason, stderr


class _Closed(ABC):
    """Closed at the end of a `with` block."""

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...


class Talk(_Closed):
    """A program that runs on a device: each line that it reads and writes is one JSON object."""

    label: str

    @abstractmethod
    def write(self, line: bytes) -> None:
        """Give the program one line, its newline included. Raises LinkError: cut, or exited."""

    @abstractmethod
    def read(self, timeout: float) -> bytes:
        """The program's next line without its newline. Raises LinkError: cut, exited, garbage (half a line), or timeout
        after so many seconds.
        """

    @abstractmethod
    def close(self) -> None:
        """End the program, here and there; a second call does nothing."""

    @final
    def send(self, message: Mapping[str, Any]) -> None:
        """One message. Raises what `write` raises."""
        self.write(json.dumps(message, allow_nan=False).encode() + b"\n")

    @final
    def receive(self, timeout: float) -> dict[str, Any]:
        """The next message. Raises what `read` raises, and LinkError (garbage) for a line that is no JSON object."""
        line = self.read(timeout)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            start = line[:80].decode("utf-8", "replace")
            raise LinkError(f"{self.label}: garbage from the device: {start!r}", reason="garbage")
        return message


class Link(_Closed):
    """An open way to one device. `label` is what messages call it; `lease` may be called from another thread."""

    kind: ClassVar[str]
    label: str

    @abstractmethod
    def held(self, digests: Collection[str]) -> set[str]:
        """Which of these files (sha256 in hex) are there already."""

    @abstractmethod
    def put(self, file: Path, named: str) -> None:
        """Keep a file there under its digest, whole or not at all: what arrived is digested there before it is kept.

        Raises LinkError: full where there is no space, failed where what arrived has another digest.
        """

    @abstractmethod
    def get(self, folder: str, path: str, file: Path) -> None:
        """Write the file `path` of the work folder `folder` to `file` here, whole or not at all."""

    @abstractmethod
    def make_folder(self, name: str, files: Mapping[str, str], programs: Collection[str]) -> None:
        """The work folder `name` with the files `path: digest`, which are there; `programs` of them can be run.

        One of that name that is there gets what it lacks; every other work folder is removed: only the lease's holder
        makes one, so they are what was left by measurements that ended without removing theirs.
        """

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a work folder with all that is in it; none there is well."""

    @abstractmethod
    def start(self, folder: str, command: Sequence[str], environment: Mapping[str, str]) -> Talk:
        """Run a program in the work folder: `./name` is a file of it, a bare name is looked for as the device does.

        Relative values of `environment` that begin with `./` are paths in the folder, as they stand: the program's working
        folder is the work folder.
        """

    @abstractmethod
    def lease(self, holder: str, seconds: float) -> str:
        """Take or renew the right to measure for so many seconds. Empty: it is `holder`'s now; else, who has it.

        One whose time is over goes to whoever asks. The device's own clock counts, one that a set date does not move.
        """

    @abstractmethod
    def release(self, holder: str) -> None:
        """Give the right back; nothing where another has it."""

    @abstractmethod
    def close(self) -> None:
        """Close the way, and remove what it left here; a second call does nothing."""

    @final
    def send(self, name: str, files: Mapping[str, Path], programs: Collection[str] = ()) -> None:
        """Make the work folder `name` with `files` (path there: file here), sending what is not there yet.

        Raises UserError for a path that leaves the folder; LinkError.
        """
        named = {check_path(path): digest.of_file(file) for path, file in files.items()}
        there = self.held(set(named.values()))
        for path, one in named.items():
            if one not in there:
                self.put(files[path], one)
                there.add(one)
        self.make_folder(check_name(name), named, programs)

    @final
    @contextmanager
    def hold(self, who: str, waiting: Callable[[str], None], seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
        """Measure on the device alone. While another does, `waiting(who)` is called once, and it is waited for.

        The lease is renewed in the background; a holder that dies loses it after `seconds`.
        """
        holder, told = f"{check_name(who)}.{uuid.uuid4().hex[:12]}", ""
        while other := self.lease(holder, seconds):
            if other != told:
                waiting(other)
            told = other
            time.sleep(LOOK_SECONDS)
        lease = Lease(self, holder, seconds)
        lease.start()
        try:
            yield lease
        finally:
            lease.stop()
            with suppress(LinkError):  # it expires
                self.release(holder)


@final
class Lease(threading.Thread):
    """Renews a lease every third of its time until stopped. `check` raises LinkError once another has taken it."""

    def __init__(self, link: Link, holder: str, seconds: float) -> None:
        super().__init__(name=f"lease of {link.label}", daemon=True)
        self.link, self.holder, self.seconds = link, holder, seconds
        self._ended = threading.Event()
        self._other = ""

    def run(self) -> None:
        while not self._other and not self._ended.wait(
            self.seconds / 3
        ):  # once lost, it stays lost: another has measured
            with suppress(
                EdgekdError, OSError
            ):  # cut: the holder notices by itself, and the lease lives on for a while
                self._other = self.link.lease(self.holder, self.seconds)

    def check(self) -> None:
        """Raises LinkError if the lease was lost: for a while no sign of life came through, and another took it."""
        if self._other:
            raise LinkError(
                f"{self.link.label}: the connection was gone for so long that {self._other} measures there now",
                reason="failed",
                hint="run it again: what was finished is kept",
            )

    def stop(self) -> None:
        self._ended.set()
        self.join(timeout=self.seconds)


def check_path(path: str) -> str:
    """The relative path itself. Raises UserError if it is absolute, empty, not plain or leaves its folder.

    >>> check_path("engine/model.onnx")
    'engine/model.onnx'
    """
    parts = PurePosixPath(path).parts
    plain = path and "\\" not in path and path.isprintable() and path == "/".join(parts)
    if not plain or path.startswith("/") or ".." in parts or ":" in parts[0]:
        raise UserError(f"{path!r} is no path of a file inside its folder")
    return path


def check_name(name: str) -> str:
    """The name itself. Raises UserError unless it is letters, digits, dots, dashes and underscores, and begins with a letter
    or digit: so that it is one word to a shell and one folder to a file system.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"{name!r} is no name on a device", hint="letters, digits, dots, dashes and underscores")
    return name
