"""Criteria: how much a network would miss each channel of a group.

The file's name is what a recipe calls it: `criterion = "taylor"` is `edgekd/criteria/taylor.py`. Each file exports one frozen
dataclass. Its contract:

    needs             "weights", "task_gradient" or "teacher_gradient": what must be there when it is called; or "masks",
                      or "training"
    __call__(group)   scores [channels] of an `edgekd.pruning.groups.Group`, larger = keep; the group is not changed
    density           a field that it may have: the share of channels to be kept, which the prune stage fills in

A criterion that needs a gradient is called after the backward pass of each calibration sample, when `weight.grad` holds the
gradient of that sample's loss: cross entropy against the label for "task_gradient", KL(teacher ‖ student) for
"teacher_gradient". The prune stage averages the scores over the samples. Scores of different groups are compared with each
other when the stage's scope is "global", so they should share a unit. A criterion raises UserError for a group that it cannot
score; that group is left whole, and the message is reported as the reason.

A criterion that needs "masks" weighs all channels together: in place of `__call__` it has `learn(network, groups, batches)`,
which takes a step for each batch and gives {group: scores}. Its fields `steps` and `batch` say how many it gets, how large.

One that needs "training" changes the weights as well: in place of `__call__` it has `train(network, groups, branches, …)`, told by
`edgekd.pruning.scoring.Trainer`, which says what is kept and which residual branches go. Its field `epochs` says how long.
Under a budget of latency it is given what that costs and how to measure it (`edgekd.pruning.held`).
"""
