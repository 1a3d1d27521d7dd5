"""What the networks of the demonstration learn: classes of data sets that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bayesflow_nn.weights import Architecture, WeightPopulation, train_population


class Data(NamedTuple):
    """Standardised inputs ``(n, n_features)`` and integer labels ``(n,)``, training and test."""

    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


class Problem(NamedTuple):
    """A data set of scikit-learn, the hidden layers for it, and how many networks to train."""

    load: Callable
    hidden: tuple[int, ...]
    n_networks: int


PROBLEMS = {
    "breast_cancer": Problem(datasets.load_breast_cancer, (16, 16), 6000),
    "iris": Problem(datasets.load_iris, (16,), 12000),
    "wine": Problem(datasets.load_wine, (16,), 6000),
    "digits": Problem(datasets.load_digits, (32,), 7000),
}


def load_data(problem: Problem) -> Data:
    """Stratified 80/20 split with seed 0, standardised on the training part."""
    X, y = problem.load(return_X_y=True)
    parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    scaler = StandardScaler().fit(parts[0])
    inputs = [torch.as_tensor(scaler.transform(part), dtype=torch.float32) for part in parts[:2]]
    labels = [torch.as_tensor(part) for part in parts[2:]]
    return Data(inputs[0], labels[0], inputs[1], labels[1])


def train_networks(dataset: str, data: Data, n_networks: int | None = None) -> WeightPopulation:
    """Networks for one of the `PROBLEMS`, by default as many as it asks for."""
    problem = PROBLEMS[dataset]
    return train_population(
        Architecture.mlp([data.X_train.shape[1], *problem.hidden, int(data.y_train.max()) + 1]),
        data.X_train,
        data.y_train,
        n_networks=n_networks or problem.n_networks,
        random_state=0,
        verbose=True,
    )
