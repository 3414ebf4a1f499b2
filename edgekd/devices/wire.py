"""What travels between `edgekd devices serve` and who measures there: frames of bounded size, each with a tag.

    frame   length of the body (4 bytes, big-endian) · body · tag (32 bytes)
    tag     HMAC-SHA256(session key, sender · the frame's number (8 bytes) · length · body); zeros while there is no key
    body    a JSON object; or "=" and a piece of a file or of a program's lines

    server  {"served": 1, "nonce": N}
    client  {"nonce": M, "proof": HMAC-SHA256(token, "edgekd client" · N · M)}
    server  {"proof": HMAC-SHA256(token, "edgekd server" · N · M)}; or, after a delay, {"refused": why}
    key     HMAC-SHA256(token, "edgekd session" · N · M)

Both sides prove that they have the token and never send it. N and M are drawn anew for each connection, so what was overheard
opens nothing later, and a frame that was changed, repeated, left out or put in by a third shows by its tag. Nothing is
encrypted: who can listen sees engines and inputs.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, final

from edgekd.devices.link import LinkError

PROTOCOL = 1
HELLO_BYTES = 512  # of a frame from whom nobody knows yet
FRAME_BYTES = 2**20
PIECE_BYTES = 2**18
PIECE = b"="
TAG_BYTES = 32
SECONDS = 30.0  # in which a frame that has begun must be through
LENGTH = struct.Struct(">I")
NUMBER = struct.Struct(">Q")
NONCE = re.compile(r"[0-9a-f]{64}")


@final
class Wire:
    """One end of a connection. One thread may send while another receives.

    `label` is what messages call the other side; `mine` and `theirs` name the senders in the tags.
    """

    def __init__(self, connection: socket.socket, label: str, mine: bytes, theirs: bytes) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.label = label
        self._socket, self._mine, self._theirs = connection, mine, theirs
        self._key, self._limit = b"", HELLO_BYTES
        self._sent = self._received = 0

    def secure(self, key: bytes) -> None:
        """From here on every frame is tagged with `key`, and may be of FRAME_BYTES; dead connections are noticed."""
        self._key, self._limit = key, FRAME_BYTES
        self._sent = self._received = 0
        if self._socket.family == socket.AF_UNIX:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: Mapping[str, Any], seconds: float = SECONDS) -> None:
        """One JSON object. Raises LinkError: cut, or timeout if it was not taken after `seconds`."""
        self._send(json.dumps(message, allow_nan=False).encode(), seconds)

    def send_piece(self, data: bytes) -> None:
        """At most PIECE_BYTES of a file, or of lines. Raises LinkError: cut, or timeout."""
        self._send(PIECE + data, SECONDS)

    def receive(self, seconds: float = SECONDS, idle: float | None = None) -> dict[str, Any] | bytes:
        """The next frame: a JSON object, or the bytes of a piece.

        Raises LinkError: cut, timeout if it was not there whole after `seconds`, garbage for any other thing. With `idle`, its
        start is waited for so many seconds before; nothing is lost where that ends in a timeout.
        """
        body = self._receive(seconds, idle)
        if body.startswith(PIECE):
            return body[len(PIECE) :]
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise LinkError(f"{self.label}: garbage: {body[:60]!r} is no JSON object", reason="garbage")
        return message

    def message(self, seconds: float = SECONDS, idle: float | None = None) -> dict[str, Any]:
        """The next frame, which is a JSON object. Raises what `receive` raises, and LinkError (garbage) for a piece."""
        found = self.receive(seconds, idle)
        if isinstance(found, bytes):
            raise LinkError(f"{self.label}: garbage: data where a message was due", reason="garbage")
        return found

    def end(self) -> None:
        """Cut the connection: whoever waits for it, here or there, learns so. Any thread may call it."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut it, and give its descriptor back, which nobody may wait for any more. A second call does nothing."""
        self.end()
        self._socket.close()

    def _send(self, body: bytes, seconds: float) -> None:
        until, head = time.monotonic() + seconds, LENGTH.pack(len(body))
        left = memoryview(head + body + self._tag(self._mine, self._sent, head, body))
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                self._wait(selectors.EVENT_WRITE, until, "a frame was not taken in time")
            except OSError as error:
                raise self._cut(error.strerror or str(error)) from None
        self._sent += 1

    def _receive(self, seconds: float, idle: float | None) -> bytes:
        if idle is not None:
            self._wait(selectors.EVENT_READ, time.monotonic() + idle, f"nothing in {idle:.3g} s")
        until = time.monotonic() + seconds
        head = self._exactly(LENGTH.size, until)
        (length,) = LENGTH.unpack(head)
        if not 0 < length <= self._limit:
            said = f"a frame of {length} bytes, where 1 to {self._limit} are taken"
            raise LinkError(f"{self.label}: garbage: {said}", reason="garbage")
        body = self._exactly(length, until)
        tag = self._exactly(TAG_BYTES, until)
        if not hmac.compare_digest(tag, self._tag(self._theirs, self._received, head, body)):
            raise LinkError(f"{self.label}: garbage: a frame that was changed, repeated or left out", reason="garbage")
        self._received += 1
        return body

    def _tag(self, sender: bytes, number: int, head: bytes, body: bytes) -> bytes:
        if not self._key:
            return bytes(TAG_BYTES)
        return hmac.digest(self._key, sender + NUMBER.pack(number) + head + body, "sha256")

    def _exactly(self, count: int, until: float) -> bytes:
        held = bytearray()
        while len(held) < count:
            try:
                piece = self._socket.recv(min(count - len(held), 2**16))
            except BlockingIOError:
                self._wait(selectors.EVENT_READ, until, f"{len(held)} of {count} bytes came in time")
                continue
            except OSError as error:
                raise self._cut(error.strerror or str(error)) from None
            if not piece:
                raise self._cut(f"after {len(held)} of {count} bytes")
            held += piece
        return bytes(held)

    def _wait(self, event: int, until: float, missed: str) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, event)
                if selector.select(max(0.0, until - time.monotonic())):
                    return
        except (OSError, ValueError):  # another thread has closed it
            raise self._cut("closed") from None
        raise LinkError(f"{self.label}: too slow: {missed}", reason="timeout")

    def _cut(self, why: str) -> LinkError:
        return LinkError(f"{self.label}: the connection was cut: {why}", reason="cut")


