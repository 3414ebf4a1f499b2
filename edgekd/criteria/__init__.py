"""Criteria: how much a network would miss each channel of a group.

The file's name is what a recipe calls it: `criterion = "taylor"` is `edgekd/criteria/taylor.py`. Each file exports one frozen
dataclass. Its contract:

    needs             "weights", "task_gradient" or "teacher_gradient": what must be there when it is called
    __call__(group)   scores [channels] of an `edgekd.groups.Group`, larger = keep; the group is not changed

A criterion that needs a gradient is called after the backward pass of each calibration sample, when `weight.grad` holds the
gradient of that sample's loss: cross entropy against the label for "task_gradient", KL(teacher ‖ student) for
"teacher_gradient". The prune stage averages the scores over the samples. Scores of different groups are compared with each
other when the stage's scope is "global", so they should share a unit. A criterion raises UserError for a group that it cannot
score; that group is left whole, and the message is reported as the reason.
"""
