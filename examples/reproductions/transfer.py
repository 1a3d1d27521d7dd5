"""A flow over MNIST networks, used for Fashion-MNIST ([E25] 7.3.3, Table 7.3 and Figure 7.6).

The flow learns from 784-10-10 networks trained on MNIST. On the test images of Fashion-MNIST the
script measures its samples as they are, the same samples guided by minibatch gradients of the
Fashion-MNIST loss, and training that starts from samples against training that starts at random.
The novelty of guided samples is not asked: no network of the new task exists.

    python examples/reproductions/transfer.py --data FOLDER [--geometry product_sphere]
        [--n-networks 600] [--n-steps 600] [--output transfer.png]

FOLDER holds ``mnist.npz`` and ``fashion_mnist.npz``, each with arrays X_train, y_train, X_test and
y_test.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch
from images import Images, load_images
from matplotlib.figure import Figure
from torch import Tensor

from bayesflow_nn import Architecture, FlowPosterior, TaskGuidance, train_population
from bayesflow_nn.predictive import ClassificationScores, network_scores
from bayesflow_nn.symmetry.chart import GEOMETRIES

MLP = Architecture.mlp([784, 10, 10])
RECIPE = {"batch_size": 128, "learning_rate": 1e-3}
N_SAMPLES, N_EPOCHS = 50, 5


def train(data: Images, n_networks: int | None, n_epochs: int, **options):
    """A population on one data set, with the shared recipe."""
    X, y = data.X_train, data.y_train
    return train_population(
        MLP, X, y, n_networks=n_networks, n_epochs=n_epochs, **RECIPE, **options
    )


def scores(weights: Tensor, data: Images) -> ClassificationScores:
    """Accuracy and loss of every network on the test images."""
    return network_scores(MLP, torch.as_tensor(weights), data.X_test, data.y_test)


def print_row(name: str, score: ClassificationScores, seconds: float | None = None) -> None:
    """One line of the table: mean and standard deviation over networks."""
    taken = "" if seconds is None else f"{seconds:9.1f} s"
    print(
        f"{name:44s} {score.accuracy.mean():8.4f} +- {score.accuracy.std():.4f} "
        f"{score.nll.mean():9.4f}{taken}",
        flush=True,
    )


def learning_curve(init: str | Tensor, data: Images) -> list[float]:
    """Mean test accuracy of networks after 0, 1, ... epochs."""
    stride = -(-len(data.X_train) // RECIPE["batch_size"])
    population = train(
        data,
        N_SAMPLES if isinstance(init, str) else None,
        N_EPOCHS,
        init=init,
        stride=stride,
        validation_data=(data.X_test, data.y_test),
        random_state=1,
    )
    draw, accuracy = population.draw, population.metrics["accuracy"]
    return [accuracy[draw == d].mean().item() for d in draw.unique()]


def draw_figure(curves: dict[str, list[float]], path: str) -> None:
    """Accuracy against epochs, from every start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, accuracy in curves.items():
        axes.plot(range(1, len(accuracy) + 1), accuracy, marker="o", label=name)
    axes.set(xlabel="epochs on Fashion-MNIST", ylabel="test accuracy")
    axes.set_xticks(range(1, N_EPOCHS + 1))
    axes.legend(title="initial weights", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train on MNIST, fit, and measure on Fashion-MNIST."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the npz files")
    parser.add_argument("--geometry", default="product_sphere", choices=GEOMETRIES)
    parser.add_argument("--n-networks", type=int, default=600)
    parser.add_argument("--n-steps", type=int, default=600, help="guided steps after t = 1")
    parser.add_argument("--output", default="transfer.png")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    mnist, fashion = (load_images(options.data, name) for name in ("mnist", "fashion_mnist"))
    start = time.perf_counter()
    population = train(mnist, options.n_networks, N_EPOCHS, random_state=0, verbose=True)
    trained = time.perf_counter() - start
    start = time.perf_counter()
    posterior = FlowPosterior(geometry=options.geometry, random_state=0, verbose=True)
    posterior.fit(population).set_params(verbose=False)
    fitted = time.perf_counter() - start
    print(f"{'':44s} {'accuracy':>18s} {'NLL':>9s}")
    print_row("MNIST: trained", scores(population.weights[:N_SAMPLES], mnist), trained)
    plain = torch.as_tensor(posterior.sample(N_SAMPLES, random_state=1, n_steps=8))
    print_row(f"MNIST: from the flow, fitted in {fitted:.0f} s", scores(plain, mnist))
    print_row("Fashion-MNIST: from the flow, unguided", scores(plain, fashion))
    start = time.perf_counter()
    guidance = TaskGuidance(
        fashion.X_train, fashion.y_train, batch_size=256, finish_steps=options.n_steps
    )
    guided = posterior.sample(N_SAMPLES, random_state=1, n_steps=8, guidance=guidance)
    seconds = time.perf_counter() - start
    print_row(
        f"Fashion-MNIST: guided, {options.n_steps} batches of 256", scores(guided, fashion), seconds
    )
    curves = {
        "samples of the MNIST flow": learning_curve(plain, fashion),
        "guided samples": learning_curve(torch.as_tensor(guided), fashion),
        "random, N(0, 0.1)": learning_curve("normal", fashion),
        "random, Kaiming": learning_curve("kaiming", fashion),
    }
    print("\nMean test accuracy on Fashion-MNIST after epochs 1, 2, ... of training:")
    for name, accuracy in curves.items():
        print(f"  {name:30s}", " ".join(f"{value:.4f}" for value in accuracy))
    draw_figure(curves, options.output)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
