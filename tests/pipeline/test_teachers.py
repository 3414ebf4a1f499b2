"""Teachers of every kind, from a recipe: kept in the store, opened again, judged, learned from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import linear_teacher
from project import made, new_project
from safetensors.torch import save_file

import edgekd
from edgekd.errors import UserError
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import run
from edgekd.progress import Progress
from edgekd.recipe import load
from edgekd.store import Store

FUNCTION = """

def rule(slope: float = 1.0):
    \"\"\"Six classes, of which 2, 3, 4, 5 are the quarters: how bright each is.\"\"\"
    import numpy as np

    def quarters(x):
        sums = [x[:, 0, r:r + 8, c:c + 8].mean((1, 2)) for r in (0, 8) for c in (0, 8)]
        return slope * np.stack([sums[0] * 0, sums[0] * 0, *sums], 1)

    return quarters
"""


def project(folder: Path, teacher: str, stage: bool = True) -> Path:
    recipe = new_project(folder)
    module = recipe.parent / f"{recipe.parent.name}.py"
    module.write_text(module.read_text() + FUNCTION)
    linear_teacher(recipe.parent / "t.onnx", False)
    text = recipe.read_text()
    data = text[text.index("[data]") : text.index("[[stage]]")]
    distill = 'use = "distill"\nlosses = [{ use = "kl" }]\nepochs = 1\n'
    recipe.write_text(
        text[: text.index("[teacher]")]
        + f"[teacher]\n{teacher}\n{data}"
        + (f"[[stage]]\n{distill}" if stage else "")
        + "[measure]\nseconds = 0.2\nprocesses = 2\nwait = 0\n"
    )
    return recipe


ENSEMBLE = """use = "ensemble"
shares = [1, 3, 1]
by = "entropy"
members = [
    { factory = "several:teacher" },
    { use = "function", factory = "several:rule", slope = 4.0, classes = [2, 3, 4, 5] },
    { use = "onnx", weights = "t.onnx" },
]"""


def test_several_teachers_teach_and_stand_in_the_ledger(tmp_path: Path) -> None:
    """A network, a function with other classes and an ONNX file, as one: no engine, but its score, and the student's agreement."""
    recipe = project(tmp_path / "several", ENSEMBLE)
    report = edgekd.compile(recipe, tmp_path / "out", backends=["onnxruntime"], store=tmp_path / "store")
    teacher, student = report["ledger"][0], report["ledger"][-1]
    assert (teacher["row"], teacher["runs_in"], teacher["parameters"], teacher["latency"]) == (
        "teacher",
        "ensemble",
        None,
        None,
    )
    assert teacher["metric"] > 0.9  # the rule knows the answer
    assert student["agreement"]["kl"] > 0
    names = {one["name"] for one in report["targets"][0]["candidates"]}
    assert names == {"distill on onnxruntime"}


def planned(recipe: Path, store: Path) -> Plan:
    return Plan(load(recipe), Store(store), Progress(quiet=True))


def test_a_function_and_its_arguments_are_in_the_key_and_other_classes_too(tmp_path: Path) -> None:
    base = 'use = "function"\nfactory = "keyed:rule"\nclasses = [2, 3, 4, 5]\n'
    recipe, keys = project(tmp_path / "keyed", base), []
    written = recipe.read_text()
    for body in (base, base + "slope = 2.0\n", base.replace("[2, 3", "[3, 2"), base + "resize = [16, 16]\n"):
        recipe.write_text(written.replace(base, body))
        keys.append(planned(recipe, tmp_path / "store").steps["teacher"].key)
    assert len(set(keys)) == 4


def test_a_program_named_by_a_command_is_in_the_key(tmp_path: Path) -> None:
    recipe = project(tmp_path / "ran", 'use = "command"\ncommand = ["./run.py", "{inputs}", "{outputs}"]\n')
    keys = []
    for text in ("print(1)", "print(2)"):
        (recipe.parent / "run.py").write_text(text)
        keys.append(planned(recipe, tmp_path / "store").steps["teacher"].key)
    assert keys[0] != keys[1]


