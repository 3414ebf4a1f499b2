"""Making inputs up from a trained network, for the zero-shot sources in `edgekd/sources/`.

`canvas.py` is what is trained: pixels, or latents with a small generator. `statistics.py` says how far batch-norm inputs are
from what the network remembers of its data, `guidance.py` what else an image should do: belong to a class, spread the
outputs. `views.py` is what the network is shown of an image (filtered, flipped, cropped, shifted), `swing.py` strided
convolutions that start anywhere, `shapes.py` which inputs can be made up, and `optimise.py` the loop.
"""
