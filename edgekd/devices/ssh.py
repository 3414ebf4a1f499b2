"""A device behind the system's OpenSSH, whose own configuration, agent and known hosts count.

One connection is opened and shared by all that runs (ControlMaster). No password is ever asked for or given on a command
line (BatchMode), and a host whose key is not known, or is another than it was, is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, final

from edgekd.devices.link import LinkError
from edgekd.devices.local import CommandLink, ended
from edgekd.errors import UserError
from edgekd.reach import Ssh

PORT = 22  # not said to ssh: its configuration may know another
WAY = 255  # ssh's own exit code
FOLDER = ".cache/edgekd-device"  # from the login's home
SOCKET_BYTES = (
    45  # at most so long may the folder's name be: a socket's is of 104 bytes, with a digest and a suffix of 59
)
CONNECT_SECONDS, ALIVE_SECONDS, ALIVE_COUNT = 10, 5, 3
CHANGED = re.compile(r"Host key for \S+ has changed")
UNKNOWN = re.compile(r"Host key verification failed|No \S+ host key is known")
DENIED = re.compile(r"Permission denied|Too many authentication failures|UNPROTECTED PRIVATE KEY")
UNNAMED = re.compile(r"Could not resolve hostname|Bad configuration option|Can't open user config file")


@final
class SshLink(CommandLink):
    """`[reach] kind = "ssh"`: host, port, user and key; what is left out is as OpenSSH's configuration has it."""

    kind: ClassVar[str] = "ssh"

    def __init__(self, reach: Ssh, name: str) -> None:
        if not reach.host or reach.host.startswith("-"):
            raise UserError(
                f"{name}: [reach] names no host", hint='write it into a target of your own: host = "pi.local"'
            )
        if shutil.which("ssh") is None:
            raise UserError("OpenSSH's ssh is not here", hint="apt-get install openssh-client")
        self.reach, self.root = reach, reach.folder or FOLDER
        at = f"{reach.user}@{reach.host}" if reach.user else reach.host
        self.label = f"{name} ({at}{f':{reach.port}' if reach.port != PORT else ''})"
        self._folder = Path(tempfile.mkdtemp(prefix="edgekd-ssh-"))

    def argv(self, script: str) -> list[str]:
        return [*self._ssh(), "--", self.reach.host, f"exec /bin/sh -c {shlex.quote(script)}"]

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": CONNECT_SECONDS,
            "ServerAliveInterval": ALIVE_SECONDS,
            "ServerAliveCountMax": ALIVE_COUNT,
            "RequestTTY": "no",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
        }
        if self.reach.port != PORT:
            options["Port"] = self.reach.port
        if self.reach.user:
            options["User"] = self.reach.user
        shared = len(os.fsencode(self._folder)) <= SOCKET_BYTES
        options |= {"ControlMaster": "auto", "ControlPersist": "60"} if shared else {"ControlMaster": "no"}
        options |= {"IdentitiesOnly": "yes"} if self.reach.key else {}
        named = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        # As words of their own: an option's value ends at its first space.
        files = {"-F": self.reach.config, "-i": self.reach.key, "-S": self._folder / "%C" if shared else "none"}
        return ["ssh", *named, *(word for flag, path in files.items() if path for word in (flag, str(path)))]

    def told(self, code: int, said: str) -> LinkError:
        if code != WAY:
            return ended(self.label, code, said)
        host = f"[{self.reach.host}]:{self.reach.port}" if self.reach.port != PORT else self.reach.host
        port = f"-p {self.reach.port} " if self.reach.port != PORT else ""
        if CHANGED.search(said):
            message = f"{self.label}: the host's key is another than it was: another machine, or someone in between"
            hint = f"if you know why it changed: ssh-keygen -R '{host}', then connect once by hand: ssh {port}{self.reach.host}"
        elif UNKNOWN.search(said):
            message = f"{self.label}: the host's key is not known here"
            hint = f"connect once by hand and compare its fingerprint: ssh {port}{self.reach.host}"
        elif DENIED.search(said):
            message = f"{self.label}: the login was refused; edgekd asks for no password"
            hint = f"let a key in: ssh-copy-id {port}{self.reach.host}; or name one: [reach] key"
        elif UNNAMED.search(said):
            message, hint = f"{self.label}: no such host", "is [reach] host spelt as OpenSSH's configuration has it?"
        else:
            return LinkError(f"{self.label}: the connection was cut, or could not be made", reason="cut", stderr=said)
        return LinkError(message, reason="refused", stderr=said, hint=hint)

    def is_way(self, code: int) -> bool:
        return code == WAY

    def close(self) -> None:
        if not self._folder.exists():
            return
        if os.listdir(self._folder):
            leave = [*self._ssh(), "-O", "exit", "--", self.reach.host]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(leave, capture_output=True, check=False, timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)
