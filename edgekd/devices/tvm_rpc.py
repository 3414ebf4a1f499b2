"""A device with a TVM RPC server (`python -m tvm.exec.rpc_server`, or TVM's in C++): engines of `tvm` are sent and timed there.

The server runs whatever code it is sent and knows no secret: it is for a network of one's own. It speaks TVM's protocol and none
of ours, so the runner is a process here that speaks both: `python -m edgekd.devices.tvm_rpc HOST PORT`. Files stay on this machine;
an engine's library goes over when it is opened. Calls are timed there, by TVM's evaluator and the device's clock; what the device's
sensors, its load and its memory say cannot be asked, and a first result's time holds the way there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, final

import numpy as np

from edgekd import __version__
from edgekd.backend import Array, Signature, open_backend, read_engine
from edgekd.devices.bench import Deployed
from edgekd.devices.link import check_path
from edgekd.devices.local import ShellHere
from edgekd.devices.runner import PROTOCOL, Answer, read_bundle, read_samples, serve
from edgekd.errors import EdgekdError, UserError
from edgekd.reach import TvmRpc
from edgekd.store import default_folder

CONDITIONS: dict[str, Any] = {"celsius": None, "mhz": [], "governor": ""}
STEP = 1e-9  # of the clock that TVM's evaluator reads: std::chrono's, in whole nanoseconds


@final
class TvmRpcLink(ShellHere):
    """A folder here stands for the device's: its programs are this module, which passes on what they are asked."""

    kind: ClassVar[str] = "tvm-rpc"

    def __init__(self, reach: TvmRpc, name: str) -> None:
        if command := open_backend("tvm").missing():
            raise UserError(f"{name} is reached by tvm-rpc, which needs TVM here", hint=command)
        self.root = str((default_folder() / "device" / name).absolute())
        self.label = f"{name} ({reach.host}:{reach.port})"


def runner(reach: TvmRpc) -> Deployed:
    """This module, as the program that a device is given."""
    root = str(Path(__file__).resolve().parents[2])
    searched = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = (sys.executable, "-P", "-m", "edgekd.devices.tvm_rpc", reach.host, str(reach.port))
    return Deployed(command, {}, {"PYTHONPATH": searched})


@final
class RpcRunner:
    """Engines that were opened on the server, by name. A method is a request of the runner's protocol (docs/devices.md)."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self._host, self._port, self._answer = host, port, answer
        self._opened: dict[str, tuple[Any, Signature, list[Array]]] = {}
        self._session: Any = None

    def hello(self, seed: Sequence[int] = ()) -> dict[str, Any]:
        """Connect. Raises EdgekdError where no server answers."""
        from edgekd.backends.tvm import loaded_runtime

        loaded_runtime()
        from tvm import rpc

        try:
            self._session = rpc.connect(self._host, self._port)
        except Exception as error:
            hint = f"start one there: python -m tvm.exec.rpc_server --host 0.0.0.0 --port {self._port}"
            first = str(error).strip().partition("\n")[0]
            raise EdgekdError(f"no TVM RPC server at {self._host}, port {self._port}: {first}", hint=hint) from None
        return {"protocol": PROTOCOL, "runner": f"edgekd {__version__}, TVM RPC", "backends": ["tvm"], "machine": {}}

    def busy(self, seconds: float) -> dict[str, Any]:
        return {"share": 0.0, "per_cpu": []}

    def pin(self, threads: int, used: Sequence[float]) -> dict[str, Any]:
        self._session.get_function("runtime.config_threadpool")(0, threads)
        return {"cores": []}

    def open(self, name: str, bundle: str, inputs: str, index: int) -> dict[str, Any]:
        """Send a bundle's engine, and compute its first result there."""
        from tvm import relax

        folder = Path(check_path(bundle))
        read_bundle(folder)
        _, file = read_engine(folder / "engine", "tvm")
        signature = Signature.read(folder / "engine")
        fed = read_samples(Path(check_path(inputs)), signature)[0]
        sent = f"engine-{index}-{len(self._opened)}.so"
        self._session.upload(str(file), sent)
        started = time.perf_counter()
        machine = relax.VirtualMachine(self._session.load_module(sent), self._session.cpu())
        self._opened[name] = machine, signature, fed
        self._result(name, fed)
        return {"seconds": time.perf_counter() - started, "base": 0, "peak": 0, "step": STEP}

    def time(self, blocks: Sequence[tuple[str, int, int]], lead: int) -> dict[str, Any]:
        """TVM's evaluator makes one call before each block by itself; so many more are made here as `lead` asks for."""
        for index, (name, samples, repeat) in enumerate(blocks):
            machine, _, fed = self._opened[name]
            self._give(machine, fed)
            for _ in range(lead - 1):
                machine.invoke_stateful("main")
            evaluator = machine.time_evaluator("invoke_stateful", self._session.cpu(), number=repeat, repeat=samples)
            taken = [round(mean * repeat * 1e9) for mean in evaluator("main").results]
            self._answer("block", {"index": index, "ns": taken, "conditions": [CONDITIONS, CONDITIONS]})
        return {"others": 0.0}

    def run(self, name: str, inputs: str, outputs: str) -> dict[str, Any]:
        """Outputs for each sample of a file, into another."""
        _, signature, _ = self._opened[name]
        samples = read_samples(Path(check_path(inputs)), signature)
        with Path(check_path(outputs)).open("wb") as file:
            for fed in samples:
                found = zip(signature.outputs, self._result(name, fed), strict=True)
                file.writelines(np.ascontiguousarray(y, dtype=port.dtype).tobytes() for port, y in found)
        return {"samples": len(samples)}

    def _give(self, machine: Any, fed: Sequence[Array]) -> None:
        import tvm

        machine.set_input("main", *(tvm.runtime.tensor(value, self._session.cpu()) for value in fed))

    def _result(self, name: str, fed: Sequence[Array]) -> list[Array]:
        machine, _, _ = self._opened[name]
        self._give(machine, fed)
        machine.invoke_stateful("main")
        found = machine.get_outputs("main")
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]


def main() -> NoReturn:
    host, port = sys.argv[1], int(sys.argv[2])
    serve(lambda _, answer: RpcRunner(host, port, answer))


if __name__ == "__main__":
    main()
