"""The requests of a client of `edgekd devices serve`, and their answers, each a frame:

    {"do": "held", "digests": […]}                            {"held": […]}
    {"do": "put", "digest": …, "bytes": …}                    {"send": true}, then pieces, then {}; {"send": false}: it is there
    {"do": "make_folder", "holder": …, "folder": …, "files": {path: digest}, "programs": […]}     {}
    {"do": "remove_folder", "holder": …, "folder": …}         {}
    {"do": "get", "folder": …, "path": …}                     {"bytes": …}, then pieces, then {}
    {"do": "lease", "holder": …, "seconds": …}                {"other": who has it, empty: it is the holder's}
    {"do": "release", "holder": …}                            {}
    {"do": "start", "holder": …, "folder": …, "command": […], "environment": {…}}
                                                              {}, then the program's lines both ways, in pieces, until one
                                                              side ends: {"error": …} if it was the program

What cannot be done is answered with {"error": {"message", "reason", "hint", "user"}}. Folders are made and programs started
for the holder of the lease only, and no program but edgekd's own runner.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=200)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@final
class Held(Request):
    do: Literal["held"]
    digests: list[Digest]


@final
class Put(Request):
    do: Literal["put"]
    digest: Digest
    bytes: int = Field(ge=0)


@final
class MakeFolder(Request):
    do: Literal["make_folder"]
    holder: Name
    folder: Name
    files: dict[str, Digest]
    programs: list[str]


@final
class RemoveFolder(Request):
    do: Literal["remove_folder"]
    holder: Name
    folder: Name


@final
class Get(Request):
    do: Literal["get"]
    folder: Name
    path: str


@final
class LeaseFor(Request):
    do: Literal["lease"]
    holder: Name
    seconds: float = Field(gt=0, le=600)


@final
class Release(Request):
    do: Literal["release"]
    holder: Name


@final
class Start(Request):
    do: Literal["start"]
    holder: Name
    folder: Name
    command: list[str]
    environment: dict[str, str]


Asked = Held | Put | MakeFolder | RemoveFolder | Get | LeaseFor | Release | Start
ASKED: TypeAdapter[Asked] = TypeAdapter(Annotated[Asked, Field(discriminator="do")])
