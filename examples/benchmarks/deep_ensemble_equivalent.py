"""How many trained networks generated ones are worth, against the networks that the flow learned.

Flows are fitted to disjoint sets of 10, 30, 100, ... networks. For each set: the test loss of the
average of all its networks, and that of the average of 200 networks that its flow generates. Of the
mean of the latter over sets, the deep-ensemble equivalent: how many independently trained networks
have an average as good, by the curve of networks that no flow has seen.

Generated networks are worth more than those that the flow learned from where their loss is lower.
Sets of few networks scatter by more than the curve falls, so that is decided within sets: the mean
difference of both losses and its 95 % interval over sets, by Student's t.

    python examples/benchmarks/deep_ensemble_equivalent.py [--dataset digits]
        [--sizes 10 30 100 300 1000 3000] [--n-sets 3] [--n-reference 2000] [--max-iter N]
        [--guided]

With --guided every generated network takes 24 full-batch gradients of the training loss, which
count among the seconds of sampling.

Data, split and recipe of training are those of ``python -m bayesflow_nn``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from bayesflow_nn import (
    Architecture,
    FlowPosterior,
    TaskGuidance,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.predictive import (
    PredictiveCurve,
    deep_ensemble_equivalent,
    predictive_curve,
    predictive_log_density,
)
from bayesflow_nn.weights import Categorical

N_GENERATED = 200
COLUMNS = (
    *("networks", "NLL of all", "generated", "difference", "95 %", "worth", "larger?"),
    *("train s", "fit s", "sample s", "worth per s"),
)
HEADER = " ".join(f"{column:>11}" for column in COLUMNS)


class Result(NamedTuple):
    """Losses (nats) of a set of networks and of those generated from it, and what they cost."""

    nll_of_all: float
    nll_of_generated: float
    train_seconds: float
    fit_seconds: float
    sample_seconds: float


@dataclass(frozen=True)
class Row:
    """Means over sets of so many networks."""

    n_networks: int
    results: list[Result]
    reference: PredictiveCurve

    @property
    def differences(self) -> np.ndarray:
        """Loss of generated networks over that of their own training networks."""
        return np.array([r.nll_of_generated - r.nll_of_all for r in self.results])

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of the mean difference; NaN for a single set."""
        n_sets = len(self.results)
        if n_sets == 1:
            return np.nan
        return stats.t.ppf(0.975, n_sets - 1) * stats.sem(self.differences)

    @property
    def is_larger(self) -> str:
        """Whether generated networks are worth more than those that the flow learned from."""
        difference = self.differences.mean()
        if not abs(difference) > self.half_width:
            return "open"
        return "yes" if difference < 0 else "no"

    def __str__(self) -> str:
        nll_of_all, nll_of_generated, *seconds = np.mean(self.results, axis=0).tolist()
        size, is_bound = deep_ensemble_equivalent(nll_of_generated, self.reference)
        sign = ">" if is_bound else ""
        cells = [
            str(self.n_networks),
            f"{nll_of_all:.4f}",
            f"{nll_of_generated:.4f}",
            f"{self.differences.mean():+.4f}",
            "-" if len(self.results) == 1 else f"± {self.half_width:.4f}",
            f"{sign}{size:.1f}",
            self.is_larger,
            *(f"{value:.1f}" for value in seconds),
            f"{sign}{size / seconds[-1]:.1f}",
        ]
        return " ".join(f"{cell:>11}" for cell in cells)


def loss(architecture: Architecture, weights: ArrayLike | Tensor, data: Data) -> float:
    """Test loss of the average of all networks, in nats."""
    log_p = predictive_log_density(architecture, weights, data.X_test, data.y_test, Categorical())
    return -log_p.double().mean().item()


def reference_curve(architecture: Architecture, data: Data, n_networks: int) -> PredictiveCurve:
    """Curve of networks of another seed, by the same recipe."""
    networks = train_population(
        architecture, data.X_train, data.y_train, n_networks=n_networks, random_state=1
    )
    return predictive_curve(
        architecture, networks.weights, data.X_test, data.y_test, random_state=0
    )


def measure(
    population: WeightPopulation, data: Data, options: argparse.Namespace, train_seconds: float
) -> Result:
    """Fit a flow, generate, and score."""
    start = time.perf_counter()
    posterior = FlowPosterior(geometry="product_sphere", max_iter=options.max_iter, random_state=0)
    with warnings.catch_warnings():
        # Below ten networks nothing is held out. The table shows what that costs.
        warnings.filterwarnings("ignore", ".* chains are too few", UserWarning)
        posterior.fit(population)
    fitted = time.perf_counter()
    guidance = TaskGuidance(data.X_train, data.y_train) if options.guided else None
    generated = posterior.sample(N_GENERATED, random_state=1, guidance=guidance)
    sampled = time.perf_counter()
    losses = (loss(population.architecture, w, data) for w in (population.weights, generated))
    return Result(*losses, train_seconds, fitted - start, sampled - fitted)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="breast_cancer")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        help="networks that flows learn from (default: 10, 30, ..., 3000 and those of the problem)",
    )
    parser.add_argument("--n-sets", type=int, default=3, help="sets, each with a flow, per size")
    parser.add_argument("--n-reference", type=int, default=2000, help="networks of the curve")
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--guided", action="store_true", help="sample with gradients of the loss")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    problem = PROBLEMS[options.dataset]
    data, n_sets = load_data(problem), options.n_sets
    architecture = Architecture.mlp(
        [data.X_train.shape[1], *problem.hidden, int(data.y_train.max()) + 1]
    )
    reference = reference_curve(architecture, data, options.n_reference)
    print(f"{options.dataset}, independently trained networks\n{reference}\n\n{HEADER}", flush=True)
    for n in options.sizes or [10, 30, 100, 300, 1000, 3000, problem.n_networks]:
        start = time.perf_counter()
        networks = train_networks(options.dataset, data, n * n_sets)
        seconds = (time.perf_counter() - start) / n_sets
        sets = (networks[k : k + n] for k in range(0, n * n_sets, n))
        results = [measure(one, data, options, seconds) for one in sets]
        print(Row(n, results, reference), flush=True)


if __name__ == "__main__":
    main()
