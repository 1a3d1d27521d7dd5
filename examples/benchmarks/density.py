"""Cost and scatter of log densities on a flow over networks of hundreds of weights.

Two figures, on a flow over networks 30-16-16-2 trained on breast cancer:

- the time of log densities over that of the velocity evaluations they contain, a Jacobian product
  counted as two of them; the median over chunks of networks, on which both are timed in turn;
- the variance of Hutch++ over that of Hutchinson's estimate, at equal Jacobian products, over
  seeds.

    python examples/benchmarks/density.py [--n-densities 1000] [--n-networks 2000] [--n-seeds 24]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn import FlowPosterior
from bayesflow_nn.demonstration.problems import PROBLEMS, load_data, train_networks
from bayesflow_nn.flow import DensityMethod, FlowField, StandardSource

N_STEPS, N_PROBES = 32, 8
PRODUCTS = (8, 32, 64)


def fit(n_networks: int) -> FlowPosterior:
    """A flow over networks for breast cancer."""
    data = load_data(PROBLEMS["breast_cancer"])
    population = train_networks("breast_cancer", data, n_networks)
    return FlowPosterior(random_state=0, verbose=True).fit(population)


def seconds(run: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_ratio(field: FlowField, x: Tensor, source: StandardSource) -> None:
    """Print the time of log densities over that of their velocity evaluations."""
    method = DensityMethod(n_steps=N_STEPS, trace="hutchinson", n_probes=N_PROBES)
    t = torch.tensor(0.5, dtype=x.dtype)
    n_stages = 4 * N_STEPS
    evaluations = n_stages * (1 + 2 * N_PROBES)

    def bare(part: Tensor) -> None:
        for _ in range(n_stages):
            field.extended(t, part)

    parts = x.split(method.chunk_size // N_PROBES)
    densities = [
        seconds(lambda part=part: method.log_density(field, source, part)) for part in parts
    ]
    velocities = [seconds(lambda part=part: bare(part)) * (1 + 2 * N_PROBES) for part in parts]
    ratio = statistics.median(d / v for d, v in zip(densities, velocities, strict=True))
    print(
        f"{len(x)} log densities, {N_STEPS} rk4 steps, {N_PROBES} probes: {sum(densities):.0f} s; "
        f"over their {evaluations} evaluations: {ratio:.2f}",
        flush=True,
    )


def variance_ratio(field: FlowField, x: Tensor, source: StandardSource, n_seeds: int) -> None:
    """Print the variance of Hutch++ over Hutchinson's at equal products, averaged over rows."""
    for n_products in PRODUCTS:
        variances = {}
        for trace in ("hutchinson", "hutch++"):
            values = [
                DensityMethod(n_steps=8, trace=trace, n_probes=n_products, seed=seed)
                .log_density(field, source, x)
                .value
                for seed in range(n_seeds)
            ]
            variances[trace] = torch.stack(values).var(0).mean().item()
        print(
            f"{n_products:3d} products: standard deviation {variances['hutchinson'] ** 0.5:.2f} "
            f"nats by Hutchinson, {variances['hutch++'] ** 0.5:.2f} by Hutch++; ratio of variances "
            f"{variances['hutch++'] / variances['hutchinson']:.2f}",
            flush=True,
        )


def main() -> None:
    """Fit, and print both figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-densities", type=int, default=1000)
    parser.add_argument("--n-networks", type=int, default=2000)
    parser.add_argument("--n-seeds", type=int, default=24)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    posterior = fit(options.n_networks)
    source = StandardSource(posterior.chart_.manifold)
    field = FlowField(posterior.field_.path, copy.deepcopy(posterior.field_.predictor).double())
    weights = posterior.sample(options.n_densities, random_state=0)
    x = posterior.to_points(weights).double()
    with torch.no_grad():
        time_ratio(field, x, source)
        variance_ratio(field, x[:8], source, options.n_seeds)


if __name__ == "__main__":
    main()
