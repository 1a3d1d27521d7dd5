"""A flow that learned from Markov chains: as good as their sample, new, and faster.

Chains sample the posterior of a network on a data set of scikit-learn under a normal prior; a flow
is fitted to nine tenths of them. The table has the test loss of averages over the networks that the
chains drew and over generated ones, and what networks of either kind cost once chains are tuned and
the flow is fitted: a network of the chains counts as many steps as their predictions stay
correlated (by the median bulk effective sample size over inputs).

    python examples/benchmarks/flow_of_chains.py [--dataset breast_cancer] [--n-chains 500]
        [--n-draws 10] [--thinning 100] [--geometry euclidean]

Data and split are those of ``python -m bayesflow_nn``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from bayesflow_nn import Architecture, FlowPosterior, function_diagnostics, sample_population
from bayesflow_nn.calibration import negative_log_likelihood
from bayesflow_nn.demonstration.problems import PROBLEMS, load_data
from bayesflow_nn.predictive import predict_proba
from bayesflow_nn.symmetry.chart import GEOMETRIES
from bayesflow_nn.weights import train_population

N_GENERATED = 1000


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="breast_cancer")
    parser.add_argument("--n-chains", type=int, default=500)
    parser.add_argument("--n-draws", type=int, default=10)
    parser.add_argument("--n-tune", type=int, default=2000)
    parser.add_argument("--thinning", type=int, default=100)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="euclidean")
    parser.add_argument("--max-iter", type=int, default=900)
    return parser.parse_args()


def draw(flow: FlowPosterior) -> tuple[torch.Tensor, float]:
    """Networks, and the seconds that they take."""
    start = time.perf_counter()
    networks = torch.as_tensor(flow.sample(N_GENERATED, random_state=1))
    return networks, time.perf_counter() - start


def main() -> None:
    options = parse_arguments()
    problem = PROBLEMS[options.dataset]
    data = load_data(problem)
    mlp = Architecture.mlp(
        [data.X_train.shape[1], *problem.hidden, int(data.y_train.max()) + 1], "tanh"
    )
    start = time.perf_counter()
    trained = train_population(
        mlp, data.X_train, data.y_train, n_networks=options.n_chains, random_state=0
    )
    chains = sample_population(
        mlp,
        data.X_train,
        data.y_train,
        init=trained,
        n_draws=options.n_draws,
        n_tune=options.n_tune,
        thinning=options.thinning,
        random_state=0,
    )
    chain_seconds = time.perf_counter() - start
    n_steps = options.n_draws * options.thinning
    seconds_per_step = chain_seconds / (options.n_tune + n_steps) / options.n_chains
    diagnostics = function_diagnostics(chains, data.X_test, data.y_test)
    n_independent = float(np.median(diagnostics.predictions.ess_bulk))
    train, held_out = chains.split(test_size=0.1, random_state=0)
    start = time.perf_counter()
    flow = FlowPosterior(
        geometry=options.geometry, max_iter=options.max_iter, random_state=0, verbose=True
    ).fit(train)
    fit_seconds = time.perf_counter() - start
    start = time.perf_counter()
    distilled = flow.distill(n_steps=1)
    distill_seconds = time.perf_counter() - start
    generated, sample_seconds = draw(flow)
    at_once, seconds_at_once = draw(distilled)
    report = flow.novelty(held_out, generated=generated)
    sets = {
        "networks that optimisation found": trained.weights,
        "all networks of the chains": chains.weights,
        f"{N_GENERATED} generated networks": generated,
        f"{N_GENERATED} of the distilled flow": at_once,
    }
    print(f"\n{options.dataset}, {'-'.join(map(str, mlp.sizes))}, {options.geometry}\n")
    print(f"{diagnostics}\n")
    for name, weights in sets.items():
        loss = negative_log_likelihood(predict_proba(mlp, weights, data.X_test), data.y_test)
        print(f"NLL of the average, {name:<34} {loss:.4f}")
    steps = n_steps * options.n_chains / n_independent
    print(
        f"novelty {report.novelty:.2f}, dispersion {report.dispersion:.2f}\n"
        f"chains {chain_seconds:.1f} s; once tuned an independent network takes {steps:.0f} steps, "
        f"ten take {10 * steps * seconds_per_step:.2f} s by all chains together\n"
        f"chains that still have to be tuned take at least "
        f"{10 * options.n_tune * seconds_per_step:.2f} s for ten\n"
        f"flow {fit_seconds:.1f} s; {N_GENERATED} networks take {sample_seconds:.2f} s\n"
        f"distilled to one step in {distill_seconds:.1f} s; {N_GENERATED} networks take "
        f"{seconds_at_once:.2f} s"
    )


if __name__ == "__main__":
    main()
