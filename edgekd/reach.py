"""How a device is reached, and whether latency can be measured there. `edgekd/devices/` goes these ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from edgekd.errors import nearest

Port = Annotated[int, Field(ge=1, le=65535)]
SESSIONS = ("onnxruntime", "openvino", "executorch", "litert", "ncnn", "tvm", "null")
"""Backends that edgekd-bench opens engines of: EDGEKD_BACKENDS in cmake/CMakeLists.txt."""
RUNTIMES = SESSIONS[:-1]
ALWAYS = ("onnxruntime", "null")
"""Those that it opens wherever it runs; of the others a target says where their runtime is."""


def _by_backend(value: Any) -> Any:
    return ({"onnxruntime": value} if value else {}) if isinstance(value, str) else value


def _known(libraries: dict[str, str]) -> dict[str, str]:
    if strange := next((name for name in libraries if name not in RUNTIMES), ""):
        raise ValueError(f"edgekd-bench opens no engines of {strange}; {nearest(strange, RUNTIMES)}")
    return libraries


Libraries = Annotated[dict[str, str], BeforeValidator(_by_backend), AfterValidator(_known)]


class Way(BaseModel):
    """One way to run a program on a device; each kind has its own keys. Schema: targets/README.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    files: ClassVar[tuple[str, ...]] = ()
    """Keys that name a file here, relative to the target's, or a table of files and folders."""

    @final
    def placed(self, folder: Path) -> Self:
        """The same with every file's path absolute, from `folder` on. Raises ValueError for one that is not there."""
        held = {key: getattr(self, key) for key in self.files}
        found = {key: _placed(f"reach.{key}", path, folder) for key, path in held.items() if isinstance(path, str)}
        tables = {
            key: {name: _placed(f"reach.{key}.{name}", path, folder, folders=True) for name, path in table.items()}
            for key, table in held.items()
            if not isinstance(table, str)
        }
        return self.model_copy(update={**found, **tables})


def _placed(key: str, path: str, folder: Path, folders: bool = False) -> str:
    place = (folder / Path(path).expanduser()).absolute()
    if path and not (place.is_file() or (folders and place.is_dir())):
        raise ValueError(f"{key}: {place} does not exist")
    return str(place) if path else ""


@final
class Local(Way):
    """This machine is the device."""

    kind: Literal["local"] = "local"


class Remote(Way):
    """A device other than this machine, on which edgekd measures."""


class Shelled(Remote):
    """One with a shell: measured by edgekd-bench, built with the target's toolchain or given, or by a Python there."""

    files: ClassVar[tuple[str, ...]] = ("runner", "library")
    folder: str = Field("", description="where files go there; by default, the way's own place")
    runner: str = Field(
        "", description="an edgekd-bench that runs there; by default it is built with the target's toolchain"
    )
    library: Libraries = Field(
        default_factory=dict,
        description="by backend, the runtime for the device: a library, or a folder of them, that edgekd-bench loads there; "
        "empty, its own. A text alone is ONNX Runtime's, which by default is the device's own",
    )
    python: str = Field("", description="a Python there that has edgekd: it is the runner then")


@final
class Ssh(Shelled):
    """The system's OpenSSH. Empty: what its own configuration says."""

    files: ClassVar[tuple[str, ...]] = ("runner", "library", "key", "config")
    kind: Literal["ssh"]
    host: str = ""
    port: Port = 22
    user: str = ""
    key: str = Field("", description="path of the private key")
    config: str = Field("", description="a configuration file for ssh, in place of the user's and the system's")


@final
class Adb(Shelled):
    """Android's debug bridge: a serial number, or "any" for the only device that is connected."""

    kind: Literal["adb"]
    serial: str = ""


@final
class Exec(Shelled):
    """A command that runs a program there, given behind it: a simulator's, or a board's own loader."""

    kind: Literal["exec"]
    command: tuple[str, ...] = Field(min_length=1)


@final
class Served(Remote):
    """`edgekd devices serve` on the device, whose Python measures there."""

    files: ClassVar[tuple[str, ...]] = ("token_file",)
    kind: Literal["served"]
    host: str = "127.0.0.1"
    port: Port
    token_file: str = Field("", description="a copy of the device's token; by default, where serve puts it")


@final
class TvmRpc(Remote):
    """A TVM RPC server on the device: engines of tvm alone are measured there."""

    kind: Literal["tvm-rpc"]
    host: str = ""
    port: Port = 9090


@final
class Unreached(Way):
    """edgekd knows no way: an engine is built into an app or a firmware, and measured there."""

    kind: Literal["none"]


Reach = Annotated[Local | Ssh | Adb | Exec | Served | TvmRpc | Unreached, Field(discriminator="kind")]


def unmeasured(reach: Reach) -> str:
    """Why latency cannot be measured over this way; empty where it can."""
    if isinstance(reach, Unreached):
        return "this edgekd knows no way to run a program there"
    lacks = {"ssh": "host", "adb": "serial", "tvm-rpc": "host"}.get(reach.kind, "")
    if lacks and not getattr(reach, lacks):
        return f"the device is reached by {reach.kind}, and the target names no {lacks}"
    return ""
