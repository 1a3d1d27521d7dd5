"""One flow over the networks of two tasks ([DWF] K.1): MNIST and Fashion-MNIST.

Networks of one architecture are trained on each task and aligned to one reference per task; one
flow learns from both, with the task as condition, and draws networks for either. The table compares
their accuracy on the test images of the task with that of networks trained on it that the flow
never saw: from the flow as it is, less dispersed, with the condition exaggerated, and with a few
minibatch gradients of the task's loss. Novelty and dispersion are relative to the networks of the
same task.

    python examples/reproductions/conditional.py --data FOLDER [--n-components 16] [--hidden 16]
        [--n-networks 5000] [--n-epochs 3] [--geometry product_sphere] [--max-iter 5000]
        [--n-steps 8 24]

Networks see the first principal components of the images, whitened: they have so few weights that
thousands are cheap to train, more than weights, and a flow learns their law completely. With
``--n-components 0`` they see pixels.

Every task has a reference of its own: neurons correspond within a task, not between the two.

FOLDER holds ``mnist.npz`` and ``fashion_mnist.npz``, each with arrays X_train, y_train, X_test and
y_test.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from images import Images, load_images, to_components
from sklearn.preprocessing import FunctionTransformer
from torch import Tensor

from bayesflow_nn import (
    Architecture,
    FlowPosterior,
    TaskGuidance,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.diversity import novelty_report
from bayesflow_nn.predictive import network_scores
from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.symmetry.chart import GEOMETRIES

TASKS = ("mnist", "fashion_mnist")
N_GENERATED, N_STEPS = 500, 16
TEMPERATURES = (1.0, 0.9, 0.8, 0.6)
STRENGTHS = (1.2, 1.5)  # of the condition


class Networks(NamedTuple):
    """Networks of one task with their neurons in one order: for the flow, and a tenth held out."""

    aligner: PermutationAligner
    seen: WeightPopulation
    unseen: WeightPopulation


def train(
    architecture: Architecture, data: Images, n_networks: int, n_epochs: int, seed: int
) -> Networks:
    """Train on one task, and align to the barycentre of what the flow will see of it."""
    population = train_population(
        architecture,
        data.X_train,
        data.y_train,
        n_networks=n_networks,
        n_epochs=n_epochs,
        batch_size=128,
        learning_rate=1e-3,
        random_state=seed,
        verbose=True,
    )
    seen, unseen = population.split(test_size=0.1, random_state=0)
    aligner = PermutationAligner(random_state=0).fit(seen)
    return Networks(aligner, aligner.transform(seen), aligner.transform(unseen))


def join(populations: list[WeightPopulation]) -> WeightPopulation:
    """The networks of several tasks, with some inputs of each."""
    return WeightPopulation(
        torch.cat([p.weights for p in populations]),
        architecture=populations[0].architecture,
        task=populations[0].task,
        inputs=torch.cat([p.inputs[::10] for p in populations]),
    )


class Table:
    """Prints scores of networks of one task."""

    def __init__(self, posterior: FlowPosterior, networks: Networks, data: Images):
        self.posterior, self.aligner, self.data = posterior, networks.aligner, data
        self.seen, self.unseen = (
            self._points(part.weights) for part in (networks.seen, networks.unseen)
        )

    def _points(self, weights: Tensor) -> Tensor:
        aligned = self.aligner.transform(weights)
        return self.posterior.to_points(aligned) * self.posterior.unit_scale_

    def print_row(self, name: str, weights: np.ndarray | Tensor, seconds: float) -> None:
        """Accuracy and loss on the test images, novelty, dispersion and seconds."""
        weights = torch.as_tensor(weights)
        score = network_scores(
            self.posterior.architecture_, weights, self.data.X_test, self.data.y_test
        )
        report = novelty_report(self._points(weights), self.seen, self.unseen)
        print(
            f"  {name:32s}{score.accuracy.mean():10.4f}{score.nll.mean():10.4f}"
            f"{report.novelty:10.2f}{report.dispersion:12.2f}{seconds:10.1f}",
            flush=True,
        )


def print_task(task: str, table: Table, unseen: Tensor, guided_steps: list[int]) -> None:
    """All rows of one task."""
    print(task)
    table.print_row("trained, held out", unseen, np.nan)
    data = table.data
    rows = {f"from the flow, T = {t:g}": {"temperature": t} for t in TEMPERATURES}
    rows |= {f"from the flow, condition x {w:g}": {"condition_strength": w} for w in STRENGTHS}
    for n_steps in guided_steps:
        guidance = TaskGuidance(
            data.X_train, data.y_train, batch_size=256, finish_steps=n_steps, finish_step_size=0.03
        )
        rows[f"from the flow, {n_steps} gradients"] = {"guidance": guidance}
    for name, options in rows.items():
        start = time.perf_counter()
        weights = table.posterior.sample(
            N_GENERATED, condition=task, n_steps=N_STEPS, random_state=1, **options
        )
        table.print_row(name, weights, time.perf_counter() - start)


def main() -> None:
    """Train on both tasks, fit one flow, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the npz files")
    parser.add_argument("--n-components", type=int, default=16, help="of an image; 0 for pixels")
    parser.add_argument("--hidden", type=int, nargs="+", default=[16])
    parser.add_argument("--n-networks", type=int, default=5000, help="for each task")
    parser.add_argument("--n-epochs", type=int, default=3)
    parser.add_argument("--geometry", default="product_sphere", choices=GEOMETRIES)
    parser.add_argument("--max-iter", type=int, default=5000)
    parser.add_argument(
        "--n-steps", type=int, nargs="+", default=[8, 24], help="guided steps after t = 1"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
    images = {task: load_images(options.data, task) for task in TASKS}
    if options.n_components:
        images = {task: to_components(data, options.n_components) for task, data in images.items()}
    n_inputs = images[TASKS[0]].X_train.shape[1]
    architecture = Architecture.mlp([n_inputs, *options.hidden, 10])
    networks = [
        train(architecture, data, options.n_networks, options.n_epochs, seed)
        for seed, data in enumerate(images.values())
    ]
    seen = join([task.seen for task in networks])
    posterior = FlowPosterior(
        geometry=options.geometry,
        alignment=FunctionTransformer(),  # the identity: every task has a reference of its own
        max_iter=options.max_iter,
        random_state=0,
        verbose=True,
    )
    start = time.perf_counter()
    posterior.fit(seen, np.repeat(TASKS, [len(task.seen) for task in networks]))
    posterior.set_params(verbose=False)
    print(f"fitted to {len(seen)} networks in {time.perf_counter() - start:.0f} s\n")
    columns = ("accuracy", "NLL", "novelty", "dispersion", "seconds")
    print(f"{'':34s}{columns[0]:>10s}{columns[1]:>10s}{columns[2]:>10s}", end="")
    print(f"{columns[3]:>12s}{columns[4]:>10s}")
    for own, (task, data) in zip(networks, images.items(), strict=True):
        table = Table(posterior, own, data)
        print_task(task, table, own.unseen.weights, options.n_steps)


if __name__ == "__main__":
    main()
