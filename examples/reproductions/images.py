"""Image data sets as rows of pixels."""

from __future__ import annotations

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

    Images come out as means over `side` x `side` equal squares.
    """
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        images = [torch.as_tensor(file[key]) / 255 for key in ("X_train", "X_test")]
        X = [avg_pool2d(x[:, None], x.shape[-1] // side).flatten(1) for x in images]
        y = [torch.as_tensor(file[key].astype(np.int64)) for key in ("y_train", "y_test")]
    return Images(X[0], y[0], X[1], y[1])
