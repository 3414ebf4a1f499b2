"""OpenSSH's server on loopback, with a key, a configuration and an unprivileged port of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
REPOSITORY = Path(__file__).resolve().parent.parent.parent

needs_sshd = pytest.mark.skipif(
    not (Path(SSHD).is_file() and shutil.which("ssh")), reason="needs OpenSSH's server: apt-get install openssh-server"
)


@dataclass(frozen=True)
class Server:
    """`config` is a client's configuration that knows its key; `process` the listening server."""

    folder: Path
    port: int
    user: str
    process: psutil.Process

    def reach(self, more: str = "", config: str = "config") -> str:
        """The [reach] of a target."""
        return (
            f'kind = "ssh"\nhost = "127.0.0.1"\nport = {self.port}\nuser = "{self.user}"\n'
            f'key = "{self.folder / "key"}"\nconfig = "{self.folder / config}"\n{more}'
        )

    def cut(self) -> int:
        """End every connection that is open, as a pulled cable does; how many processes that were."""
        children = self.process.children(recursive=True)
        mine = [child for child in children if child.name() == "sshd"]
        for child in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return len(mine)

    def leave(self) -> None:
        """No connection is open, and none is taken any more."""
        self.process.suspend()  # or it would start another while its children are ended
        self.cut()
        self.process.kill()


@contextmanager
def serving(folder: Path, user: str | None = None) -> Iterator[Server]:
    """A server that lets `user` (default: this one) in by the key in `folder`."""
    folder.mkdir(parents=True)
    os.makedirs("/run/sshd", exist_ok=True) if os.geteuid() == 0 else None
    for name in ("host", "key", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    keys = folder / "authorized"
    shutil.copyfile(folder / "key.pub", keys)
    user = user or psutil.Process().username()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": keys,
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "MaxStartups": "100",
        "SetEnv": f"PYTHONPATH={REPOSITORY}",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    for name, host in (("config", "host"), ("changed", "other")):
        kind, key = (folder / f"{host}.pub").read_text().split()[:2]
        (folder / f"{name}-hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        (folder / name).write_text(f"UserKnownHostsFile {folder / name}-hosts\nGlobalKnownHostsFile /dev/null\n")
    (folder / "unknown").write_text("UserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        end = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if child.poll() is not None or time.monotonic() > end:
                pytest.skip(f"OpenSSH's server does not start here: {(folder / 'log').read_text().strip()}")
            time.sleep(0.02)
        yield Server(folder, port, user, psutil.Process(child.pid))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(child.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        child.kill()
        child.wait()
