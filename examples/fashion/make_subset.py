"""Make `fashion.npz`, the subset that this folder ships, from the whole Fashion-MNIST set.

    apt-get install dataset-fashion-mnist
    python make_subset.py

Stratified: the same number of images of each class, in file order, so the file is the same whoever makes it. The
validation images are the ones that `debian()` holds out, so no split of the subset overlaps another split of the whole.
"""

from __future__ import annotations

import numpy as np
from fashion import HERE, debian

PER_CLASS = {"train": 900, "validation": 100, "test": 280}


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` samples of every class, in file order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))


if __name__ == "__main__":
    subset = {}
    for split, (images, labels) in debian().items():
        chosen = first_of_each_class(labels, PER_CLASS[split])
        subset[f"{split}_images"], subset[f"{split}_labels"] = images[chosen], labels[chosen]
    np.savez_compressed(HERE / "fashion.npz", **subset)
    print(f"{HERE / 'fashion.npz'}: {(HERE / 'fashion.npz').stat().st_size / 1e6:.2f} MB")
