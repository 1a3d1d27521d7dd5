"""Image data sets as rows of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Images(NamedTuple):
    """Pixels in [0, 1] ``(n, n_pixels)`` and integer labels ``(n,)``, training and test."""

    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


def load_images(folder: Path, name: str) -> Images:
    """Read ``name.npz``, with arrays X_train, y_train, X_test and y_test, from a folder."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        X = [torch.as_tensor(file[key]).flatten(1) / 255 for key in ("X_train", "X_test")]
        y = [torch.as_tensor(file[key].astype(np.int64)) for key in ("y_train", "y_test")]
    return Images(X[0], y[0], X[1], y[1])
