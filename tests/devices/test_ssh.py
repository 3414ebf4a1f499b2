"""Devices behind a real OpenSSH server on loopback: refused keys, a cut connection, a full disk, two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from devices.boards import board, real, simulated
from devices.sshd import Server, needs_sshd, serving

from edgekd.devices.bench import runner_of
from edgekd.devices.device import Device, connect, reached
from edgekd.devices.link import LinkError
from edgekd.errors import UserError
from edgekd.latency.race import race
from edgekd.progress import Progress
from edgekd.target import Target

pytestmark = needs_sshd
QUIET = Progress(quiet=True)
USER = "edgekd-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("ssh") / "server") as found:
        yield found


def pi(folder: Path, server: Server, name: str = "pi", config: str = "config") -> Target:
    more = f'folder = "{folder / "there"}"\npython = "{sys.executable}"'
    return board(folder, server.reach(more, config), name)


def test_a_race_over_ssh_is_the_race_here(server: Server, tmp_path: Path) -> None:
    engines = {"slow": simulated(tmp_path, "slow", 0.004), "fast": simulated(tmp_path, "fast", 0.001)}
    asked: dict[str, Any] = {"processes": 1, "seconds": 0.2, "wait": 0.0, "cold_starts": 0}
    with reached(pi(tmp_path, server), QUIET) as device:
        there = race(engines, **asked, device=device)
    here = race(engines, **asked)
    assert there.order == here.order
    for name in engines:
        assert there.runners[name].samples.tolist() == here.runners[name].samples.tolist()
    assert there.ratio("slow", "fast").point == pytest.approx(4.0)
    assert there.device is not None and there.device["label"] == f"pi ({server.user}@127.0.0.1:{server.port})"
    rounds = len(there.order[0])
    assert len(there.device["processes"][0]["conditions"]) == 2 * rounds, "around each block"
    assert not list((tmp_path / "there" / "work").iterdir()), "cleaned up"
    assert [p.name for p in (tmp_path / "there" / "lease").iterdir()] == ["free"]


@pytest.mark.parametrize(
    ("config", "said", "cure"),
    [("changed", "key is another than it was", "ssh-keygen -R '[127.0.0.1]:"), ("unknown", "not known", "by hand")],
)
def test_a_host_whose_key_is_wrong_is_refused(
    server: Server, tmp_path: Path, config: str, said: str, cure: str
) -> None:
    with connect(pi(tmp_path, server, config=config)) as link, pytest.raises(LinkError, match=said) as caught:
        link.held({"a" * 64})
    assert caught.value.reason == "refused" and cure in caught.value.hint
    assert not (tmp_path / "there").exists()


def test_a_login_that_is_refused_asks_for_no_password(server: Server, tmp_path: Path) -> None:
    target = pi(tmp_path, server)
    reach = target.reach.model_copy(update={"key": str(server.folder / "other")})
    with connect(target.model_copy(update={"reach": reach})) as link, pytest.raises(LinkError) as caught:
        link.held({"a" * 64})
    assert caught.value.reason == "refused" and "asks for no password" in caught.value.message
    assert "ssh-copy-id" in caught.value.hint


def test_nobody_there_is_a_cut_and_no_host_a_mistake(server: Server, tmp_path: Path) -> None:
    target = pi(tmp_path, server)
    gone = target.reach.model_copy(update={"port": 1})
    with connect(target.model_copy(update={"reach": gone})) as link, pytest.raises(LinkError) as caught:
        link.held({"a" * 64})
    assert caught.value.reason == "cut" and "Connection refused" in caught.value.stderr
    for host in ("", "-oProxyCommand=touch /tmp/x"):
        wrong = target.reach.model_copy(update={"host": host})
        with pytest.raises(UserError, match="names no host"):
            connect(target.model_copy(update={"reach": wrong}))


def test_paths_with_spaces_and_a_scratch_folder_of_a_long_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option's value ends at its first space; a socket's name may be of 104 bytes: then each program connects anew."""
    (tmp_path / "my keys").mkdir()
    for name in ("key", "config"):
        shutil.copy2(server.folder / name, tmp_path / "my keys" / name)
    target = pi(tmp_path, server)
    reach = target.reach.model_copy(
        update={name: str(tmp_path / "my keys" / name) for name in ("key", "config")}
        | {"folder": str(tmp_path / "it's there")}
    )
    target = target.model_copy(update={"reach": reach})
    with connect(target) as link:
        assert link.held({"a" * 64}) == set()
    (tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    with connect(target) as link:
        assert link.held({"a" * 64}) == set()
    assert not list((tmp_path / ("long" * 30)).iterdir())


class Cuts:
    """Progress that cuts the connection once so many rounds are done."""

    def __init__(self, server: Server, *rounds: int) -> None:
        self.server, self.rounds, self.cut = server, list(rounds), 0

    def __call__(self, message: dict[str, Any]) -> None:
        if self.rounds and message.get("done", 0) >= self.rounds[0]:
            self.rounds.pop(0)
            self.cut += self.server.cut() > 0


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.devices.process.PROGRESS_SECONDS", 0.0)
    engines = {"a": real(tmp_path, "a"), "b": simulated(tmp_path, "b", 0.002)}
    target, cuts = pi(tmp_path, server), Cuts(server, 3, 5)
    with held(target, (0.1,)) as device:
        found = race(
            engines, processes=1, seconds=1.0, block=0.02, wait=0.0, cold_starts=0, on_progress=cuts, device=device
        )
    assert cuts.cut == 2
    assert found.device is not None and found.device["processes"][0]["resumed"] == 2
    one, other = (runner.samples for runner in found.runners.values())
    assert one.shape[:2] == other.shape[:2] == (1, len(found.order[0])) and len(found.order[0]) > 8
    assert (one > 0).all() and (other == 0.002).all()
    assert not list((tmp_path / "there" / "work").iterdir())


@contextmanager
def held(target: Target, pauses: tuple[float, ...]) -> Iterator[Device]:
    """`reached`, with other pauses between tries."""
    with (
        connect(target) as link,
        link.hold("test", print, seconds=3) as lease,
        Device(target, link, lease, runner_of(target), QUIET, pauses) as device,
    ):
        yield device


def test_a_device_that_stays_away_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.devices.process.PROGRESS_SECONDS", 0.0)
    engines = {"a": simulated(tmp_path, "a", 0.002)}
    asked: dict[str, Any] = {"processes": 2, "seconds": 0.1, "wait": 0.0, "cold_starts": 0}
    (tmp_path / "kept").mkdir()
    with serving(tmp_path / "server") as server:
        target = pi(tmp_path, server)

        def leave(message: dict[str, Any]) -> None:
            if message.get("process") == 1:
                server.leave()

        with pytest.raises(LinkError, match="given up after 2 tries") as caught, held(target, (0.1,)) as device:
            race(engines, **asked, on_progress=leave, device=device, kept=tmp_path / "kept")
    assert caught.value.reason == "cut" and "what was finished is kept" in caught.value.hint
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["process-0.json"]
    with serving(tmp_path / "again") as server:
        told: list[dict[str, Any]] = []
        with held(pi(tmp_path, server, "pi2"), (0.1,)) as device:
            found = race(engines, **asked, on_progress=told.append, device=device, kept=tmp_path / "kept")
    assert {message["process"] for message in told} == {1}
    assert found.runners["a"].samples.shape[0] == 2


def test_two_devices_at_once_and_two_for_one(server: Server, tmp_path: Path) -> None:
    """Two devices measure side by side; a second measurement on one of them waits until the first has ended."""
    boards = [pi(tmp_path / name, server, name) for name in ("one", "two")]
    engine = simulated(tmp_path, "a", 0.002)
    holding: list[str] = []
    order: list[str] = []
    said: list[str] = []

    class Says(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    def measure(target: Target, name: str) -> None:
        with reached(target, Says()) as device:
            holding.append(name)
            while not said:  # until the late one was told to wait
                time.sleep(0.01)
            order.append(f"{name} begins")
            race({"a": engine}, processes=1, seconds=0.05, wait=0.0, cold_starts=0, device=device)
            order.append(f"{name} ends")

    first = [threading.Thread(target=measure, args=(t, t.name)) for t in boards]
    for thread in first:
        thread.start()
    end = time.monotonic() + 60
    while len(holding) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    late = threading.Thread(target=measure, args=(boards[0], "late"))
    late.start()
    for thread in (*first, late):
        thread.join(60)
    assert any(text.startswith("  waiting: ") and text.endswith(" measures on one") for text in said)
    assert order.index("one ends") < order.index("late begins") and "two ends" in order and order[-1] == "late ends"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk: run as root")
def test_a_full_disk_is_said(server: Server, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(there)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"root cannot mount here: {done.stderr.decode().strip()}")
    try:
        (tmp_path / "large").write_bytes(os.urandom(200_000))
        with connect(pi(tmp_path, server)) as link:
            with pytest.raises(LinkError, match=f"no space left in {there}") as caught:
                link.send("one", {"large": tmp_path / "large"})
            assert caught.value.reason == "full" and "free space" in caught.value.hint
            assert not list((there / "files").iterdir())
            (tmp_path / "small").write_bytes(b"fits")
            link.send("one", {"small": tmp_path / "small"})
    finally:
        subprocess.run(["umount", "-l", str(there)], check=True)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("useradd"), reason="only root can add a second user: run as root"
)
def test_another_user_owns_what_runs_there(tmp_path: Path) -> None:
    """Engines run as who logs in: here as a user who may not even read this test's folder."""
    done = subprocess.run(
        ["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", USER], capture_output=True, check=False
    )
    if done.returncode not in (0, 9):  # 9: left by a test that was killed
        pytest.skip(f"root cannot add a user here: {done.stderr.decode().strip()}")
    try:
        with serving(Path(f"/home/{USER}/server"), USER) as server:
            shutil.chown(server.folder / "authorized", USER)
            tmp_path.chmod(0o700)
            target = board(tmp_path, server.reach(), "pi")
            (tmp_path / "whoami").write_text('#!/bin/sh\necho "{\\"user\\": \\"$(id -un)\\", \\"in\\": \\"$PWD\\"}"\n')
            with connect(target) as link:
                link.send("one", {"whoami": tmp_path / "whoami"}, ["whoami"])
                with link.start("one", ["./whoami"], {}) as talk:
                    said = talk.receive(10)
                assert said == {"user": USER, "in": f"/home/{USER}/.cache/edgekd-device/work/one"}
                kept = Path(f"/home/{USER}/.cache/edgekd-device/files")
                assert kept.owner() == USER and kept.stat().st_mode & 0o777 == 0o700
    finally:
        subprocess.run(["userdel", "--remove", "--force", USER], capture_output=True, check=False)
