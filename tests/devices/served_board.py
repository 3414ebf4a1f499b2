"""A served device in this process, and strangers who speak to it byte by byte."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.devices.served import ServedLink
from edgekd.devices.server import Server
from edgekd.devices.serving import Limits
from edgekd.devices.wire import TAG_BYTES, Wire, introduce

TOKEN = b"an old pond; a frog leaps in; the sound of water"
BRISK = Limits(strangers=3, handshake=0.4, refusal=0.1, frame=0.4, program=20.0, file=10_000_000)
CAT = {("cat",): ("cat",)}


@dataclass
class Board:
    root: Path
    server: Server
    said: list[str]

    def link(self, token: bytes = TOKEN) -> ServedLink:
        return ServedLink("board", *self.server.address, token)

    def wire(self) -> Wire:
        return introduce(self.stranger(), "board", TOKEN, 5.0)

    def stranger(self) -> socket.socket:
        return socket.create_connection(self.server.address, 5.0)

    def heard(self, text: str) -> None:
        """Wait until the server has said it."""
        until(lambda: any(text in line for line in self.said), lambda: f"no {text!r} in {self.said}")

    def left(self) -> list[str]:
        """What lies in its folder, but for the lease."""
        found = [Path(folder, name).relative_to(self.root) for folder, _, names in os.walk(self.root) for name in names]
        return sorted(path.as_posix() for path in found if path.parts[0] != "lease")


@contextmanager
def board(
    root: Path, limits: Limits = BRISK, programs: Mapping[tuple[str, ...], tuple[str, ...]] = CAT, token: bytes = TOKEN
) -> Iterator[Board]:
    said: list[str] = []
    server = Server(root, token, programs, limits=limits, say=said.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Board(root, server, said)
    finally:
        server.close()
        thread.join(timeout=20)
        assert not thread.is_alive()


def until(true: Callable[[], bool], otherwise: Callable[[], str] = lambda: "", seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.005)


def frame(value: Any) -> bytes:
    """A frame before there is a key, whatever it says."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body + bytes(TAG_BYTES)


def read_frame(connection: socket.socket) -> Any:
    (length,) = struct.unpack(">I", exactly(connection, 4))
    body = exactly(connection, length)
    exactly(connection, TAG_BYTES)
    return json.loads(body)


def exactly(connection: socket.socket, count: int) -> bytes:
    held = b""
    while len(held) < count:
        piece = connection.recv(count - len(held))
        assert piece, f"closed after {held!r}"
        held += piece
    return held


def closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it; whatever it still says is passed over."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True
