"""The store: whole entries or none, whatever happens while one is made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from edgekd.commands.store import store_app
from edgekd.errors import EdgekdError, StoreError, UserError
from edgekd.store import DAY, ENTRY, Store, write_whole

KEY = "ab" * 32


def writer(text: str = "content") -> Any:
    def run(out: Path) -> dict[str, Any]:
        (out / "file.txt").write_text(text)
        return {"fact": 7}

    return run


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(KEY) is None
    first = store.make(KEY, "label", writer())
    second = store.make(KEY, "label", writer("other"))
    assert (second.path / "file.txt").read_text() == "content"
    assert first.facts["fact"] == 7 and first.facts["label"] == "label" and first.seconds > 0
    assert first.digest == second.digest
    assert [e.key for e in store.entries()] == [KEY]


@pytest.mark.parametrize("damage", ["flip", "remove", "add", "manifest", "fact"])
def test_a_damaged_entry_is_a_miss_and_is_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    path = store.make(KEY, "label", writer()).path
    if damage == "flip":
        (path / "file.txt").write_text("cOntent")
    elif damage == "remove":
        (path / "file.txt").unlink()
    elif damage == "add":
        (path / "extra").write_text("x")
    elif damage == "fact":
        (path / ENTRY).write_text((path / ENTRY).read_text().replace('"fact": 7', '"fact": 8'))
    else:
        (path / ENTRY).write_text((path / ENTRY).read_text()[:-20])
    assert store.get(KEY) is None
    assert (store.make(KEY, "label", writer("again")).path / "file.txt").read_text() == "again"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(out: Path) -> None:
        (out / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.make(KEY, "label", fails)
    assert store.get(KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fills(out: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("x" * 10_000)

    with pytest.raises(StoreError, match="No space left") as caught:
        store.make(KEY, "label", fills)
    assert "gc" in caught.value.hint
    assert store.get(KEY) is None


def test_weights_on_a_full_disk_are_a_full_disk(tmp_path: Path) -> None:
    import torch

    from edgekd.student import write_tensors

    with pytest.raises(StoreError, match="No space left"):
        Store(tmp_path).make(KEY, "label", lambda out: write_tensors(Path("/dev/full"), {"w": torch.zeros(10_000)}))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_that_a_step_cannot_read_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(EdgekdError, match=r"nowhere: No such file") as caught:
        Store(tmp_path).make(KEY, "label", lambda out: {"read": (Path("/proc") / "nowhere").read_text()})
    assert not isinstance(caught.value, StoreError)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Store(tmp_path / "file" / "store")


RUN = """
import sys, time
from pathlib import Path
from edgekd.store import Store
store, mark = Store(Path(sys.argv[1])), Path(sys.argv[2])
def run(out):
    with mark.open("a") as stream: stream.write("x")
    (out / "half").write_text("half")
    time.sleep(float(sys.argv[3]))
    (out / "file.txt").write_text("whole")
print(store.make("{key}", "label", run).path)
""".replace("{key}", KEY)


def start(store: Path, mark: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(store), str(mark), str(seconds)], stdout=subprocess.PIPE)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_while_writing_leaves_a_miss_and_no_lock(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = start(tmp_path / "store", mark, 60)
    wait_for(mark)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    store = Store(tmp_path / "store")
    assert store.get(KEY) is None
    assert (store.make(KEY, "label", writer()).path / "file.txt").read_text() == "content"


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    children = [start(tmp_path / "store", mark, 0.5) for _ in range(3)]
    paths = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(paths) == 1
    assert mark.read_text() == "x"


def test_work_survives_a_failure_and_goes_when_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.work(KEY) / "checkpoint").write_text("epoch 3")

    def goes_on(out: Path) -> None:
        (out / "file.txt").write_text((store.work(KEY) / "checkpoint").read_text())

    assert (store.make(KEY, "label", goes_on).path / "file.txt").read_text() == "epoch 3"
    assert not (tmp_path / "work" / KEY).exists()


def test_notes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.note("x") is None
    store.set_note("x", {"a": [1, 2]})
    assert store.note("x") == {"a": [1, 2]}
    (tmp_path / "notes" / "x.json").write_text("{")
    assert store.note("x") is None


def test_write_whole_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_entries_survive_a_broken_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make(KEY, "label", writer())
    other = store.path("cd" * 32)
    other.mkdir(parents=True)
    (other / ENTRY).write_text("not json")
    assert [e.key for e in store.entries()] == [KEY]
    store.remove(KEY)
    assert list(store.entries()) == []
    assert json.dumps([str(e.path) for e in store.entries()]) == "[]"


def test_gc_removes_what_nobody_went_on_with(tmp_path: Path) -> None:
    """A stage that was abandoned; not one that is under way, nor one of today."""
    store, long_ago = Store(tmp_path), time.time() - 40 * DAY
    for key in ("abandoned", "under-way", "today"):
        (store.work(key) / "engine").mkdir()
        file = store.work(key) / "engine" / "model"
        file.write_bytes(bytes(1000))
        if key != "today":
            for path in (file, file.parent, store.work(key)):
                os.utime(path, (long_ago, long_ago))

    def left() -> list[str]:
        return sorted(path.name for path in (tmp_path / "work").iterdir())

    with FileLock(tmp_path / "locks" / "under-way.lock"):
        assert store.sweep(50 * DAY) == 0 and len(left()) == 3
        found = CliRunner().invoke(store_app, ["gc", "--store", str(tmp_path)])
        assert found.stdout == "removed 0 entries, 1.00 kB\n"
    assert left() == ["today", "under-way"]
    store.sweep(0.0)
    assert left() == ["today"]


def test_an_entry_that_cannot_be_touched_is_a_hit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user made it, or the disk is read only."""
    store = Store(tmp_path)
    made = store.make(KEY, "label", writer())

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    assert store.get(KEY) == made
