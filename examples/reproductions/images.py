"""Image data sets as rows of pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class Images(NamedTuple):
    """Pixels in [0, 1] ``(n, n_pixels)`` and integer labels ``(n,)``, training and test."""

    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


def load_images(folder: Path, name: str, side: int = 28) -> Images:
    """Read ``name.npz``, with arrays X_train, y_train, X_test and y_test, from a folder.

    Images are square, flat or not, with pixels in 0 to 255; see `shrink`.
    """
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        X = [shrink(torch.as_tensor(file[key]) / 255, side) for key in ("X_train", "X_test")]
        y = [torch.as_tensor(file[key].astype(np.int64)) for key in ("y_train", "y_test")]
    return Images(X[0], y[0], X[1], y[1])


def shrink(images: Tensor, side: int) -> Tensor:
    """Means over `side` x `side` equal squares of square images, in rows ``(n, side * side)``.

    Raises
    ------
    ValueError
        If images are not square, or `side` does not divide their side.
    """
    own_side = math.isqrt(images[0].numel())
    if own_side**2 != images[0].numel():
        raise ValueError(f"images must be square, got shape {tuple(images.shape)}.")
    if own_side % side:
        raise ValueError(
            f"side must divide that of the images, {own_side}, got {side}; give another one."
        )
    squares = images.reshape(len(images), 1, own_side, own_side)
    return avg_pool2d(squares, own_side // side).flatten(1)
