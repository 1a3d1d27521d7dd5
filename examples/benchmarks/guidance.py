"""Quality of networks against gradients of the training loss that each of them cost.

Every network starts somewhere, then takes full-batch Adam steps on the training data after t = 1
(`TaskGuidance(X, y, finish_steps=k)`). The starts: the flow; a Gaussian fitted to the training
networks; the mean network with a tenth of that Gaussian; random initialisation. Beside them the
networks that the flow learned from, and an early-stopped deep ensemble: the number of epochs is the
best one on a fifth of the training data, then all networks are trained on all of it. Its cost is
given in full-batch gradients, one per epoch.

Data, split and population are those of ``python -m bayesflow_nn``; so are novelty and dispersion.

    python examples/benchmarks/guidance.py [--dataset digits] [--geometry product_sphere]
        [--n-networks N] [--max-iter N] [--step-size 0.02] [--label-smoothing 0]
        [--temperature 1] [--output guidance.png]

Where trained networks are overconfident already, as on breast cancer, smoothed labels and short
steps keep the steps from making them more so: ``--label-smoothing 0.02 --step-size 0.01``.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings

import torch
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayesflow_nn import FlowPosterior, TaskGuidance, WeightPopulation, train_population
from bayesflow_nn.demonstration.comparison import HEADER, Comparison, Row
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.diversity import gaussian_baseline
from bayesflow_nn.flow import Setting
from bayesflow_nn.flow.finish import finish
from bayesflow_nn.symmetry.chart import GEOMETRIES
from bayesflow_nn.weights import Architecture

N_NETWORKS, N_SOLVER_STEPS = 200, 4
STEPS = (0, 4, 8, 16, 24, 32)
MOST_STEPS = 24  # of the sample that is timed


def starting_points(posterior: FlowPosterior, temperature: float) -> dict[str, Tensor]:
    """Points of networks from which the steps start."""
    generator = torch.Generator().manual_seed(1)
    flow = posterior.sample(
        N_NETWORKS, random_state=1, n_steps=N_SOLVER_STEPS, temperature=temperature
    )
    gaussian, mean = (
        gaussian_baseline(posterior.training_points_, N_NETWORKS, tau=tau, generator=generator)
        for tau in (1.0, 0.1)
    )
    random = torch.randn(N_NETWORKS, posterior.n_features_in_, generator=generator) * 0.1**0.5
    starts = {
        "flow": posterior.to_points(flow),
        "Gaussian": gaussian,
        "mean + noise": mean,
        "random": posterior.to_points(random),
    }
    return {name: posterior.chart_.project(x.float()) for name, x in starts.items()}


def make_guidance(
    data: Data, options: argparse.Namespace, n_steps: int = MOST_STEPS
) -> TaskGuidance:
    """Steps of Adam on the training loss."""
    return TaskGuidance(
        data.X_train,
        data.y_train,
        loss=functools.partial(cross_entropy, label_smoothing=options.label_smoothing),
        finish_steps=n_steps,
        finish_step_size=options.step_size,
    )


def finished(posterior: FlowPosterior, x: Tensor, guidance: TaskGuidance) -> Tensor:
    """Weights after the steps of a guidance from points."""
    generator = torch.Generator().manual_seed(0)
    chart = posterior.chart_
    setting = Setting(
        chart.to_weights,
        chart.project,
        chart.move,
        posterior.gaussian_,
        posterior.unit_scale_,
        generator,
    )
    objective = guidance.bind(posterior.architecture_, generator)
    return chart.to_weights(finish(x, guidance, objective, setting))


def early_stopped(architecture: Architecture, data: Data) -> tuple[WeightPopulation, int]:
    """A deep ensemble, and its number of epochs, chosen on validation data."""
    X, X_held_out, y, y_held_out = train_test_split(
        data.X_train, data.y_train, test_size=0.2, stratify=data.y_train, random_state=0
    )
    snapshots = train_population(
        architecture,
        X,
        y,
        n_networks=20,
        stride=-(-len(X) // 32),
        validation_data=(X_held_out, y_held_out),
        random_state=0,
    )
    nll, draw = snapshots.metrics["nll"], snapshots.draw
    means = torch.stack([nll[draw == d].mean() for d in draw.unique()])
    n_epochs = int(means.argmin()) + 1
    ensemble = train_population(
        architecture,
        data.X_train,
        data.y_train,
        n_networks=N_NETWORKS,
        n_epochs=n_epochs,
        random_state=1,
    )
    return ensemble, n_epochs


def draw_figure(curves: dict[str, list[tuple[int, Row, Row]]], trained: list[Row], path: str):
    """Loss of single networks and of their average against gradients."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, which, title in zip(
        figure.subplots(1, 2), (1, 2), ("Single networks", "Average of 200"), strict=True
    ):
        for name, points in curves.items():
            axes.plot([p[0] for p in points], [p[which].nll for p in points], "o-", label=name)
        axes.axhline(
            trained[which - 1].nll, color="#444444", linestyle="--", label=trained[which - 1].name
        )
        axes.set_yscale("log")
        axes.set(xlabel="gradients per network", ylabel="test NLL (nats)", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="digits")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="product_sphere")
    parser.add_argument("--n-networks", type=int, help="networks that the flow learns from")
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--step-size", type=float, default=0.02)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--temperature", type=float, default=1.0, help="of the flow's samples")
    parser.add_argument("--output", default="guidance.png")
    return parser.parse_args()


def main() -> None:
    """Train, fit, finish from all starts, print the table and draw the figure."""
    warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
    options = parse_arguments()
    data = load_data(PROBLEMS[options.dataset])
    population = train_networks(options.dataset, data, options.n_networks)
    train, held_out = population.split(test_size=0.1, random_state=0)
    posterior = FlowPosterior(
        geometry=options.geometry, max_iter=options.max_iter, random_state=0, verbose=True
    ).fit(train)
    posterior.set_params(verbose=False)
    comparison = Comparison(data, train, held_out, posterior)
    print(f"\n{options.dataset}, {options.geometry}\n\n{HEADER}")
    trained = comparison.trained_rows(0)
    ensemble, n_epochs = early_stopped(train.architecture, data)
    trained.append(comparison.network_row(f"early-stopped, {n_epochs} epochs", ensemble.weights))
    trained.append(comparison.average_row("  average of 200", ensemble.weights))
    print("\n".join(map(str, trained)))
    curves: dict[str, list[tuple[int, Row, Row]]] = {}
    for name, x in starting_points(posterior, options.temperature).items():
        for n_steps in STEPS:
            start = time.perf_counter()
            weights = finished(posterior, x, make_guidance(data, options, n_steps))
            seconds = time.perf_counter() - start
            alone = comparison.network_row(f"{name}, {n_steps} gradients", weights, seconds)
            average = comparison.average_row("  average of 200", weights)
            print(f"{alone}\n{average}", flush=True)
            curves.setdefault(name, []).append((n_steps, alone, average))
    draw_figure(curves, trained, options.output)
    start = time.perf_counter()
    guidance = make_guidance(data, options)
    posterior.sample(
        N_NETWORKS,
        random_state=2,
        n_steps=N_SOLVER_STEPS,
        temperature=options.temperature,
        guidance=guidance,
    )
    seconds = time.perf_counter() - start
    print(
        f"\n{N_NETWORKS} networks by sample(guidance=TaskGuidance(X, y)), {N_SOLVER_STEPS} solver "
        f"steps: {seconds:.1f} s; figure: {options.output}"
    )


if __name__ == "__main__":
    main()
