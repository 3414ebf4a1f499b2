"""Any program that maps one .npz file to another: a teacher that Python does not run."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from edgekd.errors import UserError
from edgekd.teacher import Teacher

__all__ = ["Command"]

PLACES = ("{inputs}", "{outputs}")


@dataclass(frozen=True, eq=False)
class Command(Teacher):
    """`command`, a list of words, is run in the recipe's folder, never through a shell, with two words replaced:

    "{inputs}" by the path of an .npz file whose array `inputs` is [n, ...], "{outputs}" by the path where the program
    writes one whose array `logits` is [n, classes]. `seconds`: after so many without an end it is killed.
    """

    made_from: ClassVar[str] = "folder"
    chunk: ClassVar[int] = 8192
    folder: Path
    command: tuple[str, ...]
    seconds: float = 600.0

    def __post_init__(self) -> None:
        words = self.command
        if isinstance(words, str) or not all(isinstance(w, str) for w in words) or not set(PLACES) <= set(words):
            hint = 'as in command = ["./teacher", "{inputs}", "{outputs}"]'
            raise UserError(f"the teacher's command is {words!r}: it needs the words {' and '.join(PLACES)}", hint=hint)
        if not self.seconds > 0:
            raise UserError(f"the teacher's seconds are {self.seconds}", hint="a number above zero")

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes], float32. Raises UserError, with what the program said, if it fails or writes no logits."""
        with tempfile.TemporaryDirectory(prefix="edgekd-teacher-") as scratch:
            files = {place: Path(scratch, f"{place.strip('{}')}.npz") for place in PLACES}
            np.savez(files["{inputs}"], inputs=inputs.numpy())
            self._run([str(files.get(word, word)) for word in self.command])
            return torch.from_numpy(self._read(files["{outputs}"], len(inputs)))

    def _run(self, words: list[str]) -> None:
        name = self.command[0]
        try:
            done = subprocess.run(
                words,
                cwd=self.folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            message = f"the teacher's command {name} did not end within {self.seconds:g} s"
            raise UserError(message, hint="seconds = … gives it longer") from None
        except OSError as error:
            raise UserError(f"the teacher's command {name} does not start: {error}") from None
        if done.returncode != 0:
            said = " | ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
            raise UserError(f"the teacher's command {name} ended with {done.returncode}: {said}")

    def _read(self, file: Path, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        try:
            with np.load(file, allow_pickle=False) as stored:
                logits = np.asarray(stored["logits"], np.float32)
        except Exception as error:  # a missing file, no zip archive, no such array, objects: they share no base class
            message = f"the teacher's command {self.command[0]} wrote no `logits`: {error}"
            raise UserError(message, hint="an .npz file at the path {outputs}, with an array of that name") from None
        if logits.ndim != 2 or len(logits) != count:
            message = f"the teacher's command {self.command[0]} gives {list(logits.shape)} for {count} inputs"
            raise UserError(message, hint="logits are [batch, classes]")
        return logits
