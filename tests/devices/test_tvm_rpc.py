"""A device behind TVM's own RPC server: engines of tvm are sent, timed by its clock, and compute what they compute here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backends.folders import write_program

from edgekd import bundle
from edgekd.backend import load_engine, open_backend
from edgekd.compilers.llvm_target import refused_system
from edgekd.devices.device import reached
from edgekd.devices.link import LinkError
from edgekd.measure import race_bundles
from edgekd.progress import Progress
from edgekd.target import Target, find_target, this_machine

BACKEND = open_backend("tvm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(BACKEND.missing() or refused_system({})), reason=f"tvm is an extra: {BACKEND.missing()}"),
]
BOARD = """
chip = "a board"
triple = "{triple}"
cores = 1
backends = ["tvm"]
[reach]
kind = "tvm-rpc"
host = "127.0.0.1"
port = {port}
"""


def board(folder: Path, port: int) -> Target:
    (folder / "board.toml").write_text(BOARD.format(triple=this_machine()["triple"], port=port))
    return find_target("board.toml", folder)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server on loopback, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "tvm.exec.rpc_server",
        "--host",
        "127.0.0.1",
        f"--port={port}",
        f"--port-end={port + 1}",
    ]
    nothing = subprocess.DEVNULL
    server = subprocess.Popen([*command, "--silent"], stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rpc")
    (folder / "engine").mkdir()
    BACKEND.compile(write_program(folder / "program"), folder / "engine", {}, 1)
    return folder / "engine"


def test_an_engine_is_timed_there_and_computes_the_same(
    port: int, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    target = board(tmp_path, port)
    assert target.unmeasured == "" and target.times("tvm") and not target.times("onnxruntime")
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    with reached(target, Progress(quiet=True)) as device:
        (found,) = device.outputs(engine, [x])
    with load_engine(engine) as session:
        wanted = np.concatenate([session.run([one[None]])[0] for one in x])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    bundle.write(tmp_path / "b", engine, {"name": "n", "backend": "tvm"}, {"inputs": x, "outputs": found}, [], [])
    raced = race_bundles([tmp_path / "b"], seconds=0.2, processes=1, threads=1, seed=0, quiet=True, device=target)
    (latency,) = raced["latency"].values()
    assert 0 < latency["median"] <= latency["p90"] < 1
    assert raced["device"]["reach"] == "tvm-rpc" and raced["device"]["runner"].endswith("TVM RPC")


def test_no_server_is_said_with_the_command(tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        target = board(tmp_path, int(taken.getsockname()[1]))
        with reached(target, Progress(quiet=True)) as device, pytest.raises(LinkError) as caught:
            device.outputs(engine, [np.zeros((1, 1, 8, 8), np.float32)])
    assert "no TVM RPC server at 127.0.0.1" in caught.value.message
    assert "python -m tvm.exec.rpc_server" in caught.value.hint
