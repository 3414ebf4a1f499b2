"""A device that `edgekd devices serve` serves: requests over a socket, with the token in a file that both sides have."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

from edgekd.devices import token
from edgekd.devices.link import LINE_BYTES, Link, LinkError, Talk
from edgekd.devices.shell import parts
from edgekd.devices.wire import FRAME_BYTES, PIECE_BYTES, SECONDS, Wire, introduce, plain
from edgekd.errors import UserError
from edgekd.reach import Served

CONNECT_SECONDS = 10.0
SLOWEST = 10**6  # bytes a second that a device digests and copies at least
Answer = TypeVar("Answer")


@final
class ServedLink(Link):
    """Connections are made when they are first needed, and made again once if they were cut meanwhile.

    Requests take turns on one; the lease has its own, so that a long upload does not lose it; each program has its own,
    and ends with it.
    """

    kind: ClassVar[str] = "served"

    def __init__(self, label: str, host: str, port: int, secret: bytes) -> None:
        self.label = label
        self._address, self._secret = (host, port), secret
        self._requests, self._leasing = _Turns(self._connect), _Turns(self._connect)
        self._holder = ""

    def held(self, digests: Collection[str]) -> set[str]:
        found: set[str] = set()
        for some in parts(sorted(digests), FRAME_BYTES // 2):  # a request is one frame
            answer = self._requests.ask({"do": "held", "digests": some})
            found |= {one for one in _field(answer, "held", list, self.label) if isinstance(one, str)}
        return found & set(digests)

    def put(self, file: Path, named: str) -> None:
        size = file.stat().st_size

        def send(wire: Wire) -> None:
            wire.send({"do": "put", "digest": named, "bytes": size})
            if not _field(_answered(wire), "send", bool, self.label):
                return
            with file.open("rb") as stream:
                left = size
                while left and (piece := stream.read(min(PIECE_BYTES, left))):
                    wire.send_piece(piece)
                    left -= len(piece)
            if left:
                raise LinkError(f"{file} became shorter while it was sent", reason="cut")
            _answered(wire, SECONDS + size / SLOWEST)

        self._requests.take(send)

    def get(self, folder: str, path: str, file: Path) -> None:
        scratch = file.with_name(f".{file.name}.{os.getpid()}")

        def receive(wire: Wire) -> None:
            wire.send({"do": "get", "folder": folder, "path": path})
            left = _field(_answered(wire), "bytes", int, self.label)
            with scratch.open("wb") as stream:
                while left > 0:
                    piece = wire.receive()
                    if isinstance(piece, dict):
                        raise _error(self.label, piece)
                    if not piece or len(piece) > left:
                        raise LinkError(f"{self.label}: garbage: not the bytes that were announced", reason="garbage")
                    stream.write(piece)
                    left -= len(piece)
            _answered(wire)

        try:
            self._requests.take(receive)
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)

    def make_folder(self, name: str, files: Mapping[str, str], programs: Collection[str]) -> None:
        asked = {"folder": name, "files": dict(files), "programs": sorted(programs), "holder": self._holder}
        self._requests.ask({"do": "make_folder", **asked})

    def remove_folder(self, name: str) -> None:
        self._requests.ask({"do": "remove_folder", "folder": name, "holder": self._holder})

    def start(self, folder: str, command: Sequence[str], environment: Mapping[str, str]) -> Talk:
        wire = self._connect()
        asked = {"folder": folder, "command": list(command), "environment": dict(environment), "holder": self._holder}
        try:
            wire.send({"do": "start", **asked})
            _answered(wire)
        except BaseException:
            wire.close()
            raise
        return _ServedTalk(wire, self.label)

    def lease(self, holder: str, seconds: float) -> str:
        answer = self._leasing.ask({"do": "lease", "holder": holder, "seconds": seconds})
        other = plain(_field(answer, "other", str, self.label)[:200])
        if not other:
            self._holder = holder
        return other

    def release(self, holder: str) -> None:
        self._leasing.ask({"do": "release", "holder": holder})

    def close(self) -> None:
        self._requests.close()
        self._leasing.close()

    def _connect(self) -> Wire:
        host, port = self._address
        try:
            connection = socket.create_connection(self._address, CONNECT_SECONDS)
        except OSError as error:
            hint = "is `edgekd devices serve` running there, with this --host and --port?"
            message = f"{self.label}: no connection to {host}, port {port}: {error.strerror or error}"
            raise LinkError(message, reason="cut", hint=hint) from None
        try:
            return introduce(connection, self.label, self._secret, CONNECT_SECONDS)
        except BaseException:
            connection.close()
            raise


def open_served(reach: Served, name: str) -> ServedLink:
    """The link to a served device. Raises UserError for a token that is missing, too short or open to others."""
    secret = token.read(Path(reach.token_file) if reach.token_file else token.default_file())
    return ServedLink(f"{name} ({reach.host}:{reach.port})", reach.host, reach.port, secret)


@final
class _Turns:
    """One connection on which requests take turns. One that was cut since the last turn is made again, once."""

    def __init__(self, connect: Callable[[], Wire]) -> None:
        self._connect, self._lock = connect, threading.Lock()
        self._wire: Wire | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        def exchange(wire: Wire) -> dict[str, Any]:
            wire.send(request)
            return _answered(wire)

        return self.take(exchange)

    def take(self, exchange: Callable[[Wire], Answer]) -> Answer:
        """The result of `exchange(wire)`, which may be run twice."""
        with self._lock:
            if self._wire is not None:
                try:
                    return self._once(exchange, self._wire)
                except LinkError as error:
                    if error.reason != "cut":
                        raise
            self._wire = self._connect()
            return self._once(exchange, self._wire)

    def _once(self, exchange: Callable[[Wire], Answer], wire: Wire) -> Answer:
        try:
            return exchange(wire)
        except UserError:
            raise
        except BaseException as error:
            if not isinstance(error, LinkError) or error.reason in ("cut", "timeout", "garbage"):
                wire.close()  # the two sides may be at different places of the conversation
                self._wire = None
            raise

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


@final
class _ServedTalk(Talk):
    def __init__(self, wire: Wire, label: str) -> None:
        self._wire, self.label = wire, label
        self._held = bytearray()

    def write(self, line: bytes) -> None:
        for start in range(0, len(line), PIECE_BYTES):
            self._wire.send_piece(line[start : start + PIECE_BYTES])

    def read(self, timeout: float) -> bytes:
        until, looked = time.monotonic() + timeout, 0
        while (end := self._held.find(b"\n", looked)) < 0:
            looked = len(self._held)
            if looked > LINE_BYTES:
                raise LinkError(f"{self.label}: garbage: a line without end", reason="garbage")
            piece = self._wire.receive(SECONDS, max(0.0, until - time.monotonic()))
            if isinstance(piece, dict):
                error = _error(self.label, piece)
                if self._held and isinstance(error, LinkError):
                    error.args = (f"{error.args[0]}; before that, half a line",)
                raise error
            self._held += piece
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    def close(self) -> None:
        self._wire.close()


def _answered(wire: Wire, seconds: float = SECONDS) -> dict[str, Any]:
    """The answer to a request. Raises what the device says went wrong."""
    answer = wire.message(seconds)
    if "error" in answer:
        raise _error(wire.label, answer)
    return answer


def _field(answer: Mapping[str, Any], key: str, kind: type[Answer], label: str) -> Answer:
    """What an answer has under a key. Raises LinkError (garbage) where that is not of its kind."""
    found = answer.get(key)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise LinkError(f"{label}: garbage: an answer without {key}", reason="garbage")
    return found


def _error(label: str, answer: Mapping[str, Any]) -> LinkError | UserError:
    said = answer.get("error")
    if not isinstance(said, dict):
        return LinkError(f"{label}: garbage where a piece of data was due", reason="garbage")
    message, hint = (plain(str(said.get(key, ""))[:4000]) for key in ("message", "hint"))
    if said.get("user"):
        return UserError(f"{label}: {message}", hint=hint)
    known = ("cut", "refused", "timeout", "garbage", "exited", "full", "failed")
    reason = next((one for one in known if one == said.get("reason")), "failed")
    return LinkError(f"{label}: {message}", reason=reason, hint=hint)  # type: ignore[arg-type]  # one of the literals
