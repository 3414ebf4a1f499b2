"""A small scripted adb server: the wire protocol as its documents give it, with this machine's shell as the device.

No phone is here. This shows that edgekd's side speaks the protocol, not that a phone answers as this does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from types import TracebackType
from typing import Self


class AdbServer:
    """Serves the devices of these serial numbers. `cut` ends every shell that runs, as a pulled cable does."""

    def __init__(self, *serials: str, refuse: str = "") -> None:
        self.serials, self.refuse, self.asked = serials, refuse, []
        self.sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        self._accepting.join()

    def cut(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while words := self._request(client):
                self.asked.append(words)
                if words.startswith("host:transport"):
                    why = self.refuse or self._missing(words)
                    if why:
                        client.sendall(b"FAIL%04x" % len(why) + why.encode())
                        return
                    client.sendall(b"OKAY")
                elif words.startswith("shell,v2,raw:"):
                    client.sendall(b"OKAY")
                    self._shell(client, words.removeprefix("shell,v2,raw:"))
                    return

    def _missing(self, words: str) -> str:
        if words == "host:transport-any":
            return (
                ""
                if len(self.serials) == 1
                else "more than one device/emulator"
                if self.serials
                else "no devices/emulators found"
            )
        serial = words.removeprefix("host:transport:")
        return "" if serial in self.serials else f"device '{serial}' not found"

    def _request(self, client: socket.socket) -> str:
        size = _exactly(client, 4)
        return _exactly(client, int(size, 16)).decode() if size else ""

    def _shell(self, client: socket.socket, command: str) -> None:
        command = command.replace("/system/bin/sh", "/bin/sh", 1)
        writing = threading.Lock()
        child = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdin and child.stdout and child.stderr

        def forward(pipe: object, kind: int) -> None:
            with contextlib.suppress(OSError):
                while chunk := pipe.read1(65_536):  # type: ignore[attr-defined]
                    with writing:
                        client.sendall(struct.pack("<BI", kind, len(chunk)) + chunk)

        def feed() -> None:
            with contextlib.suppress(OSError):
                while header := _exactly(client, 5):
                    kind, size = struct.unpack("<BI", header)
                    data = _exactly(client, size)
                    if kind == 0:
                        with contextlib.suppress(OSError, ValueError):  # it has ended: what comes is read all the same
                            child.stdin.write(data)  # type: ignore[union-attr]
                            child.stdin.flush()  # type: ignore[union-attr]
                    elif kind == 3 or kind == 4:
                        break
            with contextlib.suppress(OSError):
                child.stdin.close()  # type: ignore[union-attr]

        readers = [
            threading.Thread(target=forward, args=(child.stdout, 1)),
            threading.Thread(target=forward, args=(child.stderr, 2)),
        ]
        for reader in readers:
            reader.start()
        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        for reader in readers:
            reader.join()
        code = child.wait()
        child.stdout.close()
        child.stderr.close()
        with writing:
            client.sendall(struct.pack("<BI", 3, 1) + bytes([code & 255 if code >= 0 else 128 - code]))
        feeder.join(5)  # a socket that is closed with words unread takes back what it said


def _exactly(client: socket.socket, size: int) -> bytes:
    held = b""
    while len(held) < size:
        chunk = client.recv(size - len(held))
        if not chunk:
            return b""
        held += chunk
    return held
