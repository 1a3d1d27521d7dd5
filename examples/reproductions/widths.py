"""A flow over networks of one width, sampled at another ([E25] 7.3.4, Table 7.4).

A graph velocity that tells no hidden neurons apart, on top of steps that see the functions of
networks at 256 inputs, learns from 784-10-10 networks trained on MNIST. Its samples are networks
784-10-10, and 784-32-10 networks, none of which it has seen. Accuracy and loss on the test images,
mean and standard deviation over networks; beside them trained networks of both widths. Rounds of
attention (``--n-blocks``) more than double the time of an iteration.

    python examples/reproductions/widths.py --data FOLDER [--geometry product_sphere ...]
        [--velocity relational_transformer] [--n-networks 800] [--max-iter 1500]
        [--n-blocks 0]

FOLDER holds ``mnist.npz``, with arrays X_train, y_train, X_test and y_test.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import torch
from images import Images, load_images

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, train_population
from bayesflow_nn.predictive import network_scores
from bayesflow_nn.symmetry.chart import GEOMETRIES
from bayesflow_nn.velocity import PNAVelocity, ProbeVelocity, RelationalTransformer

NARROW, WIDE = Architecture.mlp([784, 10, 10]), Architecture.mlp([784, 32, 10])
N_SAMPLES, N_TRAINED = 100, 50
VELOCITIES = {"relational_transformer": RelationalTransformer, "pna": PNAVelocity}
BASE = functools.partial(ProbeVelocity, n_probes=256)
SIZE = {"base": BASE, "node_width": 32, "edge_width": 4}


def train(architecture: Architecture, data: Images, n_networks: int) -> WeightPopulation:
    """Networks trained on MNIST."""
    return train_population(
        architecture,
        data.X_train,
        data.y_train,
        n_networks=n_networks,
        n_epochs=3,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=1e-4,
        init="kaiming",
        minibatches="shared",
        random_state=0,
        verbose=True,
    )


def print_row(
    name: str,
    architecture: Architecture,
    weights: np.ndarray | torch.Tensor,
    data: Images,
    seconds: float,
) -> None:
    """Scores of networks, and what they took."""
    scores = network_scores(architecture, torch.as_tensor(weights), data.X_test, data.y_test)
    cells = "".join(f"{v.mean():10.4f} +- {v.std():.4f}" for v in (scores.accuracy, scores.nll))
    print(f"{name:48}{cells}{seconds:10.1f}", flush=True)


def print_samples(name: str, posterior: FlowPosterior, data: Images) -> None:
    """Rows of networks of both widths."""
    for width, architecture in ((10, None), (32, WIDE)):
        start = time.perf_counter()
        weights = posterior.sample(N_SAMPLES, architecture=architecture, random_state=1)
        seconds = time.perf_counter() - start
        print_row(f"{name}, width {width}", architecture or NARROW, weights, data, seconds)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz")
    parser.add_argument("--geometry", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument(
        "--velocity",
        choices=list(VELOCITIES),
        default="relational_transformer",
    )
    parser.add_argument("--n-networks", type=int, default=800)
    parser.add_argument("--max-iter", type=int, default=1500)
    parser.add_argument("--n-blocks", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    data = load_images(options.data, "mnist")
    print(f"{'':48}{'accuracy':>20}{'NLL':>20}{'seconds':>10}")
    for width, architecture in ((10, NARROW), (32, WIDE)):
        start = time.perf_counter()
        n_networks = options.n_networks if architecture is NARROW else N_TRAINED
        population = train(architecture, data, n_networks)
        seconds = time.perf_counter() - start
        name = f"{n_networks} trained networks, width {width}"
        print_row(name, architecture, population.weights, data, seconds)
        if architecture is NARROW:
            narrow = population
    for geometry in options.geometry:
        start = time.perf_counter()
        posterior = FlowPosterior(
            geometry=geometry,
            velocity=functools.partial(
                VELOCITIES[options.velocity], n_blocks=options.n_blocks, **SIZE
            ),
            alignment=None,
            max_iter=options.max_iter,
            batch_size=32,
            learning_rate=1.5e-3,
            time_distribution="late",
            random_state=0,
            verbose=True,
        ).fit(narrow)
        print(f"{geometry}: fitted in {time.perf_counter() - start:.1f} s", flush=True)
        print_samples(f"{geometry}, {options.velocity}", posterior, data)


if __name__ == "__main__":
    main()
