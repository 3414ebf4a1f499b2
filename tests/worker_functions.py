"""What test_worker.py asks worker processes to do, most of it bad."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from edgekd.errors import EdgekdError, UserError


def answer(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    for done in range(3):
        progress({"done": done})
    print("native chatter on stdout")
    return {"given": request, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def modules(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    return {"modules": sorted(m for m in sys.modules if "." not in m)}


def crash(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    print("about to go wrong", file=sys.stderr, flush=True)
    if request.get("doing"):
        progress({"doing": request["doing"]})
    os.kill(os.getpid(), getattr(signal, request["signal"]))
    time.sleep(10)
    return {}


def leave(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    os._exit(request["code"])


def fail(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    raise {"user": UserError, "edgekd": EdgekdError}[request["kind"]]("no such thing", hint="try another")


def stumble(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    return {"value": [][request["index"]]}


def not_json(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    return {"value": float("nan")}


def garbage(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    for descriptor in range(3, 64):  # the answer channel is one of these
        try:
            os.write(descriptor, b"\x00\xffwhat is this\n")
        except OSError:
            continue
    os._exit(0)


def sleep(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    progress({"pids": [os.getpid(), child.pid]})
    time.sleep(600)
    return {}


def fork_and_die(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Die while a forked child, which ignores it all, holds the channel open."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
    progress({"pids": [child]})
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(10)
    return {}


def much(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    return {"values": [0.000123456] * request["count"]}


def close_and_go_on(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    progress({"pids": [os.getpid()]})
    os.closerange(3, 64)  # the answer channel is one of these
    time.sleep(600)
    return {}