def test_a_teacher_with_weights_is_asked_once_for_all_seeds(tmp_path: Path) -> None:
    """Its key has no seed, nor has what it says: a part of it that no file holds is drawn alike. Without weights both do."""
    drawn = (
        "\n\nclass Drawn(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.last = nn.Linear(256, 4)\n        self.register_buffer('mask', torch.rand(256), persistent=False)\n\n"
        "    def forward(self, x):\n        return self.last(x.flatten(1) * self.mask)\n"
    )
    recipe = project(tmp_path / "drawn", 'factory = "drawn:Drawn"\n')
    module = recipe.parent / "drawn.py"
    module.write_text(module.read_text() + drawn)
    save_file({"last.weight": torch.eye(4, 256), "last.bias": torch.zeros(4)}, recipe.parent / "eye.safetensors")
    text = recipe.read_text()
    same: dict[bool, tuple[bool, bool]] = {}
    for weights in ("", 'weights = "eye.safetensors"\n'):
        keys, said = [], []
        for seed in (0, 1):
            recipe.write_text(
                text.replace("seed = 0", f"seed = {seed}").replace('"drawn:Drawn"\n', f'"drawn:Drawn"\n{weights}')
            )
            plan = planned(recipe, tmp_path / "store")
            step = plan.steps["teacher"]
            keys.append(step.key)
            teacher = plan.roots.teacher(plan.store.make(step.key, step.label, step.make).path)
            said.append(teacher.outputs(torch.ones(1, 1, 16, 16)))
        same[bool(weights)] = keys[0] == keys[1], torch.equal(*said)
    assert same == {False: (False, False), True: (True, True)}


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ('use = "function"\n', 'teacher.use: "function" needs `factory`'),
        ('use = "ensemble"\n', 'teacher.use: "ensemble" needs `members`'),
        ('use = "outputs"\nweights = "none.npz"\n', "none.npz does not exist"),
        (
            'use = "ensemble"\nmembers = [{ use = "onyx", weights = "t.onnx" }]\n',
            'members: teacher 1: use: no teacher named "onyx"',
        ),
        ('use = "ensemble"\nmembers = [{ use = "onnx" }]\n', 'members: teacher 1: use: "onnx" needs `weights`'),
        ('use = "function"\nfactory = "wrong:rule"\nslop = 1.0\n', "teacher.slop: unknown key"),
        ('use = "command"\ncommands = ["x"]\n', "teacher.commands: unknown key"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, teacher: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(project(tmp_path / "wrong", teacher))
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_other_classes_without_a_mapping_are_refused_with_the_way_out(tmp_path: Path) -> None:
    recipe = project(tmp_path / "other", 'use = "function"\nfactory = "other:rule"\n', stage=False)
    with pytest.raises(UserError, match=r"teacher's outputs are \[batch, 6\], the student's \[batch, 4\]") as caught:
        edgekd.compile(recipe, tmp_path / "out", store=tmp_path / "store")
    assert "classes = […]" in caught.value.hint


def test_outputs_that_do_not_cover_the_data_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "answers.npz", inputs=np.zeros((1, 1, 16, 16), np.float32), logits=np.zeros((1, 4)))
    recipe = project(tmp_path / "kept", f'use = "outputs"\nweights = "{tmp_path / "answers.npz"}"\n', stage=False)
    with pytest.raises(UserError, match="holds no output for sample 0"):
        edgekd.compile(recipe, tmp_path / "out", store=tmp_path / "store")


def test_a_field_of_another_type_is_said(tmp_path: Path) -> None:
    network = '{ factory = "words:teacher" }'
    teacher = f'use = "ensemble"\nshares = ["much", 1]\nmembers = [{network}, {network}]\n'
    recipe = project(tmp_path / "words", teacher)
    with pytest.raises(UserError, match='the teacher "ensemble": .*not supported'):
        edgekd.compile(recipe, tmp_path / "out", store=tmp_path / "store")


