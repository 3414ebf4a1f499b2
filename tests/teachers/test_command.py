"""A program as the teacher: one .npz file in, another out."""

import sys
from pathlib import Path

import pytest
import torch

from edgekd.errors import UserError
from edgekd.teachers.command import Command

INPUTS = torch.arange(12, dtype=torch.float32).view(3, 4)
PROGRAM = """
import sys, numpy as np
x = np.load(sys.argv[1])["inputs"]
{body}
"""


def teacher(folder: Path, body: str, seconds: float = 60.0) -> Command:
    (folder / "teacher.py").write_text(PROGRAM.format(body=body))
    return Command(folder, (sys.executable, "teacher.py", "{inputs}", "{outputs}"), seconds)


def test_it_maps_files_in_the_recipes_folder(tmp_path: Path) -> None:
    logits = teacher(tmp_path, "np.savez(sys.argv[2], logits=x[:, :2] - x[:, 2:])").outputs(INPUTS)
    assert logits.tolist() == [[-2, -2]] * 3
    assert logits.dtype == torch.float32
    assert [p.name for p in tmp_path.iterdir()] == ["teacher.py"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('no licence')", "ended with 1: no licence"),
        ("pass", "wrote no `logits`"),
        ("np.savez(sys.argv[2], scores=x)", "wrote no `logits`"),
        ("np.savez(sys.argv[2], logits=np.array([None]))", "wrote no `logits`"),
        ("np.savez(sys.argv[2], logits=x[:2])", r"gives \[2, 4\] for 3 inputs"),
    ],
)
def test_whatever_goes_wrong_is_said(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        teacher(tmp_path, body).outputs(INPUTS)


def test_one_that_hangs_is_killed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did not end within 0\.2 s"):
        teacher(tmp_path, "import time; time.sleep(60)", seconds=0.2).outputs(INPUTS)


def test_a_command_that_is_none_is_refused(tmp_path: Path) -> None:
    for words in ("teacher {inputs} {outputs}", ("teacher", "{inputs}"), ("teacher", 3, "{inputs}", "{outputs}")):
        with pytest.raises(UserError, match="it needs the words"):
            Command(tmp_path, words)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seconds are 0"):
        Command(tmp_path, ("a", "{inputs}", "{outputs}"), 0)
    with pytest.raises(UserError, match=r"\./none does not start"):
        Command(tmp_path, ("./none", "{inputs}", "{outputs}")).outputs(INPUTS)
