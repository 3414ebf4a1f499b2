"""Prototypes: residuals by hand and against loops, and who learns from whom."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, softmax

from edgekd.losses.prototype import Prototype


def test_residuals_worked_out_by_hand() -> None:
    """Features (2, 0) and (0, 5), by length (1, 0) and (0, 1); prototypes (0, 0) and (1, 1), each with half of every feature.

    Around the first: (1/2, 1/2), by length (1, 1) / √2. Around the second: (1/2, 1/2) − (1, 1), by length (−1, −1) / √2. All of it
    has the length √2: (1, 1, −1, −1) / 2.
    """
    loss = Prototype(prototypes=2)
    heads = loss.classifiers(torch.zeros(1, 2), torch.zeros(1, 2), 3)
    with torch.no_grad():
        heads.centres.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        heads.assign.weight.zero_()
        heads.assign.bias.zero_()
    found = heads.residuals(torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]), learned=True)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, -0.5, -0.5]]))


def test_against_loops() -> None:
    torch.manual_seed(0)
    loss = Prototype(prototypes=3, transfer=0.5)
    student, teacher, labels = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 6), torch.tensor([1, 0])
    heads = loss.classifiers(student, teacher, 2)
    described = []
    for features in (heads.project(student.flatten(2).mT), teacher):
        rows = []
        for sample in features:
            around = torch.zeros(3, 6)
            for x in sample:
                x = x / x.norm()
                shares = softmax(heads.assign.weight @ x + heads.assign.bias, 0)
                for k in range(3):
                    around[k] = around[k] + shares[k] * (x - heads.centres[k])
            rows.append(normalize(normalize(around, dim=1).flatten(), dim=0))
        described.append(torch.stack(rows))
    right = cross_entropy(described[1] @ heads.classifier.weight.T + heads.classifier.bias, labels)
    expected = right + 0.5 * (1 - (described[0] * described[1]).sum(1)).mean()
    torch.testing.assert_close(loss(student, teacher, labels=labels, classifiers=heads), expected)


def test_prototypes_learn_from_the_teacher_alone() -> None:
    """However much the student counts, their gradient is the same; the projector and the student have theirs from the rest."""
    gradients = []
    for transfer in (1.0, 7.0):
        torch.manual_seed(0)
        student, teacher = torch.randn(4, 3, 4, 4, requires_grad=True), torch.randn(4, 5, 4, 4)
        loss = Prototype(prototypes=6, transfer=transfer)
        heads = loss.classifiers(student, teacher, 2)
        loss(student, teacher, labels=torch.arange(4) % 2, classifiers=heads).backward()
        gradients.append({"student": student.grad, **{name: p.grad for name, p in heads.named_parameters()}})
    first, second = gradients
    for name in ("centres", "assign.weight", "assign.bias", "classifier.weight"):
        assert first[name].abs().sum() > 0
        assert torch.equal(first[name], second[name])
    for name in ("student", "project.weight"):
        torch.testing.assert_close(7 * first[name], second[name])


def test_a_student_around_the_prototypes_as_its_teacher_has_the_classifiers_loss_alone() -> None:
    torch.manual_seed(0)
    teacher, labels, loss = torch.randn(3, 4, 2), torch.tensor([0, 1, 2]), Prototype(prototypes=2)
    heads = loss.classifiers(teacher, teacher, 3)
    with torch.no_grad():
        heads.project.weight.copy_(torch.eye(2))
        heads.project.bias.zero_()
        heads.classifier.weight.zero_()
        heads.classifier.bias.zero_()
    assert loss(3 * teacher, teacher, labels=labels, classifiers=heads).item() == pytest.approx(math.log(3), rel=1e-5)
