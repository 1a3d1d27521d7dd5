"""Quality of networks against evaluations of the velocity, with and without guidance.

The thesis asks how few steps a flow needs ([E25] Figures 7.3 and 7.4). Here the same source points
go through Euler, exponential Euler and midpoint steps of the flow, through steps between which
their noise is drawn anew (the default of samples), and through distilled maps, on every geometry;
each then takes no gradient of the training loss or 24 of them after t = 1 (`TaskGuidance(X, y)`).
Data, split, population, novelty and dispersion are those of ``python -m bayesflow_nn``.

    python examples/benchmarks/few_steps.py [--dataset digits] [--n-networks N] [--max-iter N]
        [--geometry product_sphere normalized euclidean] [--output few_steps.png]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from bayesflow_nn import FlowPosterior, TaskGuidance, WeightPopulation
from bayesflow_nn.demonstration.comparison import HEADER, Comparison, Row
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.flow import Refresh
from bayesflow_nn.symmetry.chart import GEOMETRIES

N_GENERATED = 200
NOISE = Refresh()
# Name, solver, noise, evaluations per step of the solver, numbers of steps.
SOLVERS = [
    ("euler", "euler", None, 1, (1, 2, 4, 8, 16, 32, 64, 256)),
    ("exponential", "exponential_euler", None, 1, (1, 2, 4, 8, 16, 32, 256)),
    ("midpoint", "midpoint", None, 2, (1, 2, 4, 8, 16, 32)),
    ("euler + noise", "euler", NOISE, 1, (4, 8, 16, 32, 64, 256)),
    ("exponential + noise", "exponential_euler", NOISE, 1, (4, 8, 16, 32, 256)),
    ("midpoint + noise", "midpoint", NOISE, 2, (4, 8, 16, 32)),
]
DISTILLED = (1, 2, 4)
COLOURS = {
    "euler": "#0072b2",
    "exponential": "#cc79a7",
    "midpoint": "#d55e00",
    "euler + noise": "#56b4e9",
    "exponential + noise": "#7a3b69",
    "midpoint + noise": "#e69f00",
    "distilled": "#009e73",
}


class Way(NamedTuple):
    """A way from noise to networks: what makes them, in how many steps and evaluations."""

    name: str
    n_steps: int
    n_evaluations: int
    posterior: FlowPosterior
    options: dict[str, str | int | Refresh]


class Result(NamedTuple):
    """A way, whether its networks were guided, and their scores."""

    way: Way
    guided: bool
    row: Row


def ways(posterior: FlowPosterior) -> Iterator[Way]:
    """All ways, from the same flow."""
    for name, solver, noise, cost, counts in SOLVERS:
        for n in counts:
            options = {"solver": solver, "n_steps": n, "noise": noise or 0}
            n_fresh = sum(noise.start <= step / n for step in range(n)) if noise else 0
            yield Way(name, n, cost * n + n_fresh, posterior, options)
    for n in DISTILLED:
        start = time.perf_counter()
        fast = posterior.distill(n, random_state=0)
        errors = ", ".join(f"{error:.3f}" for error in fast.flow_map_.error.tolist())
        print(
            f"distilled to {n} steps in {time.perf_counter() - start:.0f} s; its own report: "
            f"error {errors}, divergence {fast.flow_map_.divergence:.4f} nats"
        )
        yield Way("distilled", n, n, fast, {})


def measure(posterior: FlowPosterior, data: Data, comparison: Comparison) -> list[Result]:
    """Print and return the scores of all ways, unguided and guided."""
    results = []
    guidance = TaskGuidance(data.X_train, data.y_train)
    for way in ways(posterior):
        for guided in (False, True):
            options = way.options | ({"guidance": guidance} if guided else {})
            start = time.perf_counter()
            weights = way.posterior.sample(N_GENERATED, random_state=1, **options)
            seconds = time.perf_counter() - start
            name = f"{way.name}, {way.n_steps} steps{', guided' if guided else ''}"
            row = comparison.network_row(name, torch.as_tensor(weights), seconds)
            print(row, flush=True)
            results.append(Result(way, guided, row))
    return results


def summary(results: list[Result]) -> str:
    """The ratios that say what few steps cost, unguided and guided."""
    lines = []
    for guided in (False, True):
        nll = {(r.way.name, r.way.n_steps): r.row.nll for r in results if r.guided == guided}
        ratios = ", ".join(
            f"{name} {nll[name, 8] / nll[name, 256]:.3f}"
            for name in ("euler", "exponential", "euler + noise", "exponential + noise")
        )
        lines.append(
            f"{'guided' if guided else 'unguided'}: NLL of 8 steps over that of 256: {ratios}; of "
            f"1 distilled step over 32 midpoint steps: "
            f"{nll['distilled', 1] / nll['midpoint', 32]:.3f}"
        )
    return "\n".join(lines)


def draw_panel(axes: Axes, results: list[Result], trained: Row, title: str) -> None:
    """Loss against evaluations on one geometry; dashed under guidance."""
    for name, colour in COLOURS.items():
        for guided, style in ((False, "o-"), (True, "o--")):
            points = [
                (r.way.n_evaluations, r.row.nll)
                for r in results
                if r.way.name == name and r.guided == guided
            ]
            label = f"{name}{', guided' if guided else ''}"
            axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)
    axes.axhline(trained.nll, color="#444444", linestyle=":", label=trained.name)
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the model", title=title)
    axes.spines[["top", "right"]].set_visible(False)


def fit(population: WeightPopulation, data: Data, geometry: str, max_iter: int):
    """A posterior on a geometry, and the comparison with chains that it never saw."""
    train, held_out = population.split(test_size=0.1, random_state=0)
    posterior = FlowPosterior(geometry=geometry, max_iter=max_iter, random_state=0, verbose=True)
    posterior.fit(train).set_params(verbose=False)
    return posterior, Comparison(data, train, held_out, posterior)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="digits")
    parser.add_argument("--geometry", choices=GEOMETRIES, nargs="+", default=GEOMETRIES)
    parser.add_argument("--n-networks", type=int, help="networks that the flow learns from")
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--output", default="few_steps.png")
    return parser.parse_args()


def main() -> None:
    """Train, fit on every geometry, sample in all ways, print the tables and draw the figure."""
    warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
    options = parse_arguments()
    data = load_data(PROBLEMS[options.dataset])
    population = train_networks(options.dataset, data, options.n_networks)
    n_panels = len(options.geometry)
    figure = Figure(figsize=(4.3 * n_panels + 1.8, 4.2), layout="constrained")
    panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
    for axes, geometry in zip(panels, options.geometry, strict=True):
        posterior, comparison = fit(population, data, geometry, options.max_iter)
        trained = comparison.trained_rows(0)[0]
        print(f"\n{options.dataset}, {geometry}\n\n{HEADER}\n{trained}")
        results = measure(posterior, data, comparison)
        print(summary(results), flush=True)
        draw_panel(axes, results, trained, geometry)
    panels[0].set_ylabel("mean test NLL (nats)")
    panels[0].yaxis.set_major_formatter(ScalarFormatter())
    panels[0].yaxis.set_minor_formatter(ScalarFormatter())
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=8,
    )
    figure.savefig(options.output, dpi=150)
    print(f"\nfigure: {options.output}")


if __name__ == "__main__":
    main()
