"""``python -m bayesflow_nn``: a flow over the weights of small networks, against its ensemble.

Trains a population on a data set of scikit-learn (stratified 80/20 split with seed 0, inputs
standardised on the training part), fits a :class:`FlowPosterior` to nine tenths of its chains, and
compares generated networks with the chains that the flow never saw, with the ensemble of all that
it saw, and with generators that have learned nothing beyond second moments.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, train_population
from bayesflow_nn.calibration import negative_log_likelihood
from bayesflow_nn.comparison import HEADER, LEGEND, N_GENERATED, Comparison, Data, Row
from bayesflow_nn.plots.style import BASELINE, FLOW, TRAINED
from bayesflow_nn.predictive import network_scores, predict_proba
from bayesflow_nn.symmetry.chart import GEOMETRIES


class Problem(NamedTuple):
    """A data set of scikit-learn, the hidden layers for it, and how many networks to train."""

    load: Callable
    hidden: tuple[int, ...]
    n_networks: int


PROBLEMS = {
    "breast_cancer": Problem(datasets.load_breast_cancer, (16, 16), 6000),
    "iris": Problem(datasets.load_iris, (16,), 12000),
    "wine": Problem(datasets.load_wine, (16,), 6000),
    "digits": Problem(datasets.load_digits, (32,), 7000),
}
QUICK_NETWORKS = 400
QUICK = {"max_iter": 60, "batch_size": 64, "n_steps": 8}
TEMPERATURES = (1.0, 0.9, 0.7, 0.6)
DENSITY_STEPS = 8  # of rk4
FRONTIER = (0.0, 0.5, 0.7, 0.9, 1.0)


def load_data(problem: Problem) -> Data:
    """Stratified 80/20 split with seed 0, standardised on the training part."""
    X, y = problem.load(return_X_y=True)
    parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    scaler = StandardScaler().fit(parts[0])
    inputs = [torch.as_tensor(scaler.transform(part), dtype=torch.float32) for part in parts[:2]]
    labels = [torch.as_tensor(part) for part in parts[2:]]
    return Data(inputs[0], labels[0], inputs[1], labels[1])


def train_networks(dataset: str, data: Data, n_networks: int | None = None) -> WeightPopulation:
    """Networks for one of the `PROBLEMS`, by default as many as it asks for."""
    problem = PROBLEMS[dataset]
    return train_population(
        Architecture.mlp([data.X_train.shape[1], *problem.hidden, int(data.y_train.max()) + 1]),
        data.X_train,
        data.y_train,
        n_networks=n_networks or problem.n_networks,
        random_state=0,
        verbose=True,
    )


def draw_figure(
    comparison: Comparison, rows: list[Row], frontier: list[Row], title: str, path: Path
) -> None:
    """Quality against dispersion, quality of single networks, and of averages of more and more."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(title)
    left, middle, right = figure.subplots(1, 3)
    _draw_frontier(left, rows, frontier)
    trained = comparison.held_out.weights[:N_GENERATED]
    generated = comparison.generated[1.0]
    _draw_single_networks(middle, comparison, trained, generated)
    _draw_averages(right, comparison, trained, generated)
    for axes in (left, middle, right):
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _draw_frontier(axes: Axes, rows: list[Row], frontier: list[Row]) -> None:
    frontier = sorted(frontier, key=lambda row: row.dispersion)
    flow = [row for row in rows if row.name.startswith("generated network")]
    lines = (frontier, BASELINE, "s", "tempered Gaussian"), (flow, FLOW, "o", "flow")
    for points, colour, marker, label in lines:
        x, y = zip(*((row.dispersion, row.nll) for row in points), strict=True)
        axes.plot(x, y, color=colour, marker=marker, markersize=5, label=label)
    for row, temperature in zip(flow, TEMPERATURES, strict=True):
        axes.annotate(
            f"T = {temperature:g}",
            (row.dispersion, row.nll),
            xytext=(-8, -3),
            textcoords="offset points",
            ha="right",
            color=FLOW,
            fontsize=9,
        )
    star = {"color": TRAINED, "marker": "*", "markersize": 13, "linestyle": ""}
    axes.plot(1, rows[0].nll, **star, label="held-out trained")
    axes.margins(x=0.12)
    axes.set(
        xlabel="dispersion (1: as spread out as trained networks)",
        ylabel="mean test NLL (nats), lower is better",
        title="Quality against dispersion",
    )


def _draw_single_networks(
    axes: Axes, comparison: Comparison, trained: Tensor, generated: Tensor
) -> None:
    architecture, data = comparison.train.architecture, comparison.data
    nll = [
        network_scores(architecture, weights, data.X_test, data.y_test).nll.numpy()
        for weights in (trained, generated)
    ]
    bins = np.linspace(*np.quantile(np.concatenate(nll), [0, 0.98]), 21)
    names, colours = ("held-out trained", "generated"), (TRAINED, FLOW)
    for values, name, colour in zip(nll, names, colours, strict=True):
        share = np.full(len(values), 100 / len(values))
        # The few networks beyond the last edge are counted in the last bin.
        clipped = np.clip(values, None, bins[-1])
        axes.hist(clipped, bins, weights=share, histtype="stepfilled", alpha=0.25, color=colour)
        axes.hist(clipped, bins, weights=share, histtype="step", color=colour, label=name)
    axes.set(
        xlabel="test NLL of one network (nats)", ylabel="% of networks", title="Single networks"
    )


