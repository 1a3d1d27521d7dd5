"""Where Sinkhorn re-basin earns its time, against weight matching, on pairs of 30-16-16-2.

    python examples/benchmarks/sinkhorn.py [--n-pairs 100]

Networks trained on half of the breast cancer data are matched to one of them. The table has the
mean distance, the mean loss at the midpoints on the half used for matching and on the other half
(nats, with standard errors over pairs), and the seconds of all pairs at once; below it the seconds
of as many pairs one at a time, over those of all at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayesflow_nn import Architecture, train_population
from bayesflow_nn.demonstration.problems import PROBLEMS, load_data
from bayesflow_nn.symmetry import (
    MidpointObjective,
    RandomPointObjective,
    discover,
    match_sinkhorn,
)
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.weight_matching import match_weights

Networks = dict[str, Tensor]


def make_loss(mlp: Architecture, X: Tensor, y: Tensor) -> Callable[[Networks], Tensor]:
    """Mean cross entropy of every network on these data."""

    def loss(networks: Networks) -> Tensor:
        logits = mlp.apply(mlp.flatten(networks), X).movedim(-1, 1)
        return cross_entropy(logits, y.expand(len(logits), -1), reduction="none").mean(1)

    return loss


def seconds(function: Callable[[], object]) -> tuple[float, object]:
    """Run a function: time and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def mean_and_error(values: Tensor) -> str:
    """Mean, and its standard error."""
    return f"{values.mean():8.4f} +- {values.std() / len(values) ** 0.5:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-pairs", type=int, default=100)
    options = parser.parse_args()
    data = load_data(PROBLEMS["breast_cancer"])
    X, y = torch.as_tensor(data.X_train), torch.as_tensor(data.y_train)
    half = len(X) // 2
    mlp = Architecture.mlp([30, 16, 16, 2])
    population = train_population(
        mlp, X[:half], y[:half], n_networks=options.n_pairs + 1, n_epochs=100, random_state=0
    )
    networks = mlp.unflatten(population.weights[1:])
    reference = {name: tensor[0] for name, tensor in mlp.unflatten(population.weights[:1]).items()}
    groups = discover(mlp.module, X[:2])
    losses = [make_loss(mlp, X[part], y[part]) for part in (slice(half), slice(half, None))]
    midpoint = MidpointObjective(losses[0], reference)
    random_point = RandomPointObjective(losses[0], reference)
    matched = match_weights(groups, networks, reference)

    def sinkhorn(rows: slice = slice(None), **kwargs: object) -> list[Tensor]:
        some = {name: tensor[rows] for name, tensor in networks.items()}
        return match_sinkhorn(groups, some, reference, random_state=0, **kwargs)

    unmoved = [torch.arange(group.size).repeat(options.n_pairs, 1) for group in groups]
    slowly = {"start": matched, "n_steps": 100, "learning_rate": 0.05}
    methods = {
        "none": lambda: unmoved,
        "weight matching": lambda: match_weights(groups, networks, reference),
        "Sinkhorn, distance": sinkhorn,
        "  from weight matching": lambda: sinkhorn(start=matched),
        "Sinkhorn, midpoint loss": lambda: sinkhorn(objective=midpoint),
        "  slowly from weight matching": lambda: sinkhorn(objective=midpoint, **slowly),
        "Sinkhorn, random points": lambda: sinkhorn(objective=random_point),
    }
    print(f"\n{'':30s}{'distance':>9s}{'midpoint, matched on':>24s}{'others':>20s}{'s':>9s}")
    for name, method in methods.items():
        time_of_all, orders = seconds(method)
        moved = permute_all(groups, networks, orders)
        distance = sum((moved[n] - t).square().flatten(1).sum(1) for n, t in reference.items())
        values = [MidpointObjective(loss, reference)(moved) for loss in losses]
        columns = "".join(f"{mean_and_error(value):>22s}" for value in values)
        print(f"{name:30s}{distance.sqrt().mean():9.2f}{columns}{time_of_all:9.2f}", flush=True)
    together, _ = seconds(sinkhorn)
    alone, _ = seconds(lambda: [sinkhorn(slice(i, i + 1)) for i in range(options.n_pairs)])
    print(
        f"\n{options.n_pairs} pairs one at a time: {alone:.1f} s, {alone / together:.0f} times all"
    )


if __name__ == "__main__":
    main()
