"""One call in a fresh process: whatever a backend does there, the pipeline gets a result or an error with a reason.

    parent: call("compile", {...})  --request as JSON on stdin-->   python -m edgekd.worker
                                    <--JSON lines on stdout-----    {"progress": …}*, then {"result": …} or {"error": …}

What native code prints to stdout goes to stderr, whose last lines a crash's error quotes. The worker ends with its parent.
Starting one imports the standard library only; what a task needs, it imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from edgekd.errors import EdgekdError, UserError

Progress = Callable[[dict[str, Any]], None]

TASKS = {
    "unsupported": ("edgekd.tasks:ask_unsupported", "asking what is unsupported"),
    "compile": ("edgekd.tasks:compile_program", "compiling"),
    "compile each": ("edgekd.tasks:compile_each", "compiling"),
    "tune": ("edgekd.tasks:tune", "tuning"),
    "evaluate": ("edgekd.tasks:evaluate", "evaluating"),
    "tensors": ("edgekd.tasks:tensors", "looking inside"),
    "measure": ("edgekd.latency.rounds:measure", "measuring"),
    "cold_start": ("edgekd.latency.rounds:cold_start", "measuring the cold start"),
    "profile": ("edgekd.latency.rounds:profile", "profiling"),
    "sustain": ("edgekd.latency.sustained:run", "measuring under sustained load"),
    "throughput": ("edgekd.latency.throughput:run", "measuring the throughput"),
    "instructions": ("edgekd.latency.instructions:instructions", "counting instructions"),
}
TAIL_LINES, TAIL_BYTES = 12, 16_384
LINE_BYTES = 512 * 2**20
ENDING_S = 5.0
"""How long a worker may take to end once its output is closed."""
PR_SET_PDEATHSIG = 1


class WorkerError(EdgekdError):
    """A worker failed. `reason`: crashed, exited, timeout, garbage or failed; `stderr`: the last lines that it wrote."""

    def __init__(self, message: str, *, reason: str, stderr: str = "", hint: str = "") -> None:
        super().__init__(f"{message}\n{stderr}" if stderr else message, hint=hint)
        self.reason, self.stderr = reason, stderr


def thread_env(threads: int) -> dict[str, str]:
    """Environment that holds the thread pools of numpy and of the runtimes to `threads`."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def call(
    function: str,
    request: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """The result of `function(request, progress)`, run in a worker process.

    `function` is a task's name or "package.module:function"; it takes a dict and a function that sends progress, and
    gives a dict; all of JSON. `env` is added to this process's environment. `timeout` is in seconds.
    Raises WorkerError if the worker crashes, exits, takes too long, answers garbage or raises; UserError if it raises
    that. An interrupt here ends the worker before it goes on.
    """
    path, doing = TASKS.get(function, (function, f"running {function}"))
    with tempfile.TemporaryFile() as said:
        child = started(path, request, env or {}, said)
        assert child.stdout is not None
        answer: dict[str, Any] = {}
        try:
            for line in _lines(child, child.stdout, timeout):
                message = parsed(line, doing, said)
                if "progress" in message:
                    doing = str(message["progress"].get("doing", doing))
                    if on_progress:
                        on_progress(message["progress"])
                else:
                    answer = message
            code = exit_code(child)
        except TimeoutError:
            raise WorkerError(
                f"timeout: no result after {timeout:g} s while {doing}", reason="timeout", stderr=_tail(said)
            ) from None
        finally:
            end(child)
        return judged(answer, code, doing, said)


def started(
    function: str, request: Mapping[str, Any], env: Mapping[str, str], said: IO[bytes]
) -> subprocess.Popen[bytes]:
    """A worker that was asked for `function` ("module:function"), in a session of its own; its stderr goes to `said`."""
    with tempfile.TemporaryFile() as asked:
        asked.write(json.dumps({"function": function, "request": dict(request), "parent": os.getpid()}).encode())
        asked.seek(0)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "edgekd.worker"],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=said,
            env=_environment_with(env),
            start_new_session=True,
        )


def exit_code(child: subprocess.Popen[bytes]) -> int | None:
    """Of a worker whose output is closed; None where it goes on all the same."""
    try:
        return child.wait(timeout=ENDING_S)
    except subprocess.TimeoutExpired:
        return None


