"""Observers: what range of a tensor the integers should span, from the values that calibration shows.

The file's name is what a recipe calls it: `observer = "percentile"` is `edgekd/observers/percentile.py`. Each file exports
one dataclass, whose fields a recipe may set. Its contract:

    update(x)  sees one batch of the tensor: x of any shape, floating point; nothing is kept of x but counts
    range()    (minimum, maximum), in the units of x, with minimum ≤ maximum, finite

The grid widens a range so that it holds zero; an observer need not. Both methods raise EdgekdError: `update` for a value
that is not finite, `range` where nothing was seen.
"""
