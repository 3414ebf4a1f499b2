"""Losses: what training minimises. `use = "kl"` in a recipe is `edgekd/losses/kl.py`; its fields are the recipe's.

Each file exports one frozen dataclass. Its contract:

    wants: ClassVar[str]         what it compares: one of the words below
    __call__(student, teacher)   → a scalar with a gradient to `student`, averaged over the batch, ≥ 0

    wants        student                   teacher
    "labels"     logits [batch, classes]   targets [batch], int64; no teacher is asked
    "logits"     logits [batch, classes]   logits [batch, classes], without gradient
    "members"    logits [batch, classes]   logits of each teacher [batch, members, classes], without gradient; one that is not an
                                           ensemble is its only member
    "features"   output of the student's   output of the teacher's module called by the field `teacher`, without gradient
                 module called by the field `student`
    "branch"     the same                  logits [batch, classes], without gradient
    "self"       the same                  targets [batch], int64; no teacher is asked
    "head"       input of the student's    logits [batch, classes], without gradient
                 module called by the field `student`
    "masked"     as "features", where a    `edgekd.training.compared.Masked`: the teacher's features, without gradient, the
                 part is hidden            inputs, and what was hidden

Of a module that is called several times, the first output counts. A field `student` or `teacher` that is a tuple names
several modules, and the loss is given a list of what they give. Modules that the recipe does not name (`student = ""`, or an
empty tuple) are chosen by depth and shape: `edgekd.training.features.pair` and `pair_several`; of "head" it is the one that makes the
logits. A loss that wants "masked" says what is hidden: `mask(inputs)` → [batch, 1, height, width], true where networks see zero.
What else a loss needs, it names in `also: ClassVar[tuple[str, ...]]`, and is given by keyword:

    "labels"     targets [batch], int64; the loss sees only samples that have one
    "targets"    targets [batch], int64, −1 for a sample without a label
    "progress"   the share of the training that is done, from 0 to just below 1
    "samples"    the batch's indices in the training split [batch], int64
    "own"        the student's logits [batch, classes]
    "logits"     the teacher's logits [batch, classes], without gradient
    "tail"       what the teacher makes of other features: tail(x) → logits [batch, classes], where its module called by the field
                 `teacher` would give x; gradients flow to x
    "layer"      the student's module called by the field `student`

The loss itself is frozen. What it learns or remembers is a module that it makes once, given one example of what it compares:

    projector(student, teacher) → nn.Module        applied to the student's features before the loss
    state(student, teacher, count) → nn.Module     given to each call by keyword, `state`; for a training split of `count`
                                                   samples; the loss changes it only while it is in training mode, but
                                                   may complete it in the first call, which is before any training
    classifiers(student, teacher, classes)         → nn.Module, given to each call by keyword, `classifiers`; what tells so many

Their parameters are learned with the student, their buffers saved with each checkpoint; both are dropped afterwards. A loss
that draws random numbers uses torch's generator, which training seeds for each epoch. `least: ClassVar[int]` is the smallest
batch that it can be computed on, if that is more than one.

A loss that wants "head" may divide it: `divided()` → nn.Module, a parametrization (torch.nn.utils.parametrize) of the layer's
weight and of its bias, while it trains; what it makes of its parts is kept.
"""
