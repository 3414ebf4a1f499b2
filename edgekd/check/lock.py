"""One check at a time on a device: two that measured at once would each call the other noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import UserError
from edgekd.store import default_folder


@contextmanager
def device(name: str, waiting: Callable[[Path], None]) -> Iterator[None]:
    """Hold the device `name` for the block. Where another process holds it, `waiting(lock file)` is called once first.

    The system lets go of the lock when its holder ends, however that ends. It lies in the user's store: two users of one
    machine do not see each other. Raises UserError where no lock can be made.
    """
    from filelock import FileLock, Timeout

    path = default_folder() / "locks" / f"device-{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(path)
            lock.acquire()
    except OSError as error:
        message = f"cannot lock the device with {path}: {error.strerror or error}"
        raise UserError(message, hint="name a folder that can be written: EDGEKD_STORE=FOLDER") from None
    try:
        yield
    finally:
        lock.release()