def _draw_averages(axes: Axes, comparison: Comparison, trained: Tensor, generated: Tensor) -> None:
    architecture, data = comparison.train.architecture, comparison.data

    def loss(weights: Tensor) -> float:
        return negative_log_likelihood(
            predict_proba(architecture, weights, data.X_test), data.y_test
        )

    sets = (trained, TRAINED, "held-out trained"), (generated, FLOW, "generated")
    for networks, colour, name in sets:
        sizes = np.unique(np.geomspace(1, len(networks), 12).round().astype(int))
        losses = [loss(networks[:size]) for size in sizes]
        axes.plot(sizes, losses, color=colour, marker="o", markersize=4, label=name)
    ensemble = comparison.train.weights
    axes.axhline(
        loss(ensemble),
        color=TRAINED,
        linestyle="--",
        linewidth=1,
        label=f"all {len(ensemble)} training networks",
    )
    axes.set_xscale("log")
    axes.set_xticks([1, 10, 100], ["1", "10", "100"])
    axes.set(
        xlabel="networks in the average", ylabel="test NLL of the average (nats)", title="Averages"
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bayesflow_nn",
        description="Train many small networks, learn a flow over their weights, and compare the "
        "networks that it generates with trained ones, in a table and a figure.",
        epilog="The table. " + LEGEND,
    )
    parser.add_argument(
        "--dataset",
        choices=list(PROBLEMS),
        default="breast_cancer",
        help="data of scikit-learn that the networks classify (default: %(default)s); digits takes "
        "about five minutes, the others about two",
    )
    parser.add_argument(
        "--geometry",
        choices=GEOMETRIES,
        default="product_sphere",
        help="where the flow runs: on the spheres of canonical weights, in a flat space around "
        "them, or on aligned weights as they are (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_NETWORKS} networks and {QUICK['max_iter']} iterations: shows that it runs, "
        "not what it can do",
    )
    parser.add_argument(
        "--output",
        type=_figure_path,
        default="bayesflow_nn.png",
        metavar="FILE",
        help="where the figure goes; the ending decides the format (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _figure_path(text: str) -> Path:
    """Check the path before the work is done, not after."""
    path, formats = Path(text), FigureCanvasBase.get_supported_filetypes()
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if path.suffix[1:] not in formats:
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in one of {', '.join('.' + name for name in sorted(formats))}"
        )
    return path


def main(arguments: list[str] | None = None) -> None:
    """Train, fit, compare, print the table and write the figure."""
    start = time.perf_counter()
    options = parse_arguments(arguments)
    data = load_data(PROBLEMS[options.dataset])
    population = train_networks(options.dataset, data, QUICK_NETWORKS if options.quick else None)
    train_seconds = time.perf_counter() - start
    train, held_out = population.split(test_size=0.1, random_state=0)
    posterior = FlowPosterior(geometry=options.geometry, random_state=0, verbose=True)
    if options.quick:
        posterior.set_params(**QUICK)
    posterior.fit(train)
    fit_seconds = time.perf_counter() - start - train_seconds
    title = f"{options.dataset}, {'-'.join(map(str, train.architecture.sizes))}, {options.geometry}"
    print(
        f"\n{title}: trained {len(population)} networks in {train_seconds:.1f} s, "
        f"fitted the flow to {len(train)} of them in {fit_seconds:.1f} s\n\n{HEADER}"
    )
    comparison = Comparison(data, train, held_out, posterior)
    rows = _print_rows(comparison.trained_rows(train_seconds))
    for temperature in TEMPERATURES:
        rows += _print_rows(comparison.flow_rows(temperature))
    _print_rows([comparison.noise_row()])
    frontier = _print_rows([comparison.gaussian_row(tau) for tau in FRONTIER])
    _print_importance(posterior, data)
    draw_figure(comparison, rows, frontier, title, options.output)
    seconds = time.perf_counter() - start
    print(f"\n{LEGEND}\n\n{seconds:.0f} s in all; figure: {options.output}")


def _print_importance(posterior: FlowPosterior, data: Data) -> None:
    """Say how far the flow is from the posterior of its training data under a standard prior."""
    if posterior.geometry == "normalized":
        return  # its points become networks by a projection, and have no density
    rough = copy.copy(posterior).set_params(n_steps=DENSITY_STEPS, trace="hutchinson")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-hat is", UserWarning)  # the verdict is printed
        importance = rough.importance_weights(
            data.X_train, data.y_train, n_samples=N_GENERATED, random_state=1
        )
    print(
        f"\nImportance weights of {N_GENERATED} generated networks for the posterior of the data "
        f"under the\nstandard prior. Trained networks are no sample of it, and k-hat says so:\n\n"
        f"{importance}"
    )


def _print_rows(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    main()
