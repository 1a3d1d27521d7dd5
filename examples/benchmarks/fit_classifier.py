"""Seconds of each phase, and memory, of fits of `FlowBNNClassifier`.

With its defaults, chains, on breast cancer (569 x 30) and on 10,000 x 50 synthetic inputs of three
classes; and, if asked for, with an ensemble of the default size and a flow. Every fit runs in a
fresh process, whose peak memory includes the interpreter and the libraries. Accuracy is that on
held-out rows.

    python examples/benchmarks/fit_classifier.py [--populations mcmc ensemble]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.model_selection import train_test_split

from bayesflow_nn import FlowBNNClassifier

POPULATIONS = ("mcmc", "ensemble")


class Fit(NamedTuple):
    """Seconds of the phases, peak memory in bytes, accuracy."""

    seconds: dict[str, float]
    memory: int
    accuracy: float


def breast_cancer() -> tuple[np.ndarray, ...]:
    X, y = load_breast_cancer(return_X_y=True)
    return train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)


def synthetic() -> tuple[np.ndarray, ...]:
    X, y = make_classification(
        12_000, 50, n_informative=20, n_redundant=10, n_classes=3, random_state=0
    )
    return train_test_split(X, y, test_size=2_000, stratify=y, random_state=0)


PROBLEMS = {"breast cancer": breast_cancer, "10,000 x 50": synthetic}


def fit(make_data: Callable[[], tuple[np.ndarray, ...]], population: str) -> Fit:
    """Fit to the first part of the data and score on the second."""
    X, X_test, y, y_test = make_data()
    model = FlowBNNClassifier(population=population, random_state=0).fit(X, y)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Fit(model.fit_times_, memory, model.score(X_test, y_test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--populations", nargs="+", choices=POPULATIONS, default=["mcmc"])
    options = parser.parse_args()
    print(f"{'':26}{'seconds':>9}{'GB':>7}{'accuracy':>10}   phases")
    spawn = multiprocessing.get_context("spawn")
    for problem, make_data in PROBLEMS.items():
        for population in options.populations:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                found = process.submit(fit, make_data, population).result()
            phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.seconds.items())
            total = f"{sum(found.seconds.values()):9.1f}{found.memory / 1e9:7.2f}"
            row = f"{problem}, {population}"
            print(f"{row:26}{total}{found.accuracy:10.4f}   {phases}", flush=True)


if __name__ == "__main__":
    main()
