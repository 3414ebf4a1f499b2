"""What strangers and clients gone wrong do to a served device: each is turned away, and the next one is served."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devices.served_board import BRISK, TOKEN, Board, board, closed, frame, read_frame, until

from edgekd.devices.link import LinkError
from edgekd.devices.served import ServedLink
from edgekd.devices.wire import PIECE_BYTES, Wire, introduce, welcome
from edgekd.errors import UserError

HELD = b"weights"
DIGEST = hashlib.sha256(HELD).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with board(tmp_path_factory.mktemp("board") / "device") as one:
        yield one


@pytest.fixture
def sent(served: Board, tmp_path: Path) -> Iterator[ServedLink]:
    """A link that holds the lease, and has sent one file."""
    (tmp_path / "file").write_bytes(HELD)
    with served.link() as link:
        link.put(tmp_path / "file", DIGEST)
        assert link.lease("tester.1", 30) == ""
        yield link
        link.release("tester.1")


def still_serves(served: Board) -> None:
    with served.link() as link:
        assert link.held(["0" * 64]) == set()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: board\r\n\r\n",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 2**31) + b"x" * 100,
        struct.pack(">I", 0),
        frame(b"x" * 512)[:-32] + b"t" * 32,
        frame(b"not json"),
        frame(b"[" * 500),
        frame([1, 2]),
        frame({}),
        frame({"nonce": 5, "proof": None}),
        frame({"nonce": "0" * 64, "proof": "é" * 64}),
        frame({"nonce": "0" * 65, "proof": "0" * 64}),
        os.urandom(600),
    ],
    ids=["http", "4 GB", "2 GB", "nothing", "another tag", "no json", "deep", "a list", "empty", "kinds", "letters", "long", "noise"],
)  # fmt: skip
def test_garbage_is_cut_off(served: Board, said: bytes) -> None:
    before = len(served.said)
    with served.stranger() as stranger:
        assert read_frame(stranger)["served"] == 1
        stranger.sendall(said)
        assert closed(stranger)
    until(lambda: any(re.search("garbage|cut", line) for line in served.said[before:]))  # the last guest may yet go
    assert all(line.isprintable() for line in served.said[before:]), "what a stranger says moves no cursor"
    still_serves(served)


@pytest.mark.parametrize(
    "part", [b"", b"\x00\x00", struct.pack(">I", 200) + b'{"nonce": "00'], ids=["none", "length", "body"]
)
def test_half_a_frame(served: Board, part: bytes) -> None:
    with served.stranger() as stranger:
        read_frame(stranger)
        stranger.sendall(part)
        stranger.shutdown(socket.SHUT_WR)
        assert closed(stranger)
    still_serves(served)


def test_a_wrong_token_waits_and_is_refused(served: Board) -> None:
    started = time.monotonic()
    with served.link(b"another token, just as long as the right one") as link, pytest.raises(LinkError) as caught:
        link.held([DIGEST])
    assert time.monotonic() - started >= BRISK.refusal
    assert caught.value.reason == "refused" and "the token is another" in caught.value.message
    assert "token file" in caught.value.hint
    served.heard("refused: its token is another")
    still_serves(served)


def test_a_server_without_the_token_is_not_trusted(tmp_path: Path) -> None:
    """A listener that took the port over learns no token, and is not believed without a proof."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pretend() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(frame({"served": 1, "nonce": "a" * 64}))
                heard.append(read_frame(connection))
                connection.sendall(frame({"proof": heard[0]["proof"]}))  # the client's own, sent back
                closed(connection)

        heard: list[dict[str, str]] = []
        thread = threading.Thread(target=pretend)
        thread.start()
        host, port = listening.getsockname()
        with ServedLink("board", host, port, TOKEN) as link, pytest.raises(LinkError, match="does not have the token"):
            link.held([DIGEST])
        thread.join()
    assert set(heard[0]) == {"nonce", "proof"} and TOKEN.decode() not in str(heard)


