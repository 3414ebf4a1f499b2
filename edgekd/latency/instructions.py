"""Instructions a call, by `perf stat`: they hardly vary, so they show a slowdown that is smaller than a machine's noise.

Virtual machines and containers often have no counters, or forbid them; then there is a reason instead of a number.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekd.backend import Array, Session, Signature, load_engine
from edgekd.latency.clock import VirtualClock
from edgekd.latency.machine import pinned
from edgekd.latency.rounds import sample_inputs
from edgekd.tasks import add_plugins
from edgekd.worker import Progress

EVENT = "instructions:u"
CALLS = 200
SIMULATED = "a simulated device has none"


def unavailable(event: str = EVENT) -> str:
    """Why this machine cannot count `event`, in a few words; empty where it can."""
    if shutil.which("perf") is None:
        return "perf is not installed"
    done = subprocess.run(["perf", "stat", "-x,", "-e", event, "true"], capture_output=True, text=True, check=False)
    return "" if read_count(done.stderr) is not None else f"perf stat cannot count {event} here"


def read_count(lines: str) -> float | None:
    """The value in `perf stat -x,`'s lines; None where it was not counted.

    >>> read_count("# started\\n\\n1234,,instructions:u,1000,100.00,,"), read_count("<not supported>,,instructions:u,0,100.00,,")
    (1234.0, None)
    """
    for line in lines.splitlines():
        fields = line.split(",")
        if len(fields) > 3 and fields[0].replace(".", "", 1).isdigit():
            return float(fields[0])
    return None


def counted(run: Callable[[], None], event: str = EVENT) -> float | None:
    """How often `event` happened in this process, all threads that it has, while `run` ran. None if perf did not tell.

    perf is started with its counters off and turns them on and off when told through pipes, so it counts `run` alone.
    """
    control, told = os.pipe()[::-1], os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        fds = f"fd:{control[1]},{told[1]}"
        command = [
            "perf",
            "stat",
            "-x,",
            "-e",
            event,
            "-D",
            "-1",
            "--control",
            fds,
            "-p",
            str(os.getpid()),
            "-o",
            str(out),
        ]
        perf = subprocess.Popen(
            command, pass_fds=(control[1], told[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(control[1])
        os.close(told[1])
        try:
            for word in (b"enable\n", b"disable\n"):
                os.write(control[0], word)
                if not os.read(told[0], 16):
                    return None
                if word == b"enable\n":
                    run()
            perf.send_signal(signal.SIGINT)
            perf.wait(10)
            return read_count(out.read_text("utf-8"))
        except (OSError, subprocess.TimeoutExpired):
            return None
        finally:
            perf.kill()
            perf.wait()
            os.close(control[0])
            os.close(told[0])


def instructions(request: dict[str, Any], _: Progress) -> dict[str, Any]:
    """{"engine", "inputs", "cores"} to {"instructions"}: of one call, None where they cannot be counted."""
    add_plugins(request)
    engine = Path(request["engine"])
    with pinned(request["cores"]), load_engine(engine) as session:
        return {
            "instructions": per_call(session, sample_inputs(Signature.read(engine), request["inputs"], 0), CALLS)[0]
        }


def per_call(session: Session, inputs: Sequence[Array], count: int) -> tuple[float | None, str]:
    """Instructions of one of `count` calls, after as many to warm up; or None, and why."""
    why = SIMULATED if isinstance(session.clock, VirtualClock) else unavailable()
    if why:
        return None, why

    def calls() -> None:
        for _ in range(count):
            session.run(inputs)

    calls()
    found = counted(calls)
    return (None, "perf failed") if found is None else (found / count, "")
