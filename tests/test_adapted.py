"""A teacher with other classes or another input size."""

import numpy as np
import pytest
import torch

from edgekd.adapted import Adapted
from edgekd.errors import UserError
from edgekd.teachers.function import Function

LOG = Function(lambda x: np.log(np.tile([0.1, 0.2, 0.3, 0.4], (len(x), 1))))
IMAGES = torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4)


def test_classes_are_chosen_and_those_of_one_class_summed() -> None:
    """Of 0.1, 0.2, 0.3, 0.4: class 3, and 0 with 1: 0.4 and 0.3, so 4/7 and 3/7."""
    found = Adapted(LOG, classes=(3, (0, 1))).outputs(IMAGES).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[4 / 7, 3 / 7]]))


def test_images_are_brought_to_its_size() -> None:
    """Halved bilinearly at half-pixel centres, four by four becomes the means of its quarters."""
    seen = Adapted(Function(lambda x: x.reshape(len(x), -1)), resize=(2, 2)).outputs(IMAGES)
    assert seen.tolist() == [[2.5, 4.5, 10.5, 12.5]]
    same = Adapted(Function(lambda x: x.reshape(len(x), -1)), resize=(4, 4)).outputs(IMAGES)
    assert same.tolist() == IMAGES.view(1, -1).tolist()


def test_what_cannot_be_adapted_is_said() -> None:
    with pytest.raises(UserError, match="names its class 4; it has 4"):
        Adapted(LOG, classes=(4,)).outputs(IMAGES)
    with pytest.raises(UserError, match="`resize` is for float images"):
        Adapted(LOG, resize=(2, 2)).outputs(torch.zeros(3, 4))
    with pytest.raises(UserError, match="Function gives logits only"):
        Adapted(LOG, resize=(2, 2)).features(IMAGES, ["x"])