@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        ({}, lambda link: link.held([DIGEST])),
        ({"held": DIGEST}, lambda link: link.held([DIGEST])),
        ({"other": 5}, lambda link: link.lease("a", 5)),
        ({"send": 1}, lambda link: link.put(Path(__file__), DIGEST)),
        ({"bytes": True}, lambda link: link.get("work", "a", Path("/nowhere"))),
        ({"error": "all"}, lambda link: link.held([DIGEST])),
    ],
    ids=lambda one: str(one)[:20] if isinstance(one, dict) else "",
)
def test_a_device_that_answers_nonsense(answer: dict[str, object], ask: Callable[[ServedLink], object]) -> None:
    """It has the token, and something is wrong with it all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pretend() -> None:
            connection, _ = listening.accept()
            with connection:
                wire = welcome(connection, "client", TOKEN, 5.0)
                wire.message(5.0)
                wire.send(answer)
                with contextlib.suppress(LinkError):
                    wire.message(5.0)

        thread = threading.Thread(target=pretend)
        thread.start()
        host, port = listening.getsockname()
        with ServedLink("board", host, port, TOKEN) as link, pytest.raises(LinkError, match="garbage") as caught:
            ask(link)
        thread.join(10)
    assert caught.value.reason == "garbage" and not thread.is_alive()


def test_a_program_that_reads_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.devices.pipe.WRITE_SECONDS", 0.3)
    monkeypatch.setattr("edgekd.devices.pipe.END_SECONDS", 0.1)
    (tmp_path / "file").write_bytes(HELD)
    with board(tmp_path / "device", programs={("sleep",): ("sleep", "60")}) as one, one.link() as link:
        link.put(tmp_path / "file", DIGEST)
        assert link.lease("tester.1", 30) == ""
        link.make_folder("work", {"a": DIGEST}, [])
        with link.start("work", ["sleep"], {}) as talk:
            talk.write(b"x" * 200_000 + b"\n")
            with pytest.raises(LinkError, match="cut"):
                talk.read(10.0)
        still_serves(one)


def test_what_was_overheard_opens_nothing(served: Board) -> None:
    """A client's whole side of a connection, sent again on another."""
    ours, theirs = socket.socketpair()
    overheard: list[bytes] = []

    def between() -> None:
        with served.stranger() as real, theirs:
            theirs.sendall(frame(read_frame(real)))
            overheard.append(frame(read_frame(theirs)))
            real.sendall(overheard[0])
            theirs.sendall(frame(read_frame(real)))
            overheard.append(theirs.recv(4096))
            real.sendall(overheard[1])
            theirs.sendall(real.recv(4096))

    thread = threading.Thread(target=between)
    thread.start()
    wire = introduce(ours, "board", TOKEN, 5.0)
    wire.send({"do": "held", "digests": []})
    assert wire.message() == {"held": []}, "relayed as it is, it works"
    wire.close()
    thread.join()
    assert TOKEN not in b"".join(overheard)
    with served.stranger() as stranger:
        read_frame(stranger)
        stranger.sendall(b"".join(overheard))
        assert read_frame(stranger) == {"refused": "the token is another"}
        assert closed(stranger)
    still_serves(served)


@pytest.mark.parametrize("what", ["changed", "repeated", "left out", "of the other side"])
def test_a_frame_shows_what_was_done_to_it(what: str) -> None:
    """Both ends of a connection, with someone in between."""
    client, near = socket.socketpair()
    far, server = socket.socketpair()
    made: list[Wire] = []
    thread = threading.Thread(target=lambda: made.append(welcome(server, "client", TOKEN, 5.0)))
    passing = [(far, near), (near, far), (far, near)]

    def between() -> None:
        for source, sink in passing:
            sink.sendall(frame(read_frame(source)))

    middle = threading.Thread(target=between)
    thread.start()
    middle.start()
    sender = introduce(client, "server", TOKEN, 5.0)
    thread.join()
    middle.join()
    (receiver,) = made
    frames = []
    for number in range(2):
        sender.send({"number": number})
        frames.append(near.recv(4096))
    altered = {
        "changed": [frames[0].replace(b"0}", b"7}")],
        "repeated": [frames[0], frames[0]],
        "left out": [frames[1]],
        "of the other side": [],
    }[what]
    if what == "of the other side":
        near.sendall(frames[0])
        receiver = sender
    for one in altered:
        far.sendall(one)
    if what == "repeated":
        assert receiver.message(1.0) == {"number": 0}
    with pytest.raises(LinkError, match="changed, repeated or left out") as caught:
        receiver.message(1.0)
    assert caught.value.reason == "garbage"
    for one in (client, near, far, server):
        one.close()


@pytest.mark.parametrize(
    "path", ["../escaped", "/escaped", "a/../../escaped", "", ".", "a//b", "a\\..\\b", "C:/x", "a\nb", "a/./b"]
)
def test_paths_stay_in_their_folder(served: Board, sent: ServedLink, path: str) -> None:
    with pytest.raises(UserError, match="is no path of a file inside its folder"):
        sent.make_folder("work", {path: DIGEST}, [])
    with pytest.raises(UserError, match="is no path of a file inside its folder"):
        sent.get("work", path, served.root / "stolen")
    assert not list(served.root.parent.rglob("*escaped*")) and not (served.root / "stolen").exists()


