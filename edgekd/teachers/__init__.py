"""Teachers: what a student learns from. `use = "onnx"` in a recipe's [teacher] section is `edgekd/teachers/onnx.py`.

Each file exports one dataclass, a subclass of `edgekd.teacher.Teacher`, always in eval mode. Its contract:

    outputs(inputs)          inputs [batch, ...] → logits [batch, classes], float32, without gradients; any batch size
    each(inputs)             → logits of each of several teachers [batch, members, classes]
    features(inputs, names)  → (logits, {name: output of the module called so}); a black box raises UserError
    shapes(inputs, named)    → {name: shape of what the module gives}, in order, for pairing; a black box raises UserError
    partial(inputs, names)   → {name: output of the module called so}, what is behind the last need not be computed; likewise
    onwards(inputs, name, features)  → logits where that module gives `features`, with gradient to them; a black box raises UserError
    embeddings(inputs)       → vectors [tokens, width] of the module that reads the inputs; any other kind raises UserError

`made_from: ClassVar[str]` says what its first field is; the section's further keys are its other fields, or arguments:

    "network"    what `factory` returns, with `weights` in it; it is compiled and measured like a student
    "function"   what `factory` returns
    "file"       the path of `weights`, a file that is kept in the store under the name `kept`
    "teachers"   a tuple of other teachers, the section's `members`
    "folder"     the recipe's folder

The same inputs give the same logits: they are computed once for each view of the data and kept in the store. Any of them
may have other classes than the student (`classes`) or other sizes of its images (`resize`): `edgekd/adapted.py`.
"""