def welcome(connection: socket.socket, label: str, token: bytes, seconds: float) -> Wire:
    """The server's side of the handshake, which may take `seconds`.

    Raises LinkError: refused for a client without the token; timeout, cut or garbage for what is no client.
    """
    until, nonce = time.monotonic() + seconds, secrets.token_hex(32)
    wire = Wire(connection, label, b"edgekd server", b"edgekd client")
    wire.send({"served": PROTOCOL, "nonce": nonce}, seconds)
    answer = wire.message(until - time.monotonic())
    theirs, proof = _hex(wire, answer, "nonce"), _hex(wire, answer, "proof")
    if not hmac.compare_digest(proof, _hmac(token, b"edgekd client", nonce, theirs)):
        raise LinkError(f"{label}: refused: its token is another", reason="refused")
    wire.send({"proof": _hmac(token, b"edgekd server", nonce, theirs)}, seconds)
    wire.secure(bytes.fromhex(_hmac(token, b"edgekd session", nonce, theirs)))
    return wire


def turn_away(connection: socket.socket, why: str) -> None:
    """Tell a client why, if it still listens."""
    try:
        Wire(connection, "", b"edgekd server", b"edgekd client").send({"refused": why}, 1.0)
    except (LinkError, OSError):
        return


def introduce(connection: socket.socket, label: str, token: bytes, seconds: float) -> Wire:
    """The client's side of the handshake, which may take `seconds`.

    Raises LinkError: refused if the server turns the token down, or does not have it either; timeout, cut or garbage for
    what is no server of this protocol.
    """
    until, nonce = time.monotonic() + seconds, secrets.token_hex(32)
    wire = Wire(connection, label, b"edgekd client", b"edgekd server")
    hello = _not_refused(wire, wire.message(seconds))
    if hello.get("served") != PROTOCOL:
        said = f"protocol {str(hello.get('served'))[:20]!r}, this edgekd speaks {PROTOCOL}"
        raise LinkError(f"{label}: {said}", reason="garbage", hint="serve and measure with the same edgekd")
    theirs = _hex(wire, hello, "nonce")
    wire.send({"nonce": nonce, "proof": _hmac(token, b"edgekd client", theirs, nonce)}, seconds)
    answer = _not_refused(wire, wire.message(until - time.monotonic()))
    if not hmac.compare_digest(_hex(wire, answer, "proof"), _hmac(token, b"edgekd server", theirs, nonce)):
        raise LinkError(f"{label}: refused here: that server does not have the token", reason="refused")
    wire.secure(bytes.fromhex(_hmac(token, b"edgekd session", theirs, nonce)))
    return wire


def _not_refused(wire: Wire, answer: dict[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        raise LinkError(
            f"{wire.label}: refused: {plain(str(answer['refused'])[:200])}",
            reason="refused",
            hint="name the token file that it serves with",
        )
    return answer


def _hex(wire: Wire, found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not NONCE.fullmatch(value):
        raise LinkError(f"{wire.label}: garbage: {key} is not 64 hexadecimal digits", reason="garbage")
    return value


def plain(text: str) -> str:
    """What a stranger says, without what would move a terminal's cursor."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def _hmac(token: bytes, label: bytes, server: str, client: str) -> str:
    return hmac.digest(token, label + bytes.fromhex(server + client), "sha256").hex()
