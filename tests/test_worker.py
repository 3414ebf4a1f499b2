"""Whatever happens in a worker process, the caller gets a result or an error with a reason. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgekd import worker
from edgekd.errors import EdgekdError, UserError
from edgekd.worker import WorkerError
from edgekd.workers import call_all

HERE = {"PYTHONPATH": str(Path(__file__).parent)}


def ask(function: str, request: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    more.setdefault("timeout", 30)
    return worker.call(f"worker_functions:{function}", request or {}, env={**HERE, **worker.thread_env(3)}, **more)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie, which only its parent can reap, has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(*pids: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end and not all(map(gone, pids)):
        time.sleep(0.02)
    return all(map(gone, pids))


def test_a_result_comes_back_with_progress_from_another_process_with_its_own_environment() -> None:
    told: list[dict[str, Any]] = []
    found = ask("answer", {"x": [1, 2.5, "ü"]}, on_progress=told.append)
    assert found["given"] == {"x": [1, 2.5, "ü"]}
    assert found["pid"] != os.getpid()
    assert found["threads"] == "3"
    assert told == [{"done": 0}, {"done": 1}, {"done": 2}]


def test_a_worker_is_light() -> None:
    held = ask("modules")["modules"]
    assert "edgekd" in held
    assert not {"torch", "numpy", "onnx", "onnxruntime", "pydantic"} & set(held)


def test_a_large_answer_comes_whole() -> None:
    assert ask("much", {"count": 300_000})["values"] == [0.000123456] * 300_000


@pytest.mark.parametrize(("name", "hint"), [("SIGSEGV", False), ("SIGABRT", False), ("SIGKILL", True)])
def test_a_crash_names_the_signal_what_was_done_and_the_last_words(name: str, hint: bool) -> None:
    with pytest.raises(WorkerError) as caught:
        ask("crash", {"signal": name, "doing": "compiling with x"})
    error = caught.value
    assert error.reason == "crashed"
    number = int(getattr(signal, name))
    assert error.message.startswith(f"crashed: signal {number} ({name}) while compiling with x\n")
    assert "about to go wrong" in error.stderr
    assert bool(error.hint) == hint


def test_a_crash_of_a_named_task_says_which_task() -> None:
    with pytest.raises(WorkerError, match="failed while compiling: KeyError: 'backend'") as caught:
        worker.call("compile", {}, timeout=30)
    assert caught.value.reason == "failed"
    assert "tasks.py" in caught.value.stderr


def test_an_exit_without_an_answer_is_an_error() -> None:
    with pytest.raises(WorkerError, match="ended with exit code 7 and no result while running worker_functions:leave"):
        ask("leave", {"code": 7})
    with pytest.raises(WorkerError, match="exit code 0") as caught:
        ask("leave", {"code": 0})
    assert caught.value.reason == "exited"


def test_errors_raised_there_are_raised_here() -> None:
    with pytest.raises(UserError, match="no such thing") as user:
        ask("fail", {"kind": "user"})
    assert user.value.hint == "try another"
    with pytest.raises(WorkerError, match="no such thing") as other:
        ask("fail", {"kind": "edgekd"})
    assert (other.value.reason, other.value.hint, other.value.exit_code) == ("failed", "try another", 1)
    with pytest.raises(WorkerError, match="IndexError: list index out of range") as bug:
        ask("stumble", {"index": 4})
    assert "in stumble" in bug.value.stderr
    with pytest.raises(WorkerError, match="ValueError"):
        ask("not_json")
    with pytest.raises(WorkerError, match="ModuleNotFoundError"):
        worker.call("no_such_module:f", {}, timeout=30)


def test_garbage_is_an_error() -> None:
    with pytest.raises(WorkerError, match="garbage from the worker while running") as caught:
        ask("garbage")
    assert caught.value.reason == "garbage"


def test_a_timeout_ends_the_worker_and_what_it_started() -> None:
    pids: list[int] = []
    started = time.monotonic()
    with pytest.raises(WorkerError, match="timeout: no result after 1.5 s") as caught:
        ask("sleep", timeout=1.5, on_progress=lambda p: pids.extend(p["pids"]))
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 15
    assert len(pids) == 2
    assert wait_until_gone(*pids)


def test_a_crash_is_seen_though_a_forked_child_holds_the_channel() -> None:
    pids: list[int] = []
    with pytest.raises(WorkerError, match="SIGSEGV"):
        ask("fork_and_die", on_progress=lambda p: pids.extend(p["pids"]))
    assert wait_until_gone(*pids)


def test_a_worker_that_closes_its_output_unanswered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ENDING_S", 0.2)
    pids: list[int] = []
    with pytest.raises(WorkerError, match="closed its output with no result while running .*, and goes on") as caught:
        ask("close_and_go_on", timeout=None, on_progress=lambda p: pids.extend(p["pids"]))
    assert caught.value.reason == "exited"
    assert wait_until_gone(*pids)


def test_an_error_in_the_progress_function_ends_the_worker() -> None:
    pids: list[int] = []

    def refuse(progress: dict[str, Any]) -> None:
        pids.extend(progress["pids"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask("sleep", on_progress=refuse)
    assert wait_until_gone(*pids)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_ends_with_its_parent(how: signal.Signals) -> None:
    code = (
        "from edgekd import worker\n"
        "worker.call('worker_functions:sleep', {}, on_progress=lambda p: print(*p['pids'], flush=True))\n"
    )
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, HERE["PYTHONPATH"]])}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        assert not any(map(gone, pids))
        parent.send_signal(how)
        _, said = parent.communicate(timeout=20)
        assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
        assert wait_until_gone(*(pids if how == signal.SIGINT else pids[:1]))
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_nor_is_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ENDING_S", 0.2)
    with pytest.raises(
        EdgekdError, match="together: process 1 of 1 failed: the worker closed its output with no result"
    ):
        call_all("worker_functions:close_and_go_on", [{}], [HERE], "together", lambda progress: None)
