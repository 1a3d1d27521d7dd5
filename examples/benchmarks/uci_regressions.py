"""`FlowBNNRegressor` as it comes, with one hidden layer of 50, on the UCI regressions.

Beside it deep ensembles of 5 and of 20 networks of the same kind, which predict their noise and are
trained for about nine thousand steps, of which each keeps its best epoch on a tenth of the data;
and published figures of MC dropout and of PBP-MV, for the same networks and splits. Scores are
those of the test parts, in the original units: root mean squared error, and negative log likelihood
of the mixture over networks, in nats, with the standard error over splits; seconds of a fit.

    python examples/benchmarks/uci_regressions.py --data ../shared/data
        [--datasets boston yacht] [--n-splits N] [--peer-python PYTHON] [--output FILE]

Splits are the standard ones (Hernandez-Lobato & Adams 2015): twenty, and five of the sets with more
than 5,000 rows. With ``--peer-python``, the interpreter of an environment with
`sklearn-contrib-bde`, its `BdeRegressor` is fitted to the same splits (see ``uci_posteriors.py``).
``--output`` gets a line of JSON for every fit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import uci_posteriors
from tqdm.auto import tqdm
from uci_posteriors import DATASETS, Scores

from bayesflow_nn import FlowBNNRegressor

N_STEPS, BATCH_SIZE = 9000, 32
PUBLISHED = {
    "MC dropout, published": (1.25, 2.40, 1.21, 2.93, 0.93, 2.80, -1.14),
    "PBP-MV, published": (1.64, 2.54, 1.01, 3.04, 0.97, 2.78, -1.28),
}
"""Negative log likelihoods, in the order of `DATASETS`: Mukhoti et al. 2018, Sun et al. 2017."""


class Split(NamedTuple):
    """Data as they are."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load_split(path: Path, k: int) -> Split:
    """Read split k of a file with ``X``, ``y``, ``train_idx`` and ``test_idx``."""
    file = np.load(path)
    train, test = (file[name][k].astype(int) for name in ("train_idx", "test_idx"))
    return Split(file["X"][train], file["y"][train], file["X"][test], file["y"][test])


def fit(split: Split, k: int, **parameters: Any) -> tuple[FlowBNNRegressor, float]:
    """Fit an estimator, on one core if matrices are small."""
    is_small = len(split.X) < uci_posteriors.MOST_ROWS_OF_ONE_THREAD
    torch.set_num_threads(1 if is_small else uci_posteriors.N_THREADS)
    start = time.perf_counter()
    model = FlowBNNRegressor((50,), random_state=k, **parameters).fit(split.X, split.y)
    return model, time.perf_counter() - start


def score(model: FlowBNNRegressor, split: Split, seconds: float) -> Scores:
    """Score predictions of the test part."""
    rmse = np.sqrt(np.mean((model.predict(split.X_test) - split.y_test) ** 2))
    nll = -model.log_predictive_density(split.X_test, split.y_test).mean()
    return Scores(float(rmse), float(nll), seconds)


def measure_ensembles(split: Split, k: int) -> dict[str, Scores]:
    """Deep ensembles: the first five networks of twenty, and all."""
    n_epochs = -(-N_STEPS * BATCH_SIZE // len(split.X))
    model, seconds = fit(
        split,
        k,
        population="ensemble",
        average="population",
        n_networks=20,
        n_samples=20,
        max_iter=n_epochs,
        learning_rate_init=1e-2,
        early_stopping=True,
        n_iter_no_change=n_epochs,
        tol=0.0,
    )
    scores = {"20 networks": score(model, split, seconds)}
    model.networks_ = model.networks_[:5]
    return {"5 networks": score(model, split, seconds / 4), **scores}


def measure(path: Path, k: int, peer: str | None) -> dict[str, Scores]:
    """Scores of all on one split."""
    split = load_split(path, k)
    model, seconds = fit(split, k)
    scores = {"FlowBNNRegressor": score(model, split, seconds)} | measure_ensembles(split, k)
    if peer:
        standardised = uci_posteriors.load_split(path, k)
        scores["bde"] = Scores(*uci_posteriors.measure_peer(standardised, k, peer))
    return scores


def print_rows(dataset: str, results: list[dict[str, Scores]]) -> None:
    """Means over splits and their standard errors."""
    n_splits = len(results)
    for name in results[0]:
        rmse, nll, seconds = np.array([scores[name] for scores in results]).T
        cells = []
        for values in (rmse, nll):
            error = values.std(ddof=1) / np.sqrt(n_splits) if n_splits > 1 else np.nan
            cells.append(f"{values.mean():9.3f} +- {error:5.3f}")
        row = f"{dataset} ({n_splits}), {name}"
        print(f"{row:34}{''.join(f'{c:>20}' for c in cells)}{np.median(seconds):10.1f}")
    for name, values in PUBLISHED.items():
        row = f"{dataset}, {name}"
        print(f"{row:34}{'':20}{values[DATASETS.index(dataset)]:11.2f}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of uci_reg_*.npz")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--n-splits", type=int, help="by default 20, or 5 of large sets")
    parser.add_argument("--peer-python", help="interpreter with sklearn-contrib-bde")
    parser.add_argument("--output", type=Path, help="file of JSON lines to append to")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    print(f"{'':34}{'RMSE':>20}{'NLL':>20}{'seconds':>10}", flush=True)
    for dataset in options.datasets:
        path = options.data / f"uci_reg_{dataset}.npz"
        n_splits = options.n_splits or (5 if len(np.load(path)["y"]) > 5000 else 20)
        results = []
        for k in tqdm(range(n_splits), desc=dataset, leave=False):
            results.append(measure(path, k, options.peer_python))
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps({"dataset": dataset, "split": k} | results[-1]) + "\n")
        print_rows(dataset, results)


if __name__ == "__main__":
    main()
