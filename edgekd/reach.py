"""How a device is reached. Latency is measured on this machine so far; the other ways are read, checked and shown."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]


class Way(BaseModel):
    """One way to run a program on a device; each kind has its own keys. Schema: targets/README.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@final
class Local(Way):
    """This machine is the device."""

    kind: Literal["local"] = "local"


@final
class Ssh(Way):
    """The system's OpenSSH. Empty: what its own configuration says."""

    kind: Literal["ssh"]
    host: str = ""
    port: Port = 22
    user: str = ""
    key: str = Field("", description="path of the private key")


@final
class Adb(Way):
    """Android's debug bridge. Without a serial number: the only device that is connected."""

    kind: Literal["adb"]
    serial: str = ""


@final
class Exec(Way):
    """A command that runs a program there, given behind it: a simulator's, or a board's own loader."""

    kind: Literal["exec"]
    command: tuple[str, ...] = Field(min_length=1)


@final
class TvmRpc(Way):
    """A TVM RPC server on the device."""

    kind: Literal["tvm-rpc"]
    host: str = ""
    port: Port = 9090


@final
class Unreached(Way):
    """edgekd knows no way: an engine is built into an app or a firmware, and measured there."""

    kind: Literal["none"]


Reach = Annotated[Local | Ssh | Adb | Exec | TvmRpc | Unreached, Field(discriminator="kind")]


def unmeasured(reach: Reach) -> str:
    """Why latency cannot be measured over this way; empty where it can."""
    if isinstance(reach, Local):
        return ""
    if isinstance(reach, Unreached):
        return "this edgekd knows no way to run a program there"
    return f"the device is reached by {reach.kind}, and this edgekd measures on its own machine only"