SIMILAR = """use = "ensemble"
by = "similarity"
power = 2.0
members = [
    { factory = "alike:teacher" },
    { use = "function", factory = "alike:rule", slope = 4.0, classes = [2, 3, 4, 5] },
]"""


def test_teachers_are_weighed_by_how_like_the_task_theirs_is(tmp_path: Path) -> None:
    """The rule knows the quarters, a random network does not: almost all of the share is the rule's, and is kept."""
    plan = made(planned(project(tmp_path / "alike", SIMILAR), tmp_path / "store"), "teacher", "student")
    facts = plan.entry("teacher").facts
    assert facts["similarity"][1] > 0.5 > abs(facts["similarity"][0])
    above = [max(s, 0) ** 2 for s in facts["similarity"]]
    assert facts["shares"] == pytest.approx([a / sum(above) for a in above])
    teacher, inputs = plan.roots.teacher(plan.entry("teacher").path), plan.roots.data().validation[0][:8]
    said = teacher.each(inputs).exp()
    expected = (torch.tensor(facts["shares"]).view(1, 2, 1) * said).sum(1)
    torch.testing.assert_close(teacher.outputs(inputs).softmax(1), expected)


def test_one_of_several_that_fails_is_named_with_what_is_kept(tmp_path: Path) -> None:
    """The second teacher fails at the third chunk of the training data: said so, and the next run goes on."""
    recipe = project(tmp_path / "failing", 'use = "ensemble"\nmembers = [{ factory = "failing:teacher" }, '
                     '{ use = "function", factory = "failing:tired" }]\n')  # fmt: skip
    module = recipe.parent / "failing.py"
    module.write_text(
        module.read_text()
        + "\n\ndef tired():\n    def say(x):\n        say.asked += len(x)\n        assert say.asked < 600, 'too tired'\n"
        + "        return x[:, 0, :4, 0]\n    say.asked = 0\n    return say\n"
    )
    plan = made(planned(recipe, tmp_path / "store"), "teacher", "student")
    with pytest.raises(UserError) as caught:
        made(plan, "distill")
    assert "teacher 2 of 2: the teacher's function failed" in caught.value.message
    assert "too tired (inputs 512 to 767 of train)" in caught.value.message
    assert "the same command goes on from there" in caught.value.hint


CHAIN = """use = "distill"
losses = [{ use = "kl" }]
epochs = 1
fresh = true
"""


def test_a_chain_of_assistants_is_a_recipe(tmp_path: Path) -> None:
    """Teacher to a wider assistant, to the student, to its second life; each stage's teacher is the one before."""
    recipe = new_project(tmp_path / "chained")
    text = recipe.read_text()
    stages = [CHAIN + "arguments = { width = 24 }\n", CHAIN + 'teacher = "student"\n', CHAIN + 'teacher = "student"\n']
    whole = text[: text.index("[[stage]]")] + "".join(f"[[stage]]\n{stage}" for stage in stages)
    recipe.write_text(whole)
    plan = made(planned(recipe, tmp_path / "store"), "teacher", "student", "distill 1", "distill 2", "distill 3")
    widths = [plan.student(f"distill {n}").network()[0].out_channels for n in (1, 2, 3)]
    assert widths == [24, 16, 16]
    assert "teacher" in plan.steps["distill 1"].reads
    assert "teacher" not in plan.steps["distill 2"].reads
    assert len({plan.entry(f"distill {n}").digest for n in (1, 2, 3)}) == 3
    recipe.write_text(text[: text.index("[[stage]]")] + f"[[stage]]\n{stages[1]}")
    with pytest.raises(UserError, match="stage.0: teacher: the student before it is untrained"):
        run(planned(recipe, tmp_path / "store"))


def test_the_example_of_a_chain_is_read() -> None:
    folder = Path(__file__).parents[2] / "examples" / "fashion"
    loaded = load(folder / "chain.toml")
    for stage in loaded.stages:
        stage.check()
    assert [getattr(stage, "teacher", "") for stage in loaded.stages] == ["teacher", "student", "student", ""]
