"""Flows over principal components of networks: quality, novelty and dispersion by their number.

    python examples/benchmarks/principal_components.py [--n-networks 1000] [--dataset digits]

For every number of components, and for the flow over all weights: mean accuracy and NLL (nats) of
200 generated networks on the test data, the NLL of their average, novelty and dispersion against
held-out networks, and the seconds of the fit.
"""

from __future__ import annotations

import argparse
import time

import torch

from bayesflow_nn import FlowPosterior
from bayesflow_nn.demonstration.problems import PROBLEMS, load_data, train_networks

N_GENERATED = 200
COMPONENTS = (20, 50, 100, 200, 400, None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=tuple(PROBLEMS), default="digits")
    parser.add_argument("--n-networks", type=int, default=1000)
    options = parser.parse_args()
    data = load_data(PROBLEMS[options.dataset])
    population = train_networks(options.dataset, data, options.n_networks)
    architecture = population.architecture
    X, y = torch.as_tensor(data.X_test), torch.as_tensor(data.y_test)

    def report(name: str, weights: torch.Tensor, rest: str) -> None:
        proba = architecture.apply(torch.as_tensor(weights), X).softmax(-1)
        own = proba.gather(-1, y.expand(len(proba), -1)[..., None]).squeeze(-1)
        accuracy = (proba.argmax(-1) == y).double().mean()
        average = -own.mean(0).log().mean()
        print(f"{name:14s}{accuracy:10.4f}{-own.log().mean():9.4f}{average:9.4f}{rest}", flush=True)

    print(
        f"\n{'components':14s}{'accuracy':>10s}{'NLL':>9s}{'average':>9s}{'novelty':>9s}"
        f"{'dispersion':>12s}{'s':>8s}"
    )
    report("trained", population.weights[:N_GENERATED], "")
    for reducer in COMPONENTS:
        start = time.perf_counter()
        posterior = FlowPosterior(geometry="euclidean", reducer=reducer, random_state=0)
        posterior.fit(population)
        seconds = time.perf_counter() - start
        weights = posterior.sample(N_GENERATED, random_state=1)
        novelty = posterior.novelty(generated=weights)
        rest = f"{novelty.novelty:9.2f}{novelty.dispersion:12.2f}{seconds:8.0f}"
        report("all weights" if reducer is None else str(reducer), weights, rest)


if __name__ == "__main__":
    main()
