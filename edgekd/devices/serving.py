"""What one client of `edgekd devices serve` may do: each request is checked before anything is done with it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from edgekd import bundle
from edgekd.devices.asked import ASKED, Asked, Get, Held, LeaseFor, MakeFolder, Put, Release, RemoveFolder, Start
from edgekd.devices.link import Link, LinkError, Talk, check_name, check_path
from edgekd.devices.wire import PIECE_BYTES, Wire
from edgekd.errors import EdgekdError, UserError
from edgekd.units import format_bytes

SPARE = 64 * 2**20  # bytes that stay free on the device
LOOK_SECONDS = 1.0  # how soon a client that has gone is noticed while its program is silent
LINE = 2**24  # bytes of one line to a program
ARRIVING = ".passing-"  # what such folders hold is on its way
THREADS = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
"""What of a program's environment a client may set: nothing that loads or finds other code."""


@dataclass(frozen=True)
class Limits:
    """What a stranger, or a client gone wrong, can cost at most. Seconds and bytes."""

    strangers: int = 8  # connections whose handshake is not over
    clients: int = 16  # connections with the token
    handshake: float = 10.0
    refusal: float = 1.0  # that a wrong token waits for its answer
    frame: float = 30.0  # in which a frame that has begun is whole
    idle: float = 3600.0  # that a client may keep silent; its system still tells that it lives
    program: float = 3600.0
    file: int = 2 * 10**9


