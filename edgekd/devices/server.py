"""`edgekd devices serve`: this machine as a device on a socket, for whoever has its token."""

from __future__ import annotations

import contextlib
import ipaddress
import selectors
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

from edgekd.devices.bench import RUNNER
from edgekd.devices.fingerprint import SCRIPT
from edgekd.devices.link import LinkError
from edgekd.devices.local import LocalLink
from edgekd.devices.serving import ARRIVING, Limits, Serving
from edgekd.devices.wire import Wire, plain, turn_away, welcome
from edgekd.errors import EdgekdError, UserError

DAY = 86_400
LIMITS = Limits()


@final
class Server:
    """Listens from when it is made; `run` serves until `close`, which another thread or a signal's handler may call.

    `root`: the folder that holds what clients send. `programs`: what clients may start, by the command that they name.
    Raises UserError if the address cannot be listened at.
    """

    def __init__(
        self,
        root: Path,
        token: bytes,
        programs: Mapping[tuple[str, ...], tuple[str, ...]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits = LIMITS,
        say: Callable[[str], None],
    ) -> None:
        self._root, self._token, self._programs = root, token, programs
        self._limits, self._tell = limits, say
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._known: set[threading.Thread] = set()
        self._wake, self._woken = socket.socketpair()
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"cannot make {root}: {error.strerror}", hint="name another folder: --folder") from None
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listening = socket.create_server((host, port), family=family, backlog=16)
        except OSError as error:
            raise UserError(
                f"cannot listen at {host}, port {port}: {error.strerror}", hint="--port 0 takes any that is free"
            ) from None
        self._listening.setblocking(False)
        for left in root.glob(f"{ARRIVING}*"):
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)  # a server that was killed left it

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens at."""
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    def run(self) -> None:
        """Serve until closed; then every connection is cut, and what runs for it is ended."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listening, selectors.EVENT_READ)
                selector.register(self._woken, selectors.EVENT_READ)
                while not self._closing.is_set():
                    selector.select()
                    self._accept()
        finally:
            self.close()
            self._end()

    def close(self) -> None:
        """Ask `run` to end."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def _accept(self) -> None:
        try:
            connection, peer = self._listening.accept()
        except OSError:  # it was the waker, or the stranger has gone, or there are no more descriptors
            self._closing.wait(0.01)
            return
        with self._lock:
            strangers = len(self._open) - len(self._known)
            full = strangers >= self._limits.strangers or len(self._known) >= self._limits.clients
            if not full:
                thread = threading.Thread(target=self._serve, args=(connection, f"{peer[0]}:{peer[1]}"), daemon=True)
                self._open[thread] = connection
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads: as if too many were served
                    del self._open[thread]
                    full = True
        if full:
            connection.close()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        thread = threading.current_thread()
        try:
            wire = self._admitted(connection, peer)
            if wire is None:
                return
            with self._lock:
                self._known.add(thread)
            self._say(f"{peer} connected")
            with LocalLink(self._root) as device:
                Serving(wire, device, self._root, self._programs, self._limits, self._say).run()
        except LinkError as error:
            if error.reason == "cut" or self._closing.is_set():
                self._say(f"{peer} has gone")
            else:
                self._say(f"{peer} was cut off: {error.message}")
        except EdgekdError as error:
            self._say(f"{peer} was cut off: {error.message}")
        finally:
            connection.close()
            with self._lock:
                self._open.pop(thread, None)
                self._known.discard(thread)

    def _admitted(self, connection: socket.socket, peer: str) -> Wire | None:
        """The connection of a client that has the token. Whoever has not is told so after a while."""
        try:
            return welcome(connection, peer, self._token, self._limits.handshake)
        except LinkError as error:
            self._say(f"{error.message}")
            if error.reason == "refused":
                self._closing.wait(self._limits.refusal)
                turn_away(connection, "the token is another")
            return None

    def _say(self, text: str) -> None:
        self._tell(plain(text))

    def _end(self) -> None:
        self._listening.close()
        with self._lock:
            left = dict(self._open)
        for connection in left.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in left:
            thread.join(timeout=10)
        self._wake.close()
        self._woken.close()


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address, in numbers as a socket gives it."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def programs() -> dict[tuple[str, ...], tuple[str, ...]]:
    """What a served device runs, by the command that a client names: the runner, with this Python, and its own probe."""
    return {
        ("python3", *RUNNER): (sys.executable, *RUNNER),
        ("sh", SCRIPT.name): ("sh", str(SCRIPT)),
    }
