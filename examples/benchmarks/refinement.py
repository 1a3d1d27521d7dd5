"""Chains that start at a flow and take its proposals, against chains from random starts.

A network with one hidden layer under a standard normal prior, on a regression in one dimension or
on three features of the breast cancer data. The reference is a run of Hamiltonian chains from draws
of the prior, ten times as long as the longest of its rows. Every row is a run of its own: its cost
in gradients of the log posterior, of all chains, tuning included; how far its predictions are from
those of the reference, as root mean squares over test inputs: the mean, and the ends of the 90 %
interval of the function, in per cent of the predictive standard deviation (with noise; of a label
it is sqrt(p (1 - p))); and the worst R-hat of predictions.

    python examples/benchmarks/refinement.py [--problem breast_cancer]

Refinement begins with a flow over networks that Adam trained from draws of the prior, no sample of
the posterior. Its first run is only of local moves, many short chains. Each further one starts from
a flow that learned from all runs before, which leaves out less every time: two short ones, and one
that is long and has many proposals of a larger flow beside the shortest of local moves. The
gradients of a row include those of the rows before it.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from bayesflow_nn import (
    Architecture,
    FlowPosterior,
    WeightPopulation,
    function_diagnostics,
    sample_population,
    train_population,
)
from bayesflow_nn.velocity import MLPVelocity
from bayesflow_nn.weights import Likelihood, LogPosterior, Normal

HEADER = f"{'':34}{'gradients':>12}{'mean, %':>10}{'interval, %':>13}{'R-hat':>9}{'seconds':>10}"
FEATURES = [20, 21, 24]  # worst radius, texture and smoothness


class Problem(NamedTuple):
    """Training data, test inputs, a network and its likelihood.

    Then draws of the longest chains from random starts, and gradients of the trajectories by which
    refinement begins.
    """

    X: Tensor
    y: Tensor
    X_test: Tensor
    architecture: Architecture
    likelihood: Likelihood | None
    n_draws: int
    n_leapfrog: int


class Predictions(NamedTuple):
    """Of an average, ``(n_inputs,)`` each: mean, predictive deviation, ends of the interval."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Run(NamedTuple):
    """Networks, and what they cost."""

    population: WeightPopulation
    n_gradients: int
    seconds: float


