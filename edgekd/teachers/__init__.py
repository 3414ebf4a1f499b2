"""Teachers: what a student learns from. `use = "onnx"` in a recipe's [teacher] section is `edgekd/teachers/onnx.py`.

Each file exports one dataclass, a subclass of `edgekd.teacher.Teacher`, always in eval mode. Its contract:

    outputs(inputs)          inputs [batch, ...] → logits [batch, classes], float32, without gradients; any batch size
    features(inputs, names)  → (logits, {name: output of the module called so}); a black box raises UserError
    shapes(inputs, named)    → {name: shape of what the module gives}, in order, for pairing; a black box raises UserError

The same inputs give the same logits: they are computed once for each view of the data and kept in the store.
"""
