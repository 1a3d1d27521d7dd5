"""Networks on demand: ask a conditional flow for networks of a given loss.

The flow learns from snapshots along the training of many networks, each with its loss on the
training data as condition. New networks are then drawn for losses between the 5 % and 95 %
quantiles, and what they were asked for is compared with what they have.

    python examples/benchmarks/loss_prompts.py [--dataset digits] [--n-networks 1500]
        [--geometry product_sphere] [--max-iter 900] [--output loss_prompts.png]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import spearmanr

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, train_population
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data
from bayesflow_nn.predictive import network_scores
from bayesflow_nn.symmetry.chart import GEOMETRIES

N_SNAPSHOTS, N_PROMPTS, N_EACH = 6, 9, 30


def losses(architecture: Architecture, weights: torch.Tensor | np.ndarray, data: Data):
    """Training loss of every network, in nats."""
    weights = torch.as_tensor(weights)
    return network_scores(architecture, weights, data.X_train, data.y_train).nll.numpy()


def snapshots(architecture: Architecture, data: Data, n_networks: int) -> WeightPopulation:
    """Networks at several moments of their training."""
    n_epochs = 50
    stride = -(-len(data.X_train) // 32) * n_epochs // N_SNAPSHOTS
    return train_population(
        architecture,
        data.X_train,
        data.y_train,
        n_networks=n_networks,
        n_epochs=n_epochs,
        stride=stride,
        random_state=0,
        verbose=True,
    )


def draw_figure(asked: np.ndarray, obtained: np.ndarray, path: str) -> None:
    """Obtained against asked, with the identity."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(asked, obtained, ".", alpha=0.4, label="generated network")
    limits = [asked.min(), asked.max()]
    axes.plot(limits, limits, "k-", lw=1, label="as asked")
    axes.set(xscale="log", yscale="log", xlabel="loss asked for (nats)", ylabel="training loss")
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.4], ["0.02", "0.05", "0.1", "0.2", "0.4"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train snapshots, fit, prompt, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", choices=tuple(PROBLEMS))
    parser.add_argument("--geometry", default="product_sphere", choices=GEOMETRIES)
    parser.add_argument("--n-networks", type=int, default=1500)
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--output", default="loss_prompts.png")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    problem = PROBLEMS[options.dataset]
    data = load_data(problem)
    sizes = [data.X_train.shape[1], *problem.hidden, int(data.y_train.max()) + 1]
    architecture = Architecture.mlp(sizes)
    population = snapshots(architecture, data, options.n_networks)
    condition = losses(architecture, population.weights, data)
    posterior = FlowPosterior(
        geometry=options.geometry, max_iter=options.max_iter, random_state=0, verbose=True
    )
    posterior.fit(population, condition).set_params(verbose=False)
    prompts = np.quantile(condition, np.linspace(0.05, 0.95, N_PROMPTS))
    asked = np.repeat(prompts, N_EACH)
    weights = posterior.sample(len(asked), condition=asked, random_state=1, n_steps=16)
    obtained = losses(architecture, weights, data)
    print(f"\n{options.dataset}, {options.geometry}, {len(population)} snapshots")
    print(f"{'asked':>10s} {'mean':>10s} {'10 %':>10s} {'90 %':>10s}")
    for prompt, row in zip(prompts, obtained.reshape(N_PROMPTS, N_EACH), strict=True):
        low, high = np.quantile(row, [0.1, 0.9])
        print(f"{prompt:10.4f} {row.mean():10.4f} {low:10.4f} {high:10.4f}")
    print(f"rank correlation of asked and obtained: {spearmanr(asked, obtained).statistic:.4f}")
    draw_figure(asked, obtained, options.output)


if __name__ == "__main__":
    main()
