"""Features: which modules are seen, and which of two networks belong together."""

import pytest
import torch
from tiny import TinyNet, tiny_data
from torch import nn

from edgekd.errors import UserError
from edgekd.training.features import capture, deepest, pair, shapes, vectors

INPUTS = tiny_data().train[0][:2]
STUDENT = {
    "stem": (2, 8, 12, 12),
    "block": (2, 8, 12, 12),
    "down": (2, 16, 6, 6),
    "pool": (2, 16, 1, 1),
    "flat": (2, 16),
}


def test_modules_are_listed_as_they_finish_without_those_that_repeat_one() -> None:
    found = shapes(TinyNet(8), INPUTS, "student")
    assert list(found)[-2:] == ["down", "dropout"]  # "down.2" gives what "down" gives; the head gives the logits
    assert "head" not in found and "stem.2" not in found
    assert found["down"] == (2, 16, 6, 6)
    assert found["dropout"] == (2, 16)
    assert {"stem.2", "head"} <= set(shapes(TinyNet(8), INPUTS, "student", ["stem.2", "head"]))


def test_the_deepest_is_the_last_with_positions() -> None:
    assert deepest(STUDENT) == "down"
    assert deepest({"first": (2, 9), "last": (2, 5)}) == "last"
    assert deepest({"tokens": (2, 7, 32), "pooled": (2, 32)}) == "tokens"
    with pytest.raises(UserError, match="no modules"):
        deepest({})


def test_a_partner_has_the_same_shape_and_depth() -> None:
    teacher = {f"layer{i}.{j}": (2, 64, 12 // i, 12 // i) for i in (1, 2, 3) for j in range(4)}
    assert pair(STUDENT, teacher) == ("down", "layer2.3")
    assert pair(STUDENT, teacher, "stem") == ("stem", "layer1.1")  # the first of two, so half of four
    assert pair(STUDENT, teacher, "block") == ("block", "layer1.3")
    assert pair(STUDENT, teacher, teacher="layer1.0") == ("stem", "layer1.0")
    assert pair(STUDENT, teacher, "flat", "layer1.0") == ("flat", "layer1.0")  # what is named stays


def test_where_no_size_is_the_same_depth_decides() -> None:
    small = {"a": (2, 4, 5, 5), "b": (2, 4, 3, 3), "c": (2, 4, 2, 2)}
    assert pair(STUDENT, small) == ("down", "c")


def test_nothing_alike_is_said() -> None:
    with pytest.raises(
        UserError, match=r'no module of the teacher gives features like those of "down", \[2, 16, 6, 6\]'
    ):
        pair(STUDENT, {"tokens": (2, 49, 64)})


def test_a_misspelt_name_is_said_with_the_nearest() -> None:
    with pytest.raises(UserError, match='the teacher has no module "blocc"\nhint: did you mean "block"'):
        shapes(TinyNet(8), INPUTS, "teacher", ["blocc"])


def test_a_graph_that_calls_modules_is_a_network_like_any() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert shapes(graph, torch.zeros(2, 3), "student") == {"0": (2, 3), "1": (2, 3)}


def test_vectors_are_means_over_positions() -> None:
    maps = torch.arange(12.0).view(1, 3, 2, 2)
    assert vectors(maps).tolist() == [[1.5, 5.5, 9.5]]
    assert vectors(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])).tolist() == [[2.0, 4.0]]
    assert vectors(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


class Mirroring(nn.Module):
    """Looks at each image and at its mirror image, as a teacher may."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self.head(self.body(view).amax((2, 3))) for view in (x, x.flip(3)))  # type: ignore[return-value]


def test_of_a_module_called_twice_the_first_output_counts() -> None:
    network = Mirroring()
    with capture(network, ["body"], "teacher") as caught:
        network(INPUTS)
    assert torch.equal(caught["body"], network.body(INPUTS))
    assert not torch.equal(caught["body"], network.body(INPUTS.flip(3)))
    assert shapes(network, INPUTS, "teacher") == {"body": (2, 3, 10, 10), "head": (2, 4)}
