"""Loss barriers between networks of different trajectories, before and after alignment.

[E25] figure 7.2: networks 30-16-16-2 trained on the breast cancer data, in random disjoint pairs.
The table has, for each way to align them, the mean over pairs of the loss at the midpoint less the
mean loss of the two networks (nats) on the training and on the test data, with its standard error,
and the mean distance between the two weight vectors.

    python examples/reproductions/barriers.py [--n-networks 250] [--plot barriers.png]

The plot shows the mean loss along the lines. [E25] has barriers of 0.244 before and 0.07 after
alignment to one reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayesflow_nn import WeightPopulation
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.symmetry import (
    MidpointObjective,
    PermutationAligner,
    discover,
    interpolation_losses,
    match_sinkhorn,
)
from bayesflow_nn.symmetry.groups import permute_all

DATASET = "breast_cancer"
N_POINTS = 25
Method = Callable[[WeightPopulation], WeightPopulation]


def align(population: WeightPopulation, method: str) -> WeightPopulation:
    """All networks in the order of one reference, their barycentre."""
    return PermutationAligner(method=method, random_state=0).fit_transform(population)


def align_pairwise(population: WeightPopulation) -> WeightPopulation:
    """Networks 1, 3, ... in the order of networks 0, 2, ... before them; the others as they are."""
    weights = population.weights.clone()
    for k in range(0, len(weights) - 1, 2):
        aligner = PermutationAligner(reference=weights[k])
        weights[[k + 1]] = aligner.fit_transform(population[[k + 1]]).weights
    return population.replace(weights)


def align_by_midpoint_loss(population: WeightPopulation, data: Data) -> WeightPopulation:
    """Networks 1, 3, ... so that the training loss halfway to networks 0, 2, ... is low.

    By gradient descent on relaxed permutations, of all pairs at once, from weight matching.
    """
    architecture = population.architecture
    X, y = torch.as_tensor(data.X_train), torch.as_tensor(data.y_train)

    def loss(networks: dict[str, Tensor]) -> Tensor:
        logits = architecture.apply(architecture.flatten(networks), X)
        return cross_entropy(
            logits.movedim(-1, 1), y.expand(len(logits), -1), reduction="none"
        ).mean(1)

    matched = align_pairwise(population)
    first, second = (architecture.unflatten(matched.weights[k::2]) for k in (0, 1))
    groups = discover(architecture.module, X[:2])
    start = [torch.arange(group.size).repeat(len(matched) // 2, 1) for group in groups]
    some = {name: tensor[0] for name, tensor in first.items()}
    objective = MidpointObjective(loss, first)
    orders = match_sinkhorn(
        groups, second, some, objective, start=start, n_steps=100, learning_rate=0.05
    )
    weights = matched.weights.clone()
    weights[1::2] = architecture.flatten(permute_all(groups, second, orders))
    return matched.replace(weights)


METHODS: dict[str, Method] = {
    "none": lambda population: population,
    "weight matching": partial(align, method="weight_matching"),
    "activation matching": partial(align, method="activation_matching"),
    "Sinkhorn": partial(align, method="sinkhorn"),
    "pairwise weight matching": align_pairwise,
}
"""Ways to align a population whose pairs are networks (0, 1), (2, 3), ...."""


def midpoint_barriers(curves: Tensor) -> Tensor:
    """Barriers ``(n_pairs,)`` of curves ``(n_pairs, n_points)``."""
    return curves[:, curves.shape[1] // 2] - curves[:, [0, -1]].mean(1)


def mean_and_error(values: Tensor) -> str:
    """Mean, and its standard error."""
    return f"{values.mean():8.4f} +- {values.std() / len(values) ** 0.5:.4f}"


def measure(name: str, method: Method, population: WeightPopulation, data: Data) -> list[Tensor]:
    """Print a row of the table; return the curves on the training and on the test data."""
    start = time.perf_counter()
    aligned = method(population)
    seconds = time.perf_counter() - start
    loss = partial(interpolation_losses, aligned, n_points=N_POINTS)
    curves = [loss(data.X_train, data.y_train), loss(data.X_test, data.y_test)]
    train, test = (mean_and_error(midpoint_barriers(curve)) for curve in curves)
    first, second = aligned.weights[0:-1:2], aligned.weights[1::2]
    distance = (first - second).norm(dim=1).mean()
    print(f"{name:26s}{train:>20s}{test:>20s}{distance:11.2f}{seconds:9.2f} s", flush=True)
    return curves


def draw_figure(curves: dict[str, list[Tensor]], path: str) -> None:
    """Mean loss along the lines, training and test."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for part, (axes, title) in enumerate(zip(panels, ("training", "test"), strict=True)):
        for name, of_method in curves.items():
            axes.plot(torch.linspace(0, 1, N_POINTS), of_method[part].mean(0), label=name)
        axes.set(xlabel="s, from one network to the other", title=f"{title} data")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean loss (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, align in every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-networks", type=int, default=250)
    parser.add_argument("--plot", metavar="FILE", help="where the figure goes")
    options = parser.parse_args()
    data = load_data(PROBLEMS[DATASET])
    population = train_networks(DATASET, data, options.n_networks)
    generator = torch.Generator().manual_seed(0)
    population = population[torch.randperm(len(population), generator=generator)]
    sizes = "-".join(map(str, population.architecture.sizes))
    print(f"\n{len(population) // 2} pairs of networks {sizes}; midpoint barrier in nats\n")
    print(f"{'alignment':26s}{'training':>20s}{'test':>20s}{'distance':>11s}{'time':>11s}")
    methods = METHODS | {"pairwise Sinkhorn, loss": partial(align_by_midpoint_loss, data=data)}
    curves = {name: measure(name, method, population, data) for name, method in methods.items()}
    if options.plot:
        draw_figure(curves, options.plot)
        print(f"\nfigure: {options.plot}")


if __name__ == "__main__":
    main()