@final
class Serving:
    """One client, from its handshake to its end. `device` is this machine, its files in the folder `root`.

    `programs`: what a client may start, by the command that it names.
    """

    def __init__(
        self,
        wire: Wire,
        device: Link,
        root: Path,
        programs: Mapping[tuple[str, ...], tuple[str, ...]],
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        self._wire, self._device, self._root, self._programs = wire, device, root, programs
        self._limits, self._say = limits, say

    def run(self) -> None:
        """Answer until the client goes. Raises LinkError if it is cut, too slow, or says what is no request."""
        while True:
            message = self._wire.message(self._limits.frame, self._limits.idle)
            try:
                asked = ASKED.validate_python(message)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part)[:40] for part in first["loc"]) or "request"
                failure = LinkError(f"garbage: {where}: {first['msg'][:200]}", reason="garbage")
                self._wire.send(_told(failure))
                raise failure from None
            try:
                if isinstance(asked, Start):
                    self._start(asked)
                    return
                self._wire.send(self._answer(asked))
            except EdgekdError as error:
                self._wire.send(_told(error))
                if isinstance(error, LinkError) and error.reason in ("cut", "timeout", "garbage"):
                    raise  # what comes next is anyone's guess
            except OSError as error:
                self._wire.send(_told(LinkError(f"on the device: {error.strerror or error}", reason="failed")))

    def _answer(self, asked: Asked) -> dict[str, Any]:
        if isinstance(asked, Held):
            return {"held": sorted(self._device.held(asked.digests))}
        if isinstance(asked, Put):
            return self._put(asked)
        if isinstance(asked, Get):
            return self._get(asked)
        holder = check_name(asked.holder)
        if isinstance(asked, LeaseFor):
            return {"other": self._device.lease(holder, asked.seconds)}
        if isinstance(asked, Release):
            self._device.release(holder)
        elif isinstance(asked, RemoveFolder):
            self._only(holder)
            self._device.remove_folder(check_name(asked.folder))
        elif isinstance(asked, MakeFolder):
            self._make_folder(asked)
        return {}

    def _only(self, holder: str) -> None:
        """Raises LinkError unless the holder has the lease, or can take it; it is good for a minute from now on."""
        if other := self._device.lease(check_name(holder), 60.0):
            raise LinkError(f"{other} measures on this device", reason="failed", hint="take the lease first")

    def _make_folder(self, asked: MakeFolder) -> None:
        self._only(asked.holder)
        name = check_name(asked.folder)
        for path in (*asked.files, *asked.programs):
            self._inside(name, path)
        if lacking := set(asked.files.values()) - self._device.held(set(asked.files.values())):
            raise LinkError(f"a file is not here: {min(lacking)}", reason="failed", hint="send it first")
        self._device.make_folder(name, asked.files, asked.programs)
        for path in asked.files:
            if path == bundle.MANIFEST or path.endswith(f"/{bundle.MANIFEST}"):
                self._hold_to_manifest(name, path, asked.files)

    def _inside(self, name: str, path: str) -> None:
        """Raises UserError for a path that leaves the work folder, by its words or by a link that something left there."""
        work = self._root / "work" / name
        place = work / check_path(path)
        if place.is_symlink() or not place.resolve().is_relative_to(self._root.resolve() / "work" / name):
            raise UserError(f"{path!r} is no path of a file inside its folder")

    def _hold_to_manifest(self, name: str, path: str, files: Mapping[str, str]) -> None:
        """A bundle in the folder holds exactly the files that its manifest lists, or nothing of the folder stays."""
        with tempfile.TemporaryDirectory(prefix=ARRIVING, dir=self._root) as scratch:
            self._device.get(name, path, manifest := Path(scratch) / bundle.MANIFEST)
            root = path.removesuffix(bundle.MANIFEST)
            given = {p.removeprefix(root): d for p, d in files.items() if p.startswith(root) and p != path}
            try:
                bundle.check_files(Path(name), bundle.read_manifest(manifest), given)
            except UserError:
                self._device.remove_folder(name)
                raise

    def _put(self, asked: Put) -> dict[str, Any]:
        if self._device.held([asked.digest]):
            return {"send": False}
        if asked.bytes > self._limits.file:
            said = f"a file of {format_bytes(asked.bytes)}, where {format_bytes(self._limits.file)} are taken"
            raise LinkError(said, reason="failed", hint="serve with a larger --max-bytes")
        with tempfile.TemporaryDirectory(prefix=ARRIVING, dir=self._root) as scratch:
            if shutil.disk_usage(scratch).free < asked.bytes + SPARE:
                raise LinkError(f"no space for {format_bytes(asked.bytes)} on the device", reason="full")
            self._wire.send({"send": True})
            arrived, found, count, full = Path(scratch) / "file", hashlib.sha256(), 0, ""
            with arrived.open("wb") as file:
                while count < asked.bytes:
                    piece = self._wire.receive(self._limits.frame)
                    if not isinstance(piece, bytes) or not piece or count + len(piece) > asked.bytes:
                        raise LinkError("garbage: not the pieces of the file that was announced", reason="garbage")
                    try:
                        file.write(b"" if full else piece)
                    except OSError as error:
                        full = error.strerror or str(error)  # said when the client has sent all of it, and listens
                    found.update(piece)
                    count += len(piece)
            if full:
                raise LinkError(f"on the device: {full}", reason="full")
            if found.hexdigest() != asked.digest:
                said = f"what arrived has the digest {found.hexdigest()}, announced was {asked.digest}"
                raise LinkError(said, reason="failed", hint="the file was changed meanwhile: send it again")
            self._device.put(arrived, asked.digest)
        return {}

    def _get(self, asked: Get) -> dict[str, Any]:
        name, path = check_name(asked.folder), asked.path
        self._inside(name, path)
        with tempfile.TemporaryDirectory(prefix=ARRIVING, dir=self._root) as scratch:
            self._device.get(name, path, leaving := Path(scratch) / "file")
            self._wire.send({"bytes": leaving.stat().st_size})
            with leaving.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    self._wire.send_piece(piece)
        return {}

    def _start(self, asked: Start) -> None:
        """Run a program until it ends, the client goes, or its time is over."""
        command = self._programs.get(tuple(asked.command))
        if command is None:
            known = " or ".join(" ".join(one) for one in self._programs)
            said = f"a served device runs {known} only, not {' '.join(asked.command)[:100]!r}"
            raise LinkError(said, reason="refused", hint="reach the device by ssh to run other programs")
        if more := set(asked.environment) - THREADS:
            raise LinkError(f"a served device sets no {min(more)[:60]!r} for a program", reason="refused")
        self._only(asked.holder)
        name = check_name(asked.folder)
        with self._device.start(name, command, asked.environment) as program:
            self._say(f"{self._wire.label} runs {asked.command[-1]} in {name}, as {asked.holder}")
            self._wire.send({})
            gone = threading.Event()
            listener = threading.Thread(target=self._listen, args=(program, gone), daemon=True)
            listener.start()
            try:
                self._relay(program, gone)
            finally:
                program.close()
                self._wire.end()
                listener.join()

    def _relay(self, program: Talk, gone: threading.Event) -> None:
        """The program's lines to the client, until one of the two ends, or the time is over."""
        until = time.monotonic() + self._limits.program
        while not gone.is_set():
            try:
                line = program.read(LOOK_SECONDS) + b"\n"
            except LinkError as error:
                if error.reason == "timeout" and time.monotonic() < until:
                    continue
                with contextlib.suppress(LinkError):  # or the client has gone, too
                    self._wire.send(_told(error))
                return
            try:
                for start in range(0, len(line), PIECE_BYTES):
                    self._wire.send_piece(line[start : start + PIECE_BYTES])
            except LinkError:
                return

    def _listen(self, program: Talk, gone: threading.Event) -> None:
        """The client's lines to the program; a client that goes, or speaks nonsense, ends it."""
        line = bytearray()
        try:
            while len(line) <= LINE:
                piece = self._wire.receive(self._limits.frame, self._limits.program)
                if not isinstance(piece, bytes):
                    break
                line += piece
                while (end := line.find(b"\n")) >= 0:
                    program.write(bytes(line[: end + 1]))
                    del line[: end + 1]
        except LinkError:
            pass  # gone, or the program has ended
        gone.set()


def _told(error: EdgekdError) -> dict[str, Any]:
    reason = error.reason if isinstance(error, LinkError) else "failed"
    user = isinstance(error, UserError)
    return {"error": {"message": error.message, "reason": reason, "hint": error.hint, "user": user}}
