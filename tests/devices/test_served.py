"""`edgekd devices serve` as a user runs it: engines are measured over it, it is probed, and it ends clean."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from devices.boards import board as target_by
from devices.boards import real, simulated
from devices.served_board import BRISK, TOKEN, board, until
from project import command, edgekd

from edgekd.backend import load_engine
from edgekd.devices import token
from edgekd.devices.device import connect, reached
from edgekd.devices.link import LinkError
from edgekd.errors import UserError
from edgekd.latency.race import race
from edgekd.progress import Progress
from edgekd.reach import Served
from edgekd.target import Target, find_target

QUIET = Progress(quiet=True)


@dataclass
class Running:
    process: subprocess.Popen[str]
    said: Path
    target: Target
    root: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests here, started and ended as a user does; its folder does not exist before."""
    folder = tmp_path_factory.mktemp("served")
    options = ["--token-file", folder / "deep" / "token", "--folder", folder / "there"]
    with (folder / "stderr").open("w") as said:
        process = subprocess.Popen(
            command("devices", "serve", "--port", "0", *options), stdout=subprocess.PIPE, stderr=said, text=True,
            env={**os.environ, "EDGEKD_STORE": str(folder / "store")},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        reach = "".join(process.stdout.readline() for _ in range(5))
        assert reach.startswith('[reach]\nkind = "served"\nhost = "127.0.0.1"\nport = '), (
            folder / "stderr"
        ).read_text()
        target = target_by(folder, reach.removeprefix("[reach]\n"))
        yield Running(process, folder / "stderr", target, folder / "there")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_token_is_a_file_of_its_owner(running: Running) -> None:
    reach = running.target.reach
    assert isinstance(reach, Served)
    secret = Path(reach.token_file)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and len(secret.read_text().strip()) == 64
    assert f"made the token {secret}" in running.said.read_text()
    assert secret.read_text().strip() not in running.said.read_text()
    assert not any(secret.read_text().strip() in part for part in running.process.args)  # type: ignore[union-attr]


def test_an_engine_is_timed_and_run_there(running: Running, tmp_path: Path) -> None:
    """A simulated engine takes there what it takes, and ONNX Runtime's gives bit for bit what it gives here."""
    (tmp_path / "other").mkdir()
    quick, slow = simulated(tmp_path, "quick", 1e-3), simulated(tmp_path / "other", "slow", 2e-3)
    engine = real(tmp_path / "real")
    with load_engine(engine) as session:
        fed = [
            np.random.default_rng(0).standard_normal((3, *port.shape[1:])).astype(port.dtype)
            for port in session.signature.inputs
        ]
        here = [session.run([x[i : i + 1] for x in fed]) for i in range(3)]
    with reached(running.target, QUIET) as device:
        found = race({"a": quick, "b": slow}, processes=1, seconds=0.1, wait=0, cold_starts=0, device=device)
        there = device.outputs(engine, fed)
    assert found.ratio("b", "a").point == pytest.approx(2.0)
    assert found.device is not None and found.device["reach"] == "served"
    for number, value in enumerate(there):
        assert np.array_equal(value, np.concatenate([one[number] for one in here]))
    until(lambda: not list((running.root / "work").iterdir()))
    until(lambda: "has gone" in running.said.read_text())
    assert "runs edgekd.devices.runner in " in running.said.read_text()
    assert list((running.root / "lease").iterdir()) == [running.root / "lease" / "free"]


def test_nothing_is_sent_twice(running: Running, tmp_path: Path) -> None:
    files = running.root / "files"
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with connect(running.target) as link, link.hold("twice", lambda other: None):
        link.send("one", {"a": tmp_path / "file", "deep/b": tmp_path / "file"})
        kept = {p.name: p.stat().st_mtime_ns for p in files.iterdir()}
        link.send("two", {"c": tmp_path / "file"})
        assert {p.name for p in files.iterdir()} == set(kept)
        assert sorted(p.name for p in (running.root / "work").iterdir()) == ["two"]
        link.get("two", "c", tmp_path / "got")
        link.remove_folder("two")
    assert (tmp_path / "got").read_bytes() == b"x" * 100_000
    assert [p.name for p in (running.root / "lease").iterdir()] == ["free"]


def test_it_is_probed(running: Running, tmp_path: Path) -> None:
    toml = running.said.parent / "board.toml"
    done = edgekd("devices", "probe", toml, "--json", "--write", tmp_path / "mine.toml")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    host = find_target("host", Path())
    assert (found["found"]["triple"], found["found"]["chip"]) == (host.triple, host.chip)
    assert found["found"]["edgekd"], "the Python there is the server's"
    assert "memory" not in found["differs"] and "cores" in found["differs"], "the target file says one core"
    mine = find_target("mine.toml", tmp_path)
    assert mine.reach == running.target.reach and mine.cores == found["found"]["cores"]
    assert "onnxruntime" in mine.backends
    again = edgekd("devices", "probe", toml, "--write", tmp_path / "mine.toml")
    assert again.returncode == 2 and "mine.toml exists" in again.stderr
    text = edgekd("devices", "probe", tmp_path / "mine.toml")
    assert text.returncode == 0 and "the target says" not in text.stdout, text.stdout
    assert "governor" in text.stdout and "sensors" in text.stdout


def test_devices_are_listed(running: Running, tmp_path: Path) -> None:
    done = edgekd("devices", "list", "--in", running.said.parent, "--probe", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["board"]["reached"] == rows["host"]["reached"] == "", rows
    assert "names no host" in rows["raspberry-pi-5"]["lacks"] and rows["raspberry-pi-5"]["reached"]
    assert "stm32n6570-dk" not in rows, "nothing reaches it"
    plain = edgekd("devices")
    assert plain.returncode == 0 and plain.stdout == edgekd("devices", "list").stdout
    assert [line.split()[0] for line in plain.stdout.splitlines()][:2] == ["banana-pi-f3", "galaxy-s24"]


def test_it_ends_with_what_runs_on_it(running: Running, tmp_path: Path) -> None:
    """Ctrl-C while a runner runs: the runner ends too, the client is told, and the exit status is 0. The last test here."""
    with connect(running.target) as link, link.hold("last", lambda other: None):
        link.send("last", {})
        with link.start("last", ("python3", "-P", "-m", "edgekd.devices.runner"), {}) as talk:
            talk.send({"do": "hello"})
            assert talk.receive(60.0)["done"]["protocol"] == 1
            runners = [
                p
                for p in psutil.Process(running.process.pid).children(recursive=True)
                if "edgekd.devices.runner" in p.cmdline()
            ]
            assert runners
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(LinkError) as caught:
                talk.receive(30.0)
            assert caught.value.reason == "cut"
    assert running.process.wait(30) == 0
    assert not [p for p in runners if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert running.said.read_text().endswith("closed\n") and "Traceback" not in running.said.read_text()
    with (
        pytest.raises(LinkError, match="is `edgekd devices serve` running there") as refused,
        connect(running.target) as link,
    ):
        link.held(["0" * 64])
    assert refused.value.reason == "cut"


def test_a_program_ends_with_its_client(tmp_path: Path) -> None:
    """A client that is gone in the middle: what it started is ended, and the device is free again."""
    with board(tmp_path / "there", programs={("sleep",): ("sleep", "61.5")}) as served:
        me = psutil.Process()
        link = served.link()
        assert link.lease("tester.1", 30) == ""
        link.send("work", {})
        talk = link.start("work", ["sleep"], {})
        with pytest.raises(LinkError) as caught:
            talk.read(0.0)
        assert caught.value.reason == "timeout"
        until(lambda: any(p.cmdline() == ["sleep", "61.5"] for p in me.children(recursive=True)))
        (sleeping,) = [p for p in me.children(recursive=True) if p.cmdline() == ["sleep", "61.5"]]
        talk._wire.end()  # type: ignore[attr-defined]  # as a cut cable does
        until(lambda: not sleeping.is_running() or sleeping.status() == psutil.STATUS_ZOMBIE)
        talk.close()
        link.release("tester.1")
        link.close()


def test_a_connection_cut_between_requests_is_made_again(tmp_path: Path) -> None:
    with board(tmp_path / "there") as served, served.link() as link:
        assert link.held(["0" * 64]) == set()
        assert link._requests._wire is not None
        link._requests._wire.end()
        assert link.held(["0" * 64]) == set()
        assert len([line for line in served.said if "connected" in line]) == 2


def test_a_program_has_its_time(tmp_path: Path) -> None:
    limits = replace(BRISK, program=0.2)
    with board(tmp_path / "there", limits, {("sleep",): ("sleep", "60")}) as served, served.link() as link:
        assert link.lease("tester.1", 30) == ""
        link.send("work", {})
        with link.start("work", ["sleep"], {}) as talk, pytest.raises(LinkError) as caught:
            talk.read(10.0)
        assert caught.value.reason == "timeout"
        link.release("tester.1")


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [(0o644, TOKEN, "others may read"), (0o600, b"short", "a token of 5 bytes"), (0o600, b"x" * 5000, "a token of"),
     (None, b"", "does not exist")],
    ids=["open", "short", "long", "missing"],
)  # fmt: skip
def test_tokens_that_are_none(tmp_path: Path, mode: int | None, content: bytes, said: str) -> None:
    place = tmp_path / "token"
    if mode is not None:
        place.write_bytes(content)
        place.chmod(mode)
    with pytest.raises(UserError, match=said):
        token.read(place)


def test_a_token_is_made_once_and_whole(tmp_path: Path) -> None:
    os.umask(before := os.umask(0o000))
    first, made = token.read_or_make(tmp_path / "a" / "token")
    assert made and len(set(first)) > 8
    assert token.read_or_make(tmp_path / "a" / "token") == (first, False)
    assert token.read_or_make(tmp_path / "b" / "token")[0] != first
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["token"] and before is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-bytes", "many"], "--max-bytes"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["--folder", os.devnull], "cannot make"),
        (["--token-file", os.devnull + "/x"], "cannot write the token"),
    ],
    ids=["size", "host", "folder", "token"],
)
def test_what_cannot_be_served_is_the_users_mistake(tmp_path: Path, options: list[str], said: str) -> None:
    done = edgekd(
        "devices", "serve", "--token-file", tmp_path / "token", *options, EDGEKD_STORE=str(tmp_path / "store")
    )
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not done.stdout