@pytest.mark.parametrize("folder", ["..", "../files", "a/b", "", "-rf", "a b", "$(touch x)", "a;b", "é" * 90])
def test_folders_have_plain_names(sent: ServedLink, folder: str) -> None:
    with pytest.raises(UserError, match="is no name on a device"):
        sent.make_folder(folder, {"a": DIGEST}, [])
    with pytest.raises(UserError, match="is no name on a device"):
        sent.remove_folder(folder)


def test_a_link_left_in_a_folder_leads_nowhere(served: Board, sent: ServedLink, tmp_path: Path) -> None:
    """An engine is native code and may leave a link behind; what is asked for later does not follow it."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    sent.make_folder("work", {"real": DIGEST}, [])
    work = served.root / "work" / "work"
    (work / "file").symlink_to(secret)
    (work / "folder").symlink_to(tmp_path)
    for path in ("file", "folder/secret"):
        with pytest.raises(UserError, match="is no path of a file inside its folder"):
            sent.get("work", path, tmp_path / "stolen")
    for path in ("file", "folder/written"):
        with pytest.raises(UserError, match="is no path of a file inside its folder"):
            sent.make_folder("work", {path: DIGEST}, [])
    assert secret.read_text() == "mine" and not (tmp_path / "written").exists() and not (tmp_path / "stolen").exists()
    sent.get("work", "real", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == HELD
    sent.remove_folder("work")
    assert secret.exists()


def test_a_truncated_upload_leaves_nothing(served: Board) -> None:
    wire, data = served.wire(), os.urandom(1000)
    named = hashlib.sha256(data).hexdigest()
    wire.send({"do": "put", "digest": named, "bytes": 1000})
    assert wire.message() == {"send": True}
    wire.send_piece(data[:600])
    until(lambda: any(path.startswith(".passing") for path in served.left()))
    wire.close()
    until(lambda: not any(path.startswith(".passing") for path in served.left()))
    assert f"files/{named}" not in served.left()
    with served.link() as link:
        assert link.held([named]) == set()


def test_another_content_than_announced_is_not_kept(served: Board, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other weights")
    named = hashlib.sha256(b"these weights").hexdigest()
    with served.link() as link:
        with pytest.raises(LinkError, match="what arrived has the digest") as caught:
            link.put(tmp_path / "file", named)
        assert caught.value.reason == "failed"
        assert link.held([named]) == set(), "and the connection goes on"
    assert f"files/{named}" not in served.left()


def test_more_than_announced_is_cut_off(served: Board) -> None:
    wire = served.wire()
    wire.send({"do": "put", "digest": "1" * 64, "bytes": 3})
    assert wire.message() == {"send": True}
    wire.send_piece(b"more")
    assert wire.message()["error"]["reason"] == "garbage"
    with pytest.raises(LinkError, match="cut"):
        wire.message()
    wire.close()
    assert not [path for path in served.left() if path.startswith(".passing")]


def test_too_large_a_file_is_refused_before_it_is_sent(served: Board) -> None:
    wire = served.wire()
    wire.send({"do": "put", "digest": "1" * 64, "bytes": BRISK.file + 1})
    error = wire.message()["error"]
    assert "where 10.0 MB are taken" in error["message"] and "--max-bytes" in error["hint"]
    wire.send({"do": "put", "digest": "1" * 64, "bytes": -1})
    assert "bytes" in wire.message()["error"]["message"]
    wire.close()


@pytest.mark.parametrize(
    "asked",
    [
        {"do": "shell", "command": "id"},
        {"do": "held", "digests": ["../../x"]},
        {"do": "held", "digests": "0" * 64},
        {"do": "held", "digests": [], "more": 1},
        {"do": "put", "digest": "0" * 64, "bytes": "3"},
        {"do": "put", "digest": "0" * 64, "bytes": True},
        {"do": "lease", "holder": "a", "seconds": float(10**9)},
        {"do": "lease", "holder": "a" * 300, "seconds": 1},
        {"nothing": 1},
        b"data where a request is due",
    ],
    ids=lambda one: str(one)[:24],
)
def test_what_is_no_request_ends_the_connection(served: Board, asked: dict[str, object] | bytes) -> None:
    wire = served.wire()
    if isinstance(asked, bytes):
        wire.send_piece(asked)
    else:
        wire.send(asked)
        assert wire.message()["error"]["reason"] == "garbage"
    with pytest.raises(LinkError, match="cut"):
        wire.message()
    wire.close()
    still_serves(served)


def test_a_frame_larger_than_any_is_refused_unread(served: Board) -> None:
    wire = served.wire()
    with contextlib.suppress(LinkError):  # cut while it is sent, or after
        wire._send(b"=" * (2**20 + 1), 5.0)
    with pytest.raises(LinkError, match="cut"):
        wire.message(5.0)
    wire.close()
    served.heard("a frame of 1048577 bytes, where 1 to 1048576 are taken")


def test_only_what_is_served_is_run(sent: ServedLink) -> None:
    sent.make_folder("work", {"a": DIGEST}, [])
    for command in (["sh", "-c", "id"], ["cat", "/etc/passwd"], [], ["./a"]):
        with pytest.raises(LinkError, match="a served device runs cat only") as caught:
            sent.start("work", command, {})
        assert caught.value.reason == "refused"
    for name in ("LD_PRELOAD", "PYTHONPATH", "PATH", "A=B"):
        with pytest.raises(LinkError, match=f"sets no '{name}'"):
            sent.start("work", ["cat"], {name: "./a"})
    with sent.start("work", ["cat"], {"OMP_NUM_THREADS": "1"}) as talk:
        talk.send({"said": "é" * PIECE_BYTES})
        assert talk.receive(10.0) == {"said": "é" * PIECE_BYTES}


def test_two_clients_and_one_device(served: Board, sent: ServedLink) -> None:
    with served.link() as other:
        assert other.lease("other.1", 30).startswith("tester")
        for refused in (
            lambda: other.make_folder("work", {"a": DIGEST}, []),
            lambda: other.remove_folder("work"),
            lambda: other.start("work", ["cat"], {}),
        ):
            with pytest.raises((LinkError, UserError)):
                refused()
        other._holder = "other.1"
        with pytest.raises(LinkError, match="tester.1 measures on this device"):
            other.make_folder("work", {"a": DIGEST}, [])
        with pytest.raises(LinkError, match="tester.1 measures on this device"):
            other.start("work", ["cat"], {})
        sent.release("tester.1")
        assert other.lease("other.1", 30) == ""
        with pytest.raises(LinkError, match="other.1 measures on this device"):
            sent.make_folder("work", {"a": DIGEST}, [])
        other.release("other.1")


def test_a_slow_stranger_holds_nobody_up(served: Board) -> None:
    """Who says nothing, or a byte now and then, is cut off when the handshake's time is over."""
    with served.stranger() as silent, served.stranger() as slow:
        read_frame(slow)
        started = time.monotonic()
        still_serves(served)
        assert time.monotonic() - started < 0.3, "others are served meanwhile"
        slow.sendall(b"\x00")
        assert closed(silent) and closed(slow)
        assert time.monotonic() - started < 3 * BRISK.handshake + 1
    served.heard("too slow: 1 of 4 bytes came in time")
    served.heard("too slow: 0 of 4 bytes came in time")


