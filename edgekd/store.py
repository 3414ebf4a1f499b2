"""The store: finished results, found by what they depend on. Killed at any moment, it holds only whole entries.

    entries/ab/abcd…/   one folder an entry, with `entry.json` naming the sha256 of every file in it, and its own
    work/abcd…/         what an unfinished stage left (checkpoints), to go on from
    locks/, tmp/, notes/

An entry is made in `tmp/` under a lock, then moved into place by one rename. An entry that is not what its `entry.json`
says is a miss and is made again. A write that fails is an error that names the path, never a half-written entry.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.errors import EdgekdError, StoreError, UserError

ENTRY = "entry.json"
SEAL = "seal"  # the digest of all else in entry.json
DAY = 86_400.0
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def default_folder() -> Path:
    """`$EDGEKD_STORE`, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("EDGEKD_STORE") or platformdirs.user_cache_dir("edgekd", appauthor=False))


@dataclass(frozen=True)
class Entry:
    """A finished result: its folder, and what `entry.json` says of it (label, seconds, files, …)."""

    key: str
    path: Path
    facts: dict[str, Any]

    @property
    def seconds(self) -> float:
        return float(self.facts["seconds"])

    @property
    def digest(self) -> str:
        """Digest of the content: of every file's name and digest."""
        return digest.of_json(self.facts["files"])


class Store:
    """A folder that several processes may use at once. Raises UserError if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("entries", "work", "locks", "tmp", "notes"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the store {folder} cannot be made: {error.strerror}", hint="choose another with --store"
            ) from None

    def path(self, key: str) -> Path:
        return self.folder / "entries" / key[:2] / key

    def work(self, key: str) -> Path:
        """The folder of an unfinished stage; what is in it survives a kill and goes when the stage is finished."""
        folder = self.folder / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, every file checked against its digest; None if there is none or it is damaged."""
        folder = self.path(key)
        try:
            facts = json.loads((folder / ENTRY).read_text("utf-8"))
            seal = facts.pop(SEAL)
            if facts["key"] != key or digest.of_json(facts) != seal:
                return None
            if digest.of_folder(folder, frozenset({ENTRY})) != facts["files"]:
                return None
            with suppress(OSError):  # on a disk that is read only, or of another user
                os.utime(folder / ENTRY)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Entry(key, folder, facts)

    def make(
        self,
        key: str,
        label: str,
        run: Callable[[Path], dict[str, Any] | None],
        waiting: Callable[[], None] | None = None,
    ) -> Entry:
        """The entry of `key`, made by `run(folder)` unless it is there. What `run` returns is kept in `entry.json`.

        Two processes asking at once: one makes it, the other waits (`waiting()` is called once) and gets a hit.
        Raises StoreError for a full disk or a folder that cannot be written; whatever `run` raises passes through.
        """
        with self._locked(key, waiting):
            found = self.get(key)
            if found:
                return found
            with self._writing(self.path(key)):
                scratch = Path(tempfile.mkdtemp(prefix=f"{key[:12]}-", dir=self.folder / "tmp"))
                try:
                    started = time.perf_counter()
                    facts = run(scratch) or {}
                    seconds = time.perf_counter() - started
                    facts = {**facts, "key": key, "label": label, "seconds": seconds, "made": time.time()}
                    facts["files"] = digest.of_folder(scratch)
                    facts = json.loads(json.dumps(facts))  # as it will be read again
                    facts[SEAL] = digest.of_json(facts)
                    (scratch / ENTRY).write_text(json.dumps(facts, indent=1, sort_keys=True), "utf-8")
                    _flush(scratch)
                    self._put(scratch, self.path(key))
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(self.folder / "work" / key, ignore_errors=True)
            made = self.get(key)
            if made is None:
                raise StoreError(
                    f"{self.path(key)} was damaged as soon as it was written", hint="check the disk, then run again"
                )
            return made

    def note(self, name: str) -> Any:
        """A small remembered value (JSON), or None."""
        try:
            return json.loads((self.folder / "notes" / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def set_note(self, name: str, value: Any) -> None:
        path = self.folder / "notes" / f"{name}.json"
        with self._writing(path):
            write_whole(path, json.dumps(value).encode())

    def entries(self) -> Iterator[Entry]:
        """Every entry, least recently used first, not checked."""
        found = []
        for path in (self.folder / "entries").glob(f"*/*/{ENTRY}"):
            try:
                found.append(
                    (path.stat().st_mtime, Entry(path.parent.name, path.parent, json.loads(path.read_text("utf-8"))))
                )
            except (OSError, ValueError):
                continue
        yield from (entry for _, entry in sorted(found, key=lambda pair: pair[0]))

    def remove(self, key: str) -> None:
        with self._locked(key, None):
            self._discard(self.path(key))

    def sweep(self, unused: float = DAY) -> int:
        """Remove what killed processes left in `tmp/` more than a day ago, and work that was not gone on with for `unused` seconds,
        a day at least; the bytes freed.
        """
        freed = 0
        for kind, least in (("tmp", DAY), ("work", max(unused, DAY))):
            for path in (self.folder / kind).iterdir():
                held = [path, *path.rglob("*")]
                if time.time() - max(map(_changed, held)) > least and not self._is_held(path.name):
                    freed += sum(one.stat().st_size for one in held if one.is_file())
                    shutil.rmtree(path, ignore_errors=True)
        return freed

    def _is_held(self, key: str) -> bool:
        """Whether a process makes the entry of `key` now."""
        from filelock import FileLock, Timeout

        file = self.folder / "locks" / f"{key}.lock"
        try:
            if file.exists():
                with FileLock(file).acquire(timeout=0):
                    pass
        except Timeout:
            return True
        return False

    @contextmanager
    def _locked(self, key: str, waiting: Callable[[], None] | None) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / "locks" / f"{key}.lock")
        with self._writing(self.folder / "locks"):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if waiting:
                    waiting()
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _put(self, scratch: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            self._discard(final)
        os.replace(scratch, final)

    def _discard(self, folder: Path) -> None:
        """Take an entry out of sight by one rename, then remove it."""
        if folder.exists():
            doomed = Path(tempfile.mkdtemp(dir=self.folder / "tmp")) / "old"
            os.replace(folder, doomed)
            shutil.rmtree(doomed.parent, ignore_errors=True)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            where = Path(error.filename or path)
            if error.errno not in FULL and not where.is_relative_to(self.folder):
                raise EdgekdError(f"{where}: {error.strerror}") from error  # a file that a step read, not the store's
            hint = "free space, `edgekd store gc`, or choose another folder with --store; finished stages are kept"
            raise StoreError(f"cannot write {where}: {error.strerror}", hint=hint) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new one, nothing between."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When it was written last; now, where it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _flush(folder: Path) -> None:
    """Ask the system to put every file on the disk, so that a rename never precedes its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
