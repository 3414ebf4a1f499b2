"""Losses: what training minimises. `use = "kl"` in a recipe is `edgekd/losses/kl.py`; its fields are the recipe's.

Each file exports one frozen dataclass. Its contract:

    wants: ClassVar[str]         what it compares: "labels", "logits", "members", "features" or "branch"
    __call__(student, teacher)   → a scalar with a gradient to `student`, averaged over the batch, ≥ 0

    wants        student                   teacher
    "labels"     logits [batch, classes]   targets [batch], int64; no teacher is asked
    "logits"     logits [batch, classes]   logits [batch, classes], without gradient
    "members"    logits [batch, classes]   logits of each teacher [batch, members, classes], without gradient; one that is not an
                                           ensemble is its only member
    "features"   output of the student's   output of the teacher's module called by the field `teacher`, without gradient
                 module called by the field `student`
    "branch"     the same                  logits [batch, classes], without gradient

Of a module that is called several times, the first output counts. A module that the recipe does not name
(`student = ""`) is chosen by depth and shape: `edgekd.features.pair`. What else a loss needs, it names in
`also: ClassVar[tuple[str, ...]]`, and is given by keyword:

    "labels"     targets [batch], int64
    "progress"   the share of the training that is done, from 0 to just below 1
    "samples"    the batch's indices in the training split [batch], int64

The loss itself is frozen. What it learns or remembers is a module that it makes once, given one example of what it compares:

    projector(student, teacher) → nn.Module        applied to the student's features before the loss
    state(student, teacher, count) → nn.Module     given to each call by keyword, `state`; for a training split of `count`
                                                   samples; the loss changes it only while it is in training mode

Their parameters are learned with the student, their buffers saved with each checkpoint; both are dropped afterwards. A loss
that draws random numbers uses torch's generator, which training seeds for each epoch. `least: ClassVar[int]` is the smallest
batch that it can be computed on, if that is more than one.
"""
