"""Leave-one-out cross-validation by ArviZ, against posteriors that were refitted without the point.

A flow is fitted to Markov chains of a softmax regression on iris. ArviZ estimates from its networks
alone how each flower would be predicted by the posterior of all others, by Pareto-smoothed
importance sampling. For thirty flowers this is compared with the truth: chains and a flow of their
own, on the other 149.

    python examples/leave_one_out.py
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from bayesflow_nn import Architecture, FlowPosterior, sample_population

ARCHITECTURE = Architecture.mlp([4, 3])
N_SAMPLES = 2000


def load_data() -> tuple[np.ndarray, np.ndarray]:
    """Standardised flowers and their species."""
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(np.float32), y


def fit_posterior(X: np.ndarray, y: np.ndarray) -> FlowPosterior:
    """A flow over chains of the posterior under a standard normal prior."""
    population = sample_population(
        ARCHITECTURE,
        X,
        y,
        sampler="hmc",
        n_chains=64,
        n_draws=25,
        n_tune=150,
        thinning=4,
        random_state=0,
    )
    return FlowPosterior(geometry="euclidean", max_iter=100, n_steps=16, random_state=0).fit(
        population
    )


def refitted_log_densities(X: np.ndarray, y: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Log probability (nats) of each label under the posterior of all other data."""
    log_p = []
    for i in tqdm(points, desc="refits"):
        rest = np.arange(len(y)) != i
        posterior = fit_posterior(X[rest], y[rest])
        log_p.append(posterior.log_predictive_density(X[[i]], y[[i]], n_samples=N_SAMPLES)[0])
    return np.array(log_p)


def main(arguments: list[str] | None = None) -> None:
    """Print both, point by point and summed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=30, help="flowers left out")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\nArviZ is undergoing", FutureWarning)
        import arviz as az
    X, y = load_data()
    points = np.linspace(0, len(y) - 1, options.points).round().astype(int)
    start = time.perf_counter()
    record = fit_posterior(X, y).to_arviz(X, y, n_samples=N_SAMPLES, random_state=0)
    loo = az.loo(record, pointwise=True)
    estimated, seconds = loo.loo_i.values[points], time.perf_counter() - start
    refitted = refitted_log_densities(X, y, points)
    print(f"{'flower':>8}{'LOO':>10}{'refitted':>10}{'k-hat':>8}")
    for i, a, b, k in zip(points, estimated, refitted, loo.pareto_k.values[points], strict=True):
        print(f"{i:8d}{a:10.4f}{b:10.4f}{k:8.2f}")
    difference = estimated - refitted
    error = np.sqrt(len(points) * np.var(difference, ddof=1))
    print(
        f"sum over {len(points)} flowers: LOO {estimated.sum():.3f}, refitted {refitted.sum():.3f} "
        f"nats;\ndifference {difference.sum():.3f}, its standard error {error:.3f}\n"
        f"seconds: LOO {seconds:.0f} with the fit, "
        f"refits {time.perf_counter() - start - seconds:.0f}"
    )


if __name__ == "__main__":
    main()
