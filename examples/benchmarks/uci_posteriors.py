"""Posterior samples on the UCI regressions, beside another package for the same.

Per split: eight networks with two hidden layers of 16 and a predicted noise scale are trained for
about three thousand steps; from each a microcanonical chain takes 2,000 steps to tune itself and
2,000 more, of which it records every eighth network. Test loss is that of the mixture over all
draws, in the original units. With ``--peer-python``, the interpreter of an environment with
`sklearn-contrib-bde`, its `BdeRegressor` is fitted to the same split right after: 8 members, 200
epochs, 2,000 steps of warm-up, 1,000 draws of every second step; ReLU, as it comes.

    python examples/benchmarks/uci_posteriors.py --data ../shared/data
        [--datasets boston yacht] [--n-splits N] [--activation tanh] [--peer-python PYTHON]

Splits are the standard ones (Hernandez-Lobato & Adams 2015): the first five, and two of the sets
with more than 5,000 rows. Inputs and targets are standardised on the training part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesflow_nn import Architecture, sample_population, train_population
from bayesflow_nn.predictive import predictive_log_density, predictive_moments
from bayesflow_nn.weights import HeteroscedasticNormal

DATASETS = ("yacht", "boston", "energy", "concrete", "wine_red", "power", "kin8nm")
N_CHAINS, N_STEPS, BATCH_SIZE = 8, 3000, 32
SAMPLING = {"n_tune": 2000, "n_draws": 250, "thinning": 8}
ENERGY_VARIANCE = 0.1
"""Per weight, in nats squared, as in MILE: longer steps than the default, and more bias."""
N_THREADS = torch.get_num_threads()
MOST_ROWS_OF_ONE_THREAD = 5000
"""Matrix products of fewer rows take longer on two cores than on one."""
PEER = Path(__file__).parent / "peers" / "bde_regressor.py"


class Split(NamedTuple):
    """Standardised data, and the standard deviation of the training targets."""

    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor
    scale: float


class Scores(NamedTuple):
    """Of a test set, in the original units; seconds of fit and predictions."""

    rmse: float
    nll: float
    seconds: float


def load_split(path: Path, k: int) -> Split:
    """Read split k of a file with ``X``, ``y``, ``train_idx`` and ``test_idx``."""
    file = np.load(path)
    train, test = (file[name][k].astype(int) for name in ("train_idx", "test_idx"))
    X, y = file["X"], file["y"][:, None]
    spread = X[train].std(0)
    X = (X - X[train].mean(0)) / np.where(spread > 0, spread, 1)
    scale = y[train].std()
    y = (y - y[train].mean()) / scale
    parts = (
        torch.as_tensor(a, dtype=torch.float32) for a in (X[train], y[train], X[test], y[test])
    )
    return Split(*parts, float(scale))


def measure(split: Split, k: int, activation: str) -> Scores:
    """Train, sample and score."""
    start = time.perf_counter()
    is_small = len(split.X_train) < MOST_ROWS_OF_ONE_THREAD
    torch.set_num_threads(1 if is_small else N_THREADS)
    likelihood = HeteroscedasticNormal()
    architecture = Architecture.mlp([split.X_train.shape[1], 16, 16, 2], activation)
    trained = train_population(
        architecture,
        split.X_train,
        split.y_train,
        n_networks=N_CHAINS,
        loss=likelihood,
        init="kaiming",
        learning_rate=5e-3,
        n_epochs=-(-N_STEPS * BATCH_SIZE // len(split.X_train)),
        batch_size=BATCH_SIZE,
        random_state=k,
    )
    population = sample_population(
        architecture,
        split.X_train,
        split.y_train,
        init=trained,
        likelihood=likelihood,
        sampler_options={"energy_variance": ENERGY_VARIANCE},
        random_state=k,
        **SAMPLING,
    )
    networks = population.weights, split.X_test
    log_p = predictive_log_density(architecture, *networks, split.y_test, likelihood)
    mean = predictive_moments(architecture, *networks, likelihood=likelihood).mean
    rmse = (mean - split.y_test).square().mean().sqrt().item()
    return in_units(split, rmse, -log_p.double().mean().item(), time.perf_counter() - start)


def measure_peer(split: Split, k: int, python: str) -> Scores:
    """Let the other package do the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.npz"
        np.savez(path, **{name: getattr(split, name).numpy() for name in Split._fields[:4]})
        command = [python, str(PEER), str(path), str(k)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    scores = json.loads(result.stdout.splitlines()[-1])
    return in_units(split, scores["rmse"], scores["nll"], scores["seconds"])


def in_units(split: Split, rmse: float, nll: float, seconds: float) -> Scores:
    """Undo the standardisation of the targets."""
    return Scores(rmse * split.scale, nll + np.log(split.scale), seconds)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of uci_reg_*.npz")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--n-splits", type=int, help="by default 5, or 2 of large sets")
    parser.add_argument("--activation", default="tanh", choices=("tanh", "relu"))
    parser.add_argument("--peer-python", help="interpreter with sklearn-contrib-bde")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    columns = ("RMSE", "NLL", "std. error", "seconds")
    print(f"{'':26}" + "".join(f"{column:>11}" for column in columns), flush=True)
    for dataset in options.datasets:
        path = options.data / f"uci_reg_{dataset}.npz"
        n_splits = options.n_splits or (2 if len(np.load(path)["y"]) > 5000 else 5)
        results: dict[str, list[Scores]] = {}
        for k in range(n_splits):
            split = load_split(path, k)
            results.setdefault("bayesflow_nn", []).append(measure(split, k, options.activation))
            if options.peer_python:
                results.setdefault("bde", []).append(measure_peer(split, k, options.peer_python))
        for name, scores in results.items():
            rmse, nll, seconds = np.array(scores).T
            error = nll.std(ddof=1) / np.sqrt(n_splits) if n_splits > 1 else np.nan
            cells = (rmse.mean(), nll.mean(), error, np.median(seconds))
            texts = "".join(f"{cell:11.3f}" for cell in cells)
            print(f"{f'{dataset} ({n_splits}), {name}':26}{texts}", flush=True)


if __name__ == "__main__":
    main()
