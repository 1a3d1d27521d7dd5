"""Image data sets as rows of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor


class Images(NamedTuple):
    """Inputs ``(n, n_features)`` and integer labels ``(n,)``, training and test."""

    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


def load_images(folder: Path, name: str) -> Images:
    """Read ``name.npz``, with arrays X_train, y_train, X_test and y_test, from a folder.

    Images may be flat or not, with pixels in 0 to 255; inputs are pixels in 0 to 1.
    """
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        X = [torch.as_tensor(file[key]).flatten(1) / 255 for key in ("X_train", "X_test")]
        y = [torch.as_tensor(file[key].astype(np.int64)) for key in ("y_train", "y_test")]
    return Images(X[0], y[0], X[1], y[1])


def to_components(images: Images, n_components: int) -> Images:
    """Replace pixels by the first principal components of the training images, whitened."""
    pca = PCA(n_components, whiten=True).fit(images.X_train)
    X_train, X_test = (torch.as_tensor(pca.transform(X)) for X in (images.X_train, images.X_test))
    return images._replace(X_train=X_train, X_test=X_test)
