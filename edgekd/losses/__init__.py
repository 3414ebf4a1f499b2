"""Losses: what training minimises. `use = "kl"` in a recipe is `edgekd/losses/kl.py`; its fields are the recipe's.

Each file exports one frozen dataclass. Its contract:

    wants: ClassVar[str]         what it compares: "labels", "logits" or "features"
    __call__(student, teacher)   → a scalar with a gradient to `student`, averaged over the batch, ≥ 0

    wants        student                   teacher
    "labels"     logits [batch, classes]   targets [batch], int64
    "logits"     logits [batch, classes]   logits [batch, classes], without gradient
    "features"   output of the student's   output of the teacher's module called by the field `teacher`, without gradient
                 module called by the field `student`

A loss on features may define `projector(student, teacher) → nn.Module`, given one example of each: it is applied to the
student's features before the loss, learned with the student, and dropped afterwards. The loss itself keeps no state.
"""
