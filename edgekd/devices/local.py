"""This machine as a device, and what its way has in common with others that a command here goes: `exec`, `tvm_rpc`, `ssh`."""

from __future__ import annotations

import subprocess
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import IO, ClassVar, final

from edgekd.devices.link import LinkError, Talk
from edgekd.devices.pipe import PipeTalk, end, started, tail
from edgekd.devices.shell import ShellLink
from edgekd.store import default_folder


class CommandLink(ShellLink):
    """A link whose shell is a process here."""

    @abstractmethod
    def argv(self, script: str) -> list[str]:
        """The command that runs a script there."""

    @abstractmethod
    def told(self, code: int, said: str) -> LinkError:
        """The error that a program's, or the way's, exit code stands for."""

    @abstractmethod
    def is_way(self, code: int) -> bool:
        """Whether this exit code is the way's own, not the script's."""

    @final
    def execute(self, script: str, source: IO[bytes], sink: IO[bytes], timeout: float) -> tuple[int, str]:
        with tempfile.TemporaryFile() as said:
            child = started(self.argv(script), self.label, source, sink, said)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                raise LinkError(
                    f"{self.label}: no answer after {timeout:.3g} s", reason="timeout", stderr=tail(said)
                ) from None
            finally:
                end(child)
            if self.is_way(code):
                raise self.told(code, tail(said))
            return code, tail(said)

    @final
    def talk(self, script: str) -> Talk:
        return PipeTalk(self.label, self.argv(script), self.told)


def ended(label: str, code: int, said: str) -> LinkError:
    """The error of a program that ended before it answered. `code`: as a shell or as Python gives it."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    how = f"was ended by signal {number}" if number else f"ended with exit code {code}"
    hint = "out of memory there?" if number == 9 else ""
    if code in (126, 127):
        hint = "is the runner built for this device, and is what it needs there?"
    return LinkError(f"{label}: the program {how} before it answered", reason="exited", stderr=said, hint=hint)


class ShellHere(CommandLink):
    """A link whose files and shell are this machine's."""

    @final
    def argv(self, script: str) -> list[str]:
        return ["/bin/sh", "-c", script]

    @final
    def told(self, code: int, said: str) -> LinkError:
        return ended(self.label, code, said)

    @final
    def is_way(self, code: int) -> bool:
        return False

    @final
    def close(self) -> None:
        pass


@final
class LocalLink(ShellHere):
    """A folder of this machine is the device."""

    kind: ClassVar[str] = "local"

    def __init__(self, folder: Path | None = None) -> None:
        self.root, self.label = str((folder or default_folder() / "device").absolute()), "this machine"