def _environment_with(extra: Mapping[str, str]) -> dict[str, str]:
    merged = {**os.environ, **extra}
    root = str(Path(__file__).resolve().parent.parent)
    merged["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [merged.get("PYTHONPATH")])])
    return merged


def _lines(child: subprocess.Popen[bytes], pipe: IO[bytes], timeout: float | None) -> Iterator[bytes]:
    """Lines as they come, until the pipe is closed, or the child has ended while what it forked holds the pipe open.

    Raises TimeoutError after `timeout` seconds.
    """
    end = None if timeout is None else time.monotonic() + timeout
    held = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            if not selector.select(1.0 if left is None else min(left, 1.0)):
                if child.poll() is not None:
                    return
                continue
            chunk = os.read(pipe.fileno(), 65_536)
            start = len(held)
            held += chunk
            if b"\n" in chunk or not chunk:
                *whole, rest = bytes(held).split(b"\n")
                yield from whole
                held = bytearray(rest)
            if not chunk:
                if held:
                    yield bytes(held)
                return
            if start > LINE_BYTES:
                yield bytes(held[:200])
                return


def parsed(line: bytes, doing: str, said: IO[bytes]) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    known = ("progress", "result", "error")
    if not isinstance(message, dict) or not any(isinstance(message.get(kind), dict) for kind in known):
        start = line[:80].decode("utf-8", "replace")
        raise WorkerError(f"garbage from the worker while {doing}: {start!r}", reason="garbage", stderr=_tail(said))
    return message


def judged(answer: Mapping[str, Any], code: int | None, doing: str, said: IO[bytes]) -> dict[str, Any]:
    """The result in `answer`, or the error that it or the exit code tells of. A result sent before a crash counts."""
    if "result" in answer:
        return dict(answer["result"])
    if "error" in answer:
        error = answer["error"]
        if error["kind"] == "user":
            raise UserError(error["message"], hint=error["hint"])
        message = error["message"] if error["kind"] == "edgekd" else f"failed while {doing}: {error['message']}"
        raise WorkerError(message, reason="failed", stderr=error["trace"], hint=error["hint"])
    if code is None:
        raise WorkerError(
            f"the worker closed its output with no result while {doing}, and goes on",
            reason="exited",
            stderr=_tail(said),
        )
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        hint = "out of memory? the kernel's log tells (dmesg)" if name == "SIGKILL" else ""
        raise WorkerError(
            f"crashed: signal {-code} ({name}) while {doing}", reason="crashed", stderr=_tail(said), hint=hint
        )
    raise WorkerError(
        f"the worker ended with exit code {code} and no result while {doing}", reason="exited", stderr=_tail(said)
    )


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - TAIL_BYTES))
    lines = said.read().decode("utf-8", "replace").splitlines()
    return "\n".join(f"  | {line[:300]}" for line in lines[-TAIL_LINES:])


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill the worker and whatever it started (its own session), and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout:
        child.stdout.close()


def _die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when its parent ends, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit(1)


def main() -> NoReturn:
    """The worker's side: one request from stdin, answers to what was stdout."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    asked = json.load(sys.stdin)
    _die_with_parent(asked["parent"])

    def send(kind: str, value: Mapping[str, Any]) -> None:
        channel.write(json.dumps({kind: value}, allow_nan=False) + "\n")
        channel.flush()

    try:
        module, _, name = asked["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        send("result", function(asked["request"], lambda value: send("progress", value)))
    except UserError as error:
        send("error", {"kind": "user", "message": error.message, "hint": error.hint, "trace": ""})
    except EdgekdError as error:
        send("error", {"kind": "edgekd", "message": error.message, "hint": error.hint, "trace": ""})
    except Exception as error:
        trace = "\n".join(f"  | {line}" for line in traceback.format_exc().splitlines()[-TAIL_LINES:])
        send("error", {"kind": "other", "message": f"{type(error).__name__}: {error}", "hint": "", "trace": trace})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # runtimes' own exit handlers have crashed after the answer was given


if __name__ == "__main__":
    main()
