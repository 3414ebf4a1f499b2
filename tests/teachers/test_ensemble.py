"""Several teachers: means by hand, weights that fall with the entropy, routing."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from edgekd.adapted import Adapted
from edgekd.errors import UserError
from edgekd.teachers.ensemble import Ensemble
from edgekd.teachers.function import Function

INPUTS = torch.zeros(1, 2)


def saying(*probabilities: Sequence[float]) -> Function:
    """A teacher that gives these distributions, a row for each sample."""
    return Function(lambda x: np.log(np.array(probabilities, np.float64)[: len(x)]) + 3)


SURE, UNSURE = saying([0.9, 0.1]), saying([0.5, 0.5])


def test_the_mean_of_probabilities_and_the_geometric_one() -> None:
    """(0.9 + 0.5) / 2 = 0.7; geometric: √0.45 : √0.05 = 3 : 1. Weighted 3 : 1: 0.8."""
    for mean, weights, expected in (("probabilities", (), 0.7), ("logits", (), 0.75), ("probabilities", (3, 1), 0.8)):
        found = Ensemble((SURE, UNSURE), weights, mean=mean).outputs(INPUTS).softmax(1)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor([[expected, 1 - expected]]))


def test_by_entropy_the_sure_one_counts_more() -> None:
    """H = 0.325 and 0.693 nats: the weights are as 1 / H, 0.681 and 0.319."""
    entropies = [-sum(p * math.log(p) for p in row) for row in ((0.9, 0.1), (0.5, 0.5))]
    share = (1 / entropies[0]) / sum(1 / h for h in entropies)
    found = Ensemble((SURE, UNSURE), by="entropy").outputs(INPUTS).softmax(1)[0, 0].item()
    assert found == pytest.approx(share * 0.9 + (1 - share) * 0.5, abs=1e-5)


def test_the_surest_is_chosen_for_each_sample() -> None:
    first, second = saying([0.9, 0.1], [0.6, 0.4]), saying([0.3, 0.7], [0.2, 0.8])
    found = Ensemble((first, second), by="surest").outputs(torch.zeros(2, 2)).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))


def test_one_that_fails_is_named() -> None:
    for member, said in (
        (Function(lambda x: 1 / 0), "teacher 2 of 2: .*ZeroDivisionError"),
        (Function(lambda x: np.full((len(x), 2), np.nan)), "teacher 2 of 2 gives NaN"),
        (saying([0.2, 0.3, 0.5]), "teacher 2 has 3 classes, teacher 1 has 2"),
    ):
        with pytest.raises(UserError, match=said):
            Ensemble((SURE, member)).outputs(INPUTS)


def test_members_and_weights_must_fit() -> None:
    with pytest.raises(UserError, match="no members"):
        Ensemble(())
    for weights in ((1.0,), (1.0, 0.0)):
        with pytest.raises(UserError, match="2 teachers has the shares"):
            Ensemble((SURE, UNSURE), weights)
    with pytest.raises(UserError, match="`by` is 'luck'"):
        Ensemble((SURE,), by="luck")  # type: ignore[arg-type]


def test_each_one_is_heard_by_itself_and_any_other_kind_is_its_only_member() -> None:
    found = Ensemble((SURE, UNSURE)).each(INPUTS).exp()
    torch.testing.assert_close(found, torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]))
    assert SURE.each(INPUTS).shape == (1, 1, 2)
    mapped = Adapted(Ensemble((SURE, UNSURE)), classes=(1, 0)).each(INPUTS).softmax(2)
    torch.testing.assert_close(mapped, torch.tensor([[[0.1, 0.9], [0.5, 0.5]]]))


def test_one_of_no_similarity_does_not_count() -> None:
    found = Ensemble((SURE, UNSURE), (1.0, 0.0), by="similarity")
    torch.testing.assert_close(found.outputs(INPUTS).softmax(1), torch.tensor([[0.9, 0.1]]))
    with pytest.raises(UserError, match="by similarity has its shares from the data"):
        Ensemble((SURE, UNSURE), by="similarity")
