"""`FlowBNNClassifier` as it comes, on seventeen small and middling classifications.

Beside it deep ensembles of 5 and of 20 networks of the same kind, which are trained for about nine
thousand steps, of which each keeps its best epoch on a tenth of the data; and scikit-learn's
`MLPClassifier` (until it converges), random forest, logistic regression and Gaussian process (with
a kernel of its own scale and length, and of at most 2,000 rows). All see standardised inputs.
Five-fold cross-validation, stratified: accuracy, negative log likelihood in nats, and calibration
error (15 bins), means over folds, that of the likelihood with its standard error; median seconds of
a fit.

    python examples/benchmarks/classifications.py --data ../shared/data
        [--datasets iris wine] [--models FlowBNNClassifier ...] [--n-folds N] [--output FILE]

The last lines say on how many sets each model is best, or within one standard error of the best, by
likelihood. ``--output`` gets a line of JSON for every fit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from bayesflow_nn import FlowBNNClassifier
from bayesflow_nn.calibration import expected_calibration_error

LOADERS = {
    "breast_cancer": load_breast_cancer,
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
}
FILES = (
    *("australian", "banknote", "german", "glass", "haberman", "heart", "ionosphere", "letter"),
    *("pima", "ripley_synth", "seeds", "sonar", "wine_quality"),
)
N_STEPS, BATCH_SIZE = 9000, 32
MOST_ROWS_OF_A_GAUSSIAN_PROCESS = 2000
MOST_ROWS_OF_ONE_THREAD = 3000
N_THREADS = torch.get_num_threads()


class Scores(NamedTuple):
    """Of one fold."""

    accuracy: float
    nll: float
    ece: float
    seconds: float


def load(dataset: str, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as they are, and labels from 0 on."""
    if dataset in LOADERS:
        return LOADERS[dataset](return_X_y=True)
    file = np.load(data / f"uci_cls_{dataset}.npz")
    parts = ("",) if "X" in file else ("_train", "_test")
    X, y = (np.concatenate([file[name + part] for part in parts]) for name in "Xy")
    return X.astype(float), y.astype(int)


def make_ensemble(n_rows: int, k: int) -> FlowBNNClassifier:
    """Twenty networks, without a flow."""
    n_epochs = -(-N_STEPS * BATCH_SIZE // n_rows)
    return FlowBNNClassifier(
        population="ensemble",
        average="population",
        n_networks=20,
        n_samples=20,
        max_iter=n_epochs,
        learning_rate_init=1e-2,
        early_stopping=True,
        n_iter_no_change=n_epochs,
        tol=0.0,
        random_state=k,
    )


def scaled(model: Callable[..., ClassifierMixin], **parameters: Any) -> Callable:
    """A model of scikit-learn that sees standardised inputs, from rows and a seed."""
    return lambda n_rows, k: make_pipeline(StandardScaler(), model(random_state=k, **parameters))


MODELS = {
    "FlowBNNClassifier": lambda n_rows, k: FlowBNNClassifier(random_state=k),
    "20 networks": make_ensemble,
    "MLPClassifier": scaled(MLPClassifier, max_iter=1000),
    "random forest": scaled(RandomForestClassifier),
    "logistic regression": scaled(LogisticRegression, max_iter=1000),
    "Gaussian process": scaled(GaussianProcessClassifier, kernel=1.0 * RBF(1.0)),
}


def score(model: Any, X: np.ndarray, y: np.ndarray, seconds: float) -> Scores:
    """Score predictions of a fold."""
    proba = model.predict_proba(X).astype(float)
    proba /= proba.sum(1, keepdims=True)
    accuracy = np.mean(model.classes_[proba.argmax(1)] == y)
    nll = log_loss(y, proba, labels=model.classes_)
    labels = np.searchsorted(model.classes_, y)
    return Scores(accuracy, nll, expected_calibration_error(proba, labels), seconds)


def measure(
    X: np.ndarray, y: np.ndarray, folds: tuple[np.ndarray, np.ndarray], k: int, models: list[str]
) -> dict[str, Scores]:
    """Scores of all models on one fold."""
    train, test = folds
    torch.set_num_threads(1 if len(train) < MOST_ROWS_OF_ONE_THREAD else N_THREADS)
    scores = {}
    for name in models:
        if name == "Gaussian process" and len(X) > MOST_ROWS_OF_A_GAUSSIAN_PROCESS:
            continue
        start = time.perf_counter()
        model = MODELS[name](len(train), k).fit(X[train], y[train])
        seconds = time.perf_counter() - start
        if name == "20 networks":
            whole = score(model, X[test], y[test], seconds)
            model.networks_ = model.networks_[:5]
            scores["5 networks"] = score(model, X[test], y[test], seconds / 4)
            scores[name] = whole
        else:
            scores[name] = score(model, X[test], y[test], seconds)
    return scores


def print_rows(dataset: str, results: list[dict[str, Scores]]) -> None:
    """Means over folds, the standard error of the likelihood, and median seconds."""
    for name in results[0]:
        accuracy, nll, ece, seconds = np.array([scores[name] for scores in results]).T
        cells = f"{accuracy.mean():10.4f}{nll.mean():10.4f} +- {standard_error(nll):.4f}"
        row = f"{dataset}, {name}"
        print(f"{row:38}{cells}{ece.mean():10.4f}{np.median(seconds):10.1f}", flush=True)


def standard_error(values: np.ndarray) -> float:
    return values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


def count_best(results: dict[str, list[dict[str, Scores]]]) -> None:
    """On how many sets each model is best, or within a standard error of the best, by likelihood.

    The standard error is that of the best model over folds.
    """
    n_best, n_near = {}, {}
    for folds in results.values():
        nll = {name: np.array([scores[name].nll for scores in folds]) for name in folds[0]}
        best = min(nll, key=lambda name: nll[name].mean())
        for name, values in nll.items():
            gap = values.mean() - nll[best].mean()
            n_best[name] = n_best.get(name, 0) + (name == best)
            n_near[name] = n_near.get(name, 0) + (gap <= standard_error(nll[best]))
    print(f"\nby likelihood, of {len(results)} sets{'':13}{'best':>10}{'within 1 s.e.':>17}")
    for name in n_best:
        print(f"{name:38}{n_best[name]:10d}{n_near[name]:17d}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    datasets = [*LOADERS, *FILES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of uci_cls_*.npz")
    parser.add_argument("--datasets", nargs="+", default=datasets, choices=datasets)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--n-folds", type=int, default=5, help="so many of the five")
    parser.add_argument("--output", type=Path, help="file of JSON lines to append to")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    print(f"{'':38}{'accuracy':>10}{'NLL':>20}{'ECE':>10}{'seconds':>10}", flush=True)
    results = {}
    for dataset in options.datasets:
        X, y = load(dataset, options.data)
        splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
        results[dataset] = []
        for k, folds in enumerate(tqdm(splits[: options.n_folds], desc=dataset, leave=False)):
            scores = measure(X, y, folds, k, options.models)
            results[dataset].append(scores)
            if options.output:
                record = {name: values._asdict() for name, values in scores.items()}
                with options.output.open("a") as file:
                    file.write(json.dumps({"dataset": dataset, "fold": k} | record) + "\n")
        print_rows(dataset, results[dataset])
    count_best(results)


if __name__ == "__main__":
    main()