def regression() -> Problem:
    """Forty points about a wave, with a gap in the middle."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(20)[:, None]
    X = sides * (0.3 + 1.7 * torch.rand(40, 1, generator=generator, dtype=torch.float64))
    y = torch.sin(2 * X) + 0.3 * torch.randn(40, 1, generator=generator, dtype=torch.float64)
    X_test = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    return Problem(X, y, X_test, Architecture.mlp([1, 3, 1], "tanh"), Normal(0.3), 200, 8)


def breast_cancer() -> Problem:
    """Three features, standardised; every fourth person is a test input."""
    X, y = load_breast_cancer(return_X_y=True)
    X = X[:, FEATURES]
    X = torch.as_tensor((X - X.mean(0)) / X.std(0))
    test = np.arange(len(y)) % 4 == 0
    architecture = Architecture.mlp([3, 3, 2], "tanh")
    return Problem(X[~test], torch.as_tensor(y[~test]), X[test], architecture, None, 160, 4)


PROBLEMS = {"regression": regression, "breast_cancer": breast_cancer}


def run(sample: Callable[[], WeightPopulation]) -> Run:
    """Networks of a function, the gradients of log posteriors in it, and its seconds."""
    n_gradients, differentiate = 0, LogPosterior.value_and_gradient

    def counted(target: LogPosterior, weights: Tensor, *rows: Any) -> Any:
        nonlocal n_gradients
        n_gradients += len(weights)
        return differentiate(target, weights, *rows)

    start = time.perf_counter()
    with mock.patch.object(LogPosterior, "value_and_gradient", counted):
        population = sample()
    return Run(population, n_gradients, time.perf_counter() - start)


def predictions(population: WeightPopulation, problem: Problem) -> Predictions:
    """Predictions of all networks; of a class, intervals are those of its probability."""
    parts = []
    for weights in population.weights.double().split(100_000):
        outputs = population.architecture.apply(weights, problem.X_test)
        parts.append(outputs[..., 0] if problem.likelihood else outputs.softmax(-1)[..., 1])
    values = torch.cat(parts).numpy()
    mean = values.mean(0)
    if problem.likelihood is None:
        std = np.sqrt(mean * (1 - mean))
    else:
        std = np.sqrt(values.var(0) + problem.likelihood.scale**2)
    return Predictions(mean, std, *np.quantile(values, [0.05, 0.95], axis=0))


def print_row(name: str, found: Run, problem: Problem, reference: Predictions | None) -> None:
    """How far from the reference a run is, and what it cost."""
    population = found.population
    r_hat = "-"
    if len(population) > population.n_chains:
        diagnostics = function_diagnostics(population, problem.X_test[::4])
        r_hat = f"{diagnostics.predictions.r_hat.max():.4f}"
    cells = ["-", "-"]
    if reference is not None:
        own = predictions(population, problem)
        ends = [own.low - reference.low, own.high - reference.high]
        errors = own.mean - reference.mean, np.stack(ends)
        cells = [f"{100 * np.sqrt(np.mean((e / reference.std) ** 2)):.2f}" for e in errors]
    costs = f"{found.n_gradients:12,d}{cells[0]:>10}{cells[1]:>13}{r_hat:>9}{found.seconds:10.1f}"
    print(f"{name:34}{costs}", flush=True)


def sample_from_prior(problem: Problem, n_chains: int, n_draws: int, seed: int) -> WeightPopulation:
    """Hamiltonian chains from draws of the prior."""
    return sample_population(
        problem.architecture,
        problem.X,
        problem.y,
        sampler="hmc",
        n_chains=n_chains,
        n_draws=n_draws,
        n_tune=min(300, n_draws),
        likelihood=problem.likelihood,
        random_state=seed,
    )


def train_networks(problem: Problem) -> WeightPopulation:
    """Networks that Adam trained from draws of the prior."""
    return train_population(
        problem.architecture,
        problem.X.float(),
        problem.y.float() if problem.likelihood else problem.y,
        n_networks=1000,
        init="normal",
        init_variance=1.0,
        learning_rate=1e-2,
        n_epochs=100,
        random_state=0,
    )


def join(first: WeightPopulation, second: WeightPopulation) -> WeightPopulation:
    """Networks of two populations."""
    return WeightPopulation(
        torch.cat([first.weights, second.weights]),
        architecture=first.architecture,
        chain=torch.cat([first.chain, second.chain + first.n_chains]),
        draw=torch.cat([first.draw, second.draw]),
        task=first.task,
        likelihood=first.likelihood,
        inputs=first.inputs,
    )


def fit_flow(population: WeightPopulation, max_iter: int, hidden_size: int) -> FlowPosterior:
    """A flow in flat space, where the prior is normal."""
    return FlowPosterior(
        geometry="euclidean",
        velocity=functools.partial(MLPVelocity, hidden_size=hidden_size),
        max_iter=max_iter,
        n_steps=3,
        random_state=0,
    ).fit(population)


def print_refined(problem: Problem, reference: Predictions, n_chains: int) -> None:
    """Refine four times, each time from a flow over the networks of all times before."""
    population, n_gradients = train_networks(problem), 0
    print_row("networks of Adam", Run(population, 0, 0.0), problem, reference)
    first = {"n_chains": 2 * n_chains, "n_draws": 8, "n_leapfrog": problem.n_leapfrog}
    stages = (
        ("local moves", (500, 64), first | {"n_proposals": 0}),
        ("refitted, proposals", (2000, 64), {"n_draws": 30}),
        ("refitted to both", (4000, 64), {"n_draws": 20, "n_proposals": 16}),
        ("refitted to all", (12_000, 128), {"n_draws": 150, "n_proposals": 24, "n_leapfrog": 1}),
    )
    runs: list[WeightPopulation] = []
    for name, flow_size, options in stages:
        start = time.perf_counter()
        flow = fit_flow(population, *flow_size)
        fitted = time.perf_counter() - start
        refine = functools.partial(
            flow.refine,
            problem.X,
            problem.y,
            likelihood=problem.likelihood,
            n_tune=16,
            random_state=0,
            **{"n_chains": n_chains, "n_leapfrog": 2, "n_proposals": 8} | options,
        )
        found = run(refine)
        n_gradients += found.n_gradients
        total = Run(found.population, n_gradients, found.seconds + fitted)
        print_row(name, total, problem, reference)
        if "proposal_acceptance" in found.population.metrics:
            accepted = found.population.metrics["proposal_acceptance"].mean()
            print(f"  proposals accepted: {accepted:.2f}", flush=True)
        runs.append(found.population)
        population = functools.reduce(join, runs)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=list(PROBLEMS), default="regression")
    parser.add_argument("--n-chains", type=int, default=128)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    problem, n_chains = PROBLEMS[options.problem](), options.n_chains
    print(f"{options.problem}, {'-'.join(map(str, problem.architecture.sizes))}\n\n{HEADER}")
    sample = functools.partial(sample_from_prior, problem, n_chains)
    longest = run(lambda: sample(10 * problem.n_draws, seed=0))
    reference = predictions(longest.population, problem)
    print_row("reference", longest, problem, None)
    for n_draws in (problem.n_draws // 4, problem.n_draws // 2, problem.n_draws):
        found = run(functools.partial(sample, n_draws, seed=1))
        print_row(f"random starts, {n_draws} draws", found, problem, reference)
    print_refined(problem, reference, n_chains)


if __name__ == "__main__":
    main()
