"""An Android device by adb's own protocol: its server on this machine is asked for a shell on the device.

A request is its length in four hex digits and its words; the server answers OKAY or FAIL. After `host:transport…` all that
follows goes to the device, and `shell,v2,raw:COMMAND` there keeps standard streams apart: packets of one byte (0 input,
1 output, 2 errors, 3 exit code, 4 end of input), four bytes of length, and the data.

Source: Android platform/packages/modules/adb: docs/dev/services.md, docs/dev/sockets.md, shell_protocol.h.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import socket
import struct
import subprocess
import threading
import time
from typing import IO, ClassVar, final

from edgekd.devices.link import LINE_BYTES, LinkError, Talk
from edgekd.devices.local import ended
from edgekd.devices.pipe import WRITE_SECONDS
from edgekd.devices.shell import ShellLink
from edgekd.devices.wire import plain
from edgekd.errors import UserError
from edgekd.reach import Adb

FOLDER = "/data/local/tmp/edgekd"  # the one place where Android lets a shell run programs
PORT = 5037
ANSWER_SECONDS = 10.0
CHUNK = 65_536
MOST_REQUEST = 0xFFFF  # its length has four digits
MOST_PACKET = 2**24  # adb's own are of 1 MiB at most
INPUT, OUTPUT, ERRORS, EXIT, INPUT_ENDS = range(5)
TAIL_BYTES = 16_384


@final
class AdbLink(ShellLink):
    """`[reach] kind = "adb"`: the device of that serial number, or `"any"`: the only one there is. Android 7 or later."""

    kind: ClassVar[str] = "adb"

    def __init__(self, reach: Adb, name: str) -> None:
        if not reach.serial:
            raise UserError(
                f"{name}: [reach] names no serial", hint='adb devices lists them; serial = "any": the only one'
            )
        self.root, self.label = reach.folder or FOLDER, f"{name} (adb {reach.serial})"
        self._serial = reach.serial

    def execute(self, script: str, source: IO[bytes], sink: IO[bytes], timeout: float) -> tuple[int, str]:
        shell = Shell(self.label, self._serial, script)
        feeding = threading.Thread(target=shell.feed, args=(source,), daemon=True)
        feeding.start()
        try:
            end = time.monotonic() + timeout
            while shell.code is None:
                sink.write(shell.output(end - time.monotonic()))
            return shell.code, shell.tail()
        finally:
            shell.close()
            feeding.join()

    def talk(self, script: str) -> Talk:
        return AdbTalk(Shell(self.label, self._serial, script))

    def close(self) -> None:
        pass


@final
class AdbTalk(Talk):
    """A program on the device, behind one such shell."""

    def __init__(self, shell: Shell) -> None:
        self.label, self._shell, self._held = shell.label, shell, bytearray()

    def write(self, line: bytes) -> None:
        self._shell.input(line)

    def read(self, timeout: float) -> bytes:
        end, seen = time.monotonic() + timeout, 0
        while (at := self._held.find(b"\n", seen)) < 0:
            seen = len(self._held)
            if seen > LINE_BYTES:
                raise LinkError(f"{self.label}: a line of more than {LINE_BYTES} bytes", reason="garbage")
            if self._shell.code is not None:
                if self._held:
                    half = bytes(self._held[:80]).decode("utf-8", "replace")
                    raise LinkError(f"{self.label}: half a line from the device: {half!r}", reason="garbage")
                raise ended(self.label, self._shell.code, self._shell.tail())
            self._held += self._shell.output(end - time.monotonic())
        line = bytes(self._held[:at])
        del self._held[: at + 1]
        return line

    def close(self) -> None:
        self._shell.close()


@final
class Shell:
    """One command on the device. `code` is its exit code once it has ended."""

    def __init__(self, label: str, serial: str, script: str) -> None:
        self.label = label
        self.code: int | None = None
        self._said, self._writing = bytearray(), threading.Lock()
        self._socket = _connected(label)
        try:
            self._ask("host:transport-any" if serial == "any" else f"host:transport:{serial}")
            self._ask(f"shell,v2,raw:exec /system/bin/sh -c {shlex.quote(script)}")
            wait = struct.pack("@ll", int(WRITE_SECONDS), 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)  # for a program that reads nothing
        except BaseException:
            self._socket.close()
            raise

    def output(self, timeout: float) -> bytes:
        """Some of what it prints; nothing where it said something else, or has ended. Raises LinkError: cut, timeout."""
        kind, size = struct.unpack("<BI", self._receive(5, timeout))
        if size > MOST_PACKET:
            raise LinkError(f"{self.label}: garbage from adb: a packet of {size} bytes", reason="garbage")
        data = self._receive(size, timeout)
        if kind == ERRORS:
            self._said = (self._said + data)[-TAIL_BYTES:]
        elif kind == EXIT:
            self.code = data[0] if data else 0
        return data if kind == OUTPUT else b""

    def input(self, data: bytes) -> None:
        """Give it some input. Raises LinkError: cut."""
        self._send(INPUT, data)

    def feed(self, source: IO[bytes]) -> None:
        """Give it all of a file, and then the end of its input. Whatever fails shows where its output is read."""
        try:
            while chunk := source.read(CHUNK):
                self._send(INPUT, chunk)
            self._send(INPUT_ENDS, b"")
        except LinkError:
            pass

    def tail(self) -> str:
        """The last lines of what it said on its standard error."""
        return "\n".join(f"  | {line[:300]}" for line in self._said.decode("utf-8", "replace").splitlines()[-12:])

    def close(self) -> None:
        """End it: adb's daemon ends a command whose connection is closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # whoever sends in another thread stops
        self._socket.close()

    def _send(self, kind: int, data: bytes) -> None:
        try:
            with self._writing:
                self._socket.sendall(struct.pack("<BI", kind, len(data)) + data)
        except BlockingIOError:
            message = f"{self.label}: the program reads nothing for {WRITE_SECONDS:.3g} s"
            raise LinkError(message, reason="timeout", stderr=self.tail()) from None
        except OSError as error:
            raise self._cut(str(error)) from None

    def _ask(self, words: str) -> None:
        request = words.encode()
        if len(request) > MOST_REQUEST:
            raise LinkError(f"{self.label}: a request of {len(request)} bytes, adb takes 65535", reason="failed")
        try:
            self._socket.sendall(b"%04x" % len(request) + request)
        except OSError as error:
            raise self._cut(str(error)) from None
        answer = self._receive(4, ANSWER_SECONDS)
        if answer == b"OKAY":
            return
        if answer != b"FAIL":
            raise LinkError(f"{self.label}: garbage from adb's server: {answer!r}", reason="garbage")
        try:
            size = int(self._receive(4, ANSWER_SECONDS), 16)
        except ValueError:
            raise LinkError(f"{self.label}: garbage from adb's server", reason="garbage") from None
        why = plain(self._receive(size, ANSWER_SECONDS).decode("utf-8", "replace"))
        gone = "not found" in why or "offline" in why or "no devices" in why
        hint = (
            "allow this computer on the device's screen" if "unauthorized" in why else "adb devices says what is there"
        )
        raise LinkError(f"{self.label}: adb says: {why}", reason="cut" if gone else "refused", hint=hint)

    def _receive(self, size: int, timeout: float) -> bytes:
        end, held = time.monotonic() + timeout, bytearray()
        while len(held) < size:
            if not select.select([self._socket], [], [], max(end - time.monotonic(), 0.0))[0]:
                raise LinkError(f"{self.label}: no answer after {timeout:.3g} s", reason="timeout", stderr=self.tail())
            try:
                chunk = self._socket.recv(min(size - len(held), CHUNK))
            except OSError as error:
                raise self._cut(str(error)) from None
            if not chunk:
                raise self._cut("adb's server closed the connection")
            held += chunk
        return bytes(held)

    def _cut(self, why: str) -> LinkError:
        return LinkError(f"{self.label}: the connection was cut: {why}", reason="cut", stderr=self.tail())


def _connected(label: str) -> socket.socket:
    """A connection to adb's server, which is started if it is not there but adb is."""
    named = os.environ.get("ANDROID_ADB_SERVER_PORT", str(PORT))
    if not named.isdecimal() or not 0 < int(named) < 65_536:
        raise UserError(f"ANDROID_ADB_SERVER_PORT={named} is no port", hint="unset it, or give a number up to 65535")
    place = ("127.0.0.1", int(named))
    for starting in (False, True):
        if starting and shutil.which("adb"):
            subprocess.run(["adb", "start-server"], capture_output=True, check=False, timeout=ANSWER_SECONDS)
        try:
            found = socket.create_connection(place, ANSWER_SECONDS)
            found.settimeout(None)
            return found
        except OSError as error:
            why = error.strerror or str(error)
    message = f"{label}: adb's server does not answer on port {place[1]}: {why}"
    raise LinkError(message, reason="cut", hint="adb start-server; on Debian: apt-get install adb")
