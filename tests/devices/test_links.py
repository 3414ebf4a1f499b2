"""What every link promises, on the ways that need nothing but this machine; the lease, in all its cases."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices.adb_server import AdbServer

from edgekd import digest
from edgekd.devices import pipe
from edgekd.devices.adb import AdbLink
from edgekd.devices.exec import ExecLink
from edgekd.devices.link import Link, LinkError, check_path
from edgekd.devices.local import LocalLink
from edgekd.devices.shell import ShellLink
from edgekd.errors import UserError
from edgekd.reach import Adb, Exec


@pytest.fixture(params=["local", "exec", "adb"])
def link(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    folder = tmp_path / "it's there"
    if request.param == "local":
        yield LocalLink(folder)
    elif request.param == "exec":
        yield ExecLink(Exec(kind="exec", command=("env",), folder=str(folder)), "board")
    else:
        with AdbServer("S1") as server:
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
            yield AdbLink(Adb(kind="adb", serial="S1", folder=str(folder)), "phone")


def there(link: Link) -> Path:
    return Path(link.root)  # type: ignore[attr-defined]


def test_nothing_is_sent_twice(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"bin/run it": tmp_path / "a", "data": tmp_path / "b", "again": tmp_path / "a"}
    (tmp_path / "a").write_bytes(b'#!/bin/sh\necho "{}"\n')
    (tmp_path / "b").write_bytes(bytes(range(256)) * 999)
    sent: list[str] = []
    put = ShellLink.put
    monkeypatch.setattr(ShellLink, "put", lambda self, file, named: (sent.append(named), put(self, file, named)))
    link.send("one", files, ["bin/run it"])
    assert sorted(sent) == sorted({digest.of_file(tmp_path / "a"), digest.of_file(tmp_path / "b")})
    link.send("one", files, ["bin/run it"])
    assert len(sent) == 2
    kept = there(link) / "files" / digest.of_file(tmp_path / "b")
    kept.write_bytes(b"a bad card")
    link.send("two", files, ["bin/run it"])
    assert sent[2:] == [digest.of_file(tmp_path / "b")], "what was damaged there is sent again"
    assert [p.name for p in (there(link) / "work").iterdir()] == ["two"], "what another left is removed"
    link.get("two", "data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "b").read_bytes()
    with link.start("two", ["./bin/run it"], {}) as talk:
        assert talk.receive(10) == {}
    link.remove_folder("two")
    assert not list((there(link) / "work").iterdir())


def test_lines_go_in_and_out(link: Link) -> None:
    link.send("one", {})
    with link.start("one", ["cat"], {"A": "1"}) as talk:
        for message in ({"text": 'naïve "quoted" \\ $HOME'}, {"long": "x" * 100_000}):
            talk.send(message)
            assert talk.receive(10) == message


def test_a_simulator_may_be_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "run").chmod(0o700)
    link = ExecLink(Exec(kind="exec", command=("./run", "env"), folder="there"), "board")
    link.send("one", {})
    with link.start("one", ["sh", "-c", "echo '{}'"], {}) as talk:
        assert talk.receive(10) == {}


def test_what_a_program_may_do_wrong(link: Link) -> None:
    def told(script: str, timeout: float = 10) -> LinkError:
        with pytest.raises(LinkError) as caught, link.start("one", ["sh", "-c", script], {}) as talk:
            talk.receive(timeout)
        return caught.value

    link.send("one", {})
    assert told("echo hello").reason == "garbage"
    assert "garbage from the device: 'hello'" in told("echo hello").message
    assert told("echo '[1]'").reason == "garbage"
    assert told("head -c 100000 /dev/zero | tr '\\0' '['; echo").reason == "garbage", "deeper than Python goes"
    half = told("printf '{\"done\": '")
    assert half.reason == "garbage" and "half a line" in half.message
    ended = told("echo it is broken >&2; exit 3")
    assert ended.reason == "exited" and "exit code 3" in ended.message and "| it is broken" in ended.message
    assert told("kill -9 $$").hint == "out of memory there?"
    assert "built for this device" in told("exec ./nowhere").hint
    started = time.monotonic()
    silent = told("sleep 60", 0.2)
    assert silent.reason == "timeout" and "no answer after 0.2 s" in silent.message
    assert time.monotonic() - started < 10, "and it is ended"


def test_a_program_that_reads_nothing_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "END_SECONDS", 0.1)
    link, much, found = LocalLink(tmp_path), b"x" * 1_000_000 + b"\n", []
    link.send("one", {})
    talk = link.start("one", ["sleep", "60"], {})

    def write() -> None:
        try:
            talk.write(much)
        except LinkError as error:
            found.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    time.sleep(0.2)
    started = time.monotonic()
    talk.close()
    writer.join(10)
    assert time.monotonic() - started < 10 and not writer.is_alive()
    assert [error.reason for error in found] == ["cut"]
    monkeypatch.setattr(pipe, "WRITE_SECONDS", 0.2)
    with (
        link.start("one", ["sleep", "60"], {}) as talk,
        pytest.raises(LinkError, match="reads nothing for 0.2 s") as caught,
    ):
        talk.write(much)
    assert caught.value.reason == "timeout"


def test_more_than_one_argument_holds(link: Link, tmp_path: Path) -> None:
    """2,500 digests are 160 kB, what is done with 40 such paths 140 kB: Linux takes 128 KiB of a script, adb 64."""
    assert link.held({f"{number:064x}" for number in range(2500)}) == set()
    (tmp_path / "a").write_text("a")
    deep = "/".join(["d" * 200] * 8)
    link.send("one", {f"{deep}/{number}": tmp_path / "a" for number in range(40)})
    assert len(list((there(link) / "work" / "one" / deep).iterdir())) == 40


def test_no_path_leaves_the_folder(link: Link, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    for path in ("../a", "/a", "a/../../b", "", ".", "a//b", "./a", "a\\b", "c:/a", "a\nb", "a/."):
        with pytest.raises(UserError, match="no path of a file inside its folder"):
            check_path(path)
        with pytest.raises(UserError):
            link.send("one", {path: tmp_path / "a"})
        with pytest.raises(UserError):
            link.get("one", path, tmp_path / "b")
    for name in ("..", "a b", "-rf", "a/b", "", "$x"):
        with pytest.raises(UserError, match="no name on a device"):
            link.remove_folder(name)
    assert not there(link).exists()


def test_a_lease_is_one_holders_until_it_is_over(link: Link) -> None:
    assert link.lease("one", 60) == ""
    assert link.lease("two", 60) == "one"
    assert link.lease("one", 1) == "", "renewed"
    time.sleep(2.1)
    assert link.lease("two", 60) == "", "stale"
    assert link.lease("one", 60) == "two"
    link.release("one")
    assert link.lease("one", 60) == "two", "only the holder gives it back"
    link.release("two")
    assert link.lease("three", 60) == ""
    (held,) = (there(link) / "lease").iterdir()
    holder, _, ends, seconds = held.name.split("@")
    held.rename(held.with_name(f"{holder}@0000@{ends}@{seconds}"))
    assert link.lease("four", 60) == "", "of before the last start"
    (held,) = (there(link) / "lease").iterdir()
    holder, boot, ends, seconds = held.name.split("@")
    held.rename(held.with_name(f"{holder}@{boot}@{int(ends) + 9999}@{seconds}"))
    assert link.lease("five", 60) == "", "of the future: the device's clock went back"


def test_of_many_who_ask_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir(parents=True)
    (tmp_path / "lease" / "gone@0000@5@5").touch()
    found: dict[str, str] = {}

    def ask(name: str) -> None:
        found[name] = LocalLink(tmp_path).lease(name, 60)

    threads = [threading.Thread(target=ask, args=(f"n{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [name for name, other in found.items() if not other]
    assert {other for other in found.values() if other} == {winner}
    assert len(os.listdir(tmp_path / "lease")) == 1


def test_a_second_measurement_waits_and_says_so(tmp_path: Path) -> None:
    link, told, order = LocalLink(tmp_path), [], []

    def second() -> None:
        with LocalLink(tmp_path).hold("second", told.append):
            order.append("second")

    with link.hold("first", told.append) as lease:
        thread = threading.Thread(target=second)
        thread.start()
        while not told:
            time.sleep(0.01)
        order.append("first")
        assert told == [lease.holder]
    thread.join(20)
    assert order == ["first", "second"]


def test_a_lease_is_renewed_and_its_loss_is_noticed(tmp_path: Path) -> None:
    link = LocalLink(tmp_path)
    with link.hold("one", print, seconds=3) as lease:
        time.sleep(4)
        assert link.lease("two", 60) == lease.holder, "renewed behind the scenes"
        lease.check()
        (held,) = (tmp_path / "lease").iterdir()
        held.rename(held.with_name(held.name.replace(lease.holder, "thief")))
        time.sleep(1.5)
        with pytest.raises(LinkError, match="thief measures there now"):
            lease.check()
        (held,) = (tmp_path / "lease").iterdir()
        assert held.name.startswith("thief@")
        held.rename(held.with_name("free"))
        time.sleep(1.2)
        with pytest.raises(LinkError, match="thief"):
            lease.check()  # that it has gone again is no comfort: it measured meanwhile
    assert [p.name for p in (tmp_path / "lease").iterdir()] == ["free"], "and it is not taken back"


def test_no_space_left_is_said_with_where(tmp_path: Path) -> None:
    """A file may grow to 64 KiB only: what a full disk says, where none can be had."""
    import resource

    (tmp_path / "large").write_bytes(b"x" * 200_000)
    link, before = LocalLink(tmp_path / "there"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    try:
        with pytest.raises(LinkError, match="no space left in ") as caught:
            link.send("one", {"large": tmp_path / "large"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.reason == "full" and "[reach] folder" in caught.value.hint
    assert not list((tmp_path / "there" / "files").iterdir()), "nothing half sent is left"