def test_a_slow_client_is_cut_off(served: Board) -> None:
    wire = served.wire()
    wire._socket.send(b"\x00\x00")
    with pytest.raises(LinkError, match="cut"):
        wire.message(5.0)
    wire.close()
    served.heard("too slow: 2 of 4 bytes came in time")


def test_strangers_are_counted(served: Board) -> None:
    """More than so many at once are not even listened to; those with the token go on."""
    wire = served.wire()
    until(
        lambda: len(served.server._open) == len(served.server._known) == 1
    )  # it knows the one, and none are left of before
    strangers = [served.stranger() for _ in range(BRISK.strangers)]
    for one in strangers:
        read_frame(one)
    with served.stranger() as late:
        assert late.recv(1) == b"" or closed(late)
    wire.send({"do": "held", "digests": []})
    assert wire.message() == {"held": []}
    for one in strangers:
        one.close()
    wire.close()

    def served_again() -> bool:
        try:
            still_serves(served)
        except LinkError:
            return False
        return True

    until(served_again)


def test_a_bundle_is_what_its_manifest_lists(served: Board, sent: ServedLink, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"format": 1, "files": {"engine/model": DIGEST}}))
    manifest = hashlib.sha256((tmp_path / "bundle.json").read_bytes()).hexdigest()
    sent.put(tmp_path / "bundle.json", manifest)
    whole = {"b/bundle.json": manifest, "b/engine/model": DIGEST}
    sent.make_folder("work", whole, [])
    sent.remove_folder("work")
    for wrong, said in (
        ({**whole, "b/engine/model": manifest}, "engine/model was changed"),
        ({"b/bundle.json": manifest}, "engine/model is missing"),
        ({**whole, "b/engine/more": DIGEST}, "engine/more is not of the bundle"),
    ):
        with pytest.raises(UserError, match=said):
            sent.make_folder("work", wrong, [])
        assert not (served.root / "work" / "work").exists()
    with pytest.raises(LinkError, match="a file is not here: 2222"):
        sent.make_folder("work", {"a": "2" * 64}, [])
