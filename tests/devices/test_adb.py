"""adb's protocol, spoken with a scripted server (adb_server.py): no phone is here."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from devices.adb_server import AdbServer
from devices.boards import board, real

from edgekd.devices.device import connect, reached
from edgekd.devices.link import LinkError
from edgekd.errors import UserError
from edgekd.latency.race import race
from edgekd.progress import Progress
from edgekd.target import Target

QUIET = Progress(quiet=True)


def phone(folder: Path, server: AdbServer, monkeypatch: pytest.MonkeyPatch, serial: str = "R5CT") -> Target:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    more = f'folder = "{folder / "there"}"\npython = "{sys.executable}"'
    return board(folder, f'kind = "adb"\nserial = "{serial}"\n{more}', "phone")


def test_a_race_over_adb_goes_on_after_the_cable_was_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.devices.process.PROGRESS_SECONDS", 0.0)
    with AdbServer("R5CT", "other") as server:
        pulled: list[int] = []

        def pull(message: dict[str, Any]) -> None:
            if message.get("done", 0) >= 3 and not pulled:
                pulled.append(message["done"])
                server.cut()

        with reached(phone(tmp_path, server, monkeypatch), QUIET) as device:
            asked: dict[str, Any] = {"processes": 1, "seconds": 0.5, "block": 0.02, "wait": 0.0, "cold_starts": 0}
            found = race({"a": real(tmp_path, "a")}, **asked, on_progress=pull, device=device)
        assert pulled and found.device is not None
        assert found.device["processes"][0]["resumed"] == 1
        assert (found.runners["a"].samples > 0).all() and len(found.order[0]) > 5
        assert {words for words in server.asked if words.startswith("host:")} == {"host:transport:R5CT"}
        assert any(words.startswith("shell,v2,raw:exec /system/bin/sh -c ") for words in server.asked)
    assert not list((tmp_path / "there" / "work").iterdir())


def test_any_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdbServer("A") as server, connect(phone(tmp_path, server, monkeypatch, "any")) as link:
        assert link.held({"a" * 64}) == set()
    with AdbServer("A", "B") as server, connect(phone(tmp_path, server, monkeypatch, "any")) as link:
        with pytest.raises(LinkError, match="adb says: more than one device/emulator") as caught:
            link.held({"a" * 64})
        assert caught.value.reason == "refused" and "adb devices" in caught.value.hint


def test_what_adb_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdbServer("A") as server, connect(phone(tmp_path, server, monkeypatch, "B")) as link:
        with pytest.raises(LinkError, match="device 'B' not found") as caught:
            link.held({"a" * 64})
        assert caught.value.reason == "cut", "it may come back"
        server.refuse = "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set"
        with pytest.raises(LinkError, match="device unauthorized") as caught:
            link.held({"a" * 64})
        assert caught.value.reason == "refused" and "on the device's screen" in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))  # adb would start a server
    with connect(phone(tmp_path, server, monkeypatch, "A")) as link, pytest.raises(LinkError, match="does not answer"):
        link.held({"a" * 64})
    target = phone(tmp_path, server, monkeypatch, "A")
    unnamed = target.reach.model_copy(update={"serial": ""})
    with pytest.raises(UserError, match="names no serial"):
        connect(target.model_copy(update={"reach": unnamed}))


def test_a_port_that_is_none_and_a_packet_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdbServer("A") as server:
        target = phone(tmp_path, server, monkeypatch, "A")
    for port in ("many", "0", "70000"):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
        with connect(target) as link, pytest.raises(UserError, match=f"ANDROID_ADB_SERVER_PORT={port} is no port"):
            link.held({"a" * 64})
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pretend() -> None:
            client, _ = listening.accept()
            with client:
                client.sendall(b"OKAYOKAY" + struct.pack("<BI", 1, 2**31) + b"x")
                while client.recv(65_536):
                    pass

        thread = threading.Thread(target=pretend)
        thread.start()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listening.getsockname()[1]))
        with connect(target) as link, pytest.raises(LinkError, match="a packet of 2147483648 bytes") as caught:
            link.held({"a" * 64})
        thread.join(10)
    assert caught.value.reason == "garbage" and not thread.is_alive()


@pytest.mark.skipif(not shutil.which("adb"), reason="needs adb's own server: apt-get install adb")
def test_adbs_own_server_understands_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real server, started as it is found missing; it has no phone, and says so in the words that the scripted one uses."""
    with AdbServer() as freed:
        target = phone(tmp_path, freed, monkeypatch, "nobody")
    try:
        with connect(target) as link, pytest.raises(LinkError, match="adb says: device 'nobody' not found") as caught:
            link.held({"a" * 64})
        assert caught.value.reason == "cut"
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False, timeout=20)
