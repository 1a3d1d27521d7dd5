"""Speed of `train_population` against a loop over networks with ``torch.optim.Adam``.

Breast cancer, 30-16-16-2, N(0, 0.1 I), Adam with learning rate 1e-3, 50 epochs, minibatches of 32:
the recipe of the thesis [E25]. Both sides run in this process, on the same data, in turns, so that
a machine that gets busier does not favour either; the figures are medians. Both use the same
number of threads. The loop's small kernels do not gain from threads, so it is timed on one thread
too, and the ratio is to the faster of the two.

The floor, per network. A row of a minibatch costs 2 * 768 FLOP forward, 2 * 768 for the weight
gradients and 2 * 288 for the gradients passed back (none to the inputs): 3,648 FLOP, times 455 rows
and 50 epochs 83 MFLOP. Adam reads four numbers per weight and writes three: 7 * 4 bytes times
802 weights and 750 steps, 17 MB. The floor is 83 MFLOP at the rate of a large matrix product plus
17 MB at the rate of a copy in cache, both measured here with all threads.

    python examples/benchmarks/train_population.py [--n-networks 1000] [--n-rounds 3]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from bayesflow_nn.weights import Architecture, train_population

SIZES = [30, 16, 16, 2]
N_EPOCHS, BATCH_SIZE = 50, 32


def load_data() -> tuple[Tensor, Tensor]:
    X, y = load_breast_cancer(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    X = StandardScaler().fit_transform(X)
    return torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y)


def train_one(X: Tensor, y: Tensor, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    architecture = Architecture.mlp(SIZES)
    weights = torch.randn(architecture.n_weights, generator=generator) * 0.1**0.5
    module = architecture.to_module(weights)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(N_EPOCHS):
        order = torch.randperm(len(X), generator=generator)
        for rows in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
            optimizer.step()
    return module


def seconds(run: Callable, *args: object, **options: object) -> float:
    start = time.perf_counter()
    run(*args, **options)
    return time.perf_counter() - start


def floor_seconds(n_inputs: int) -> float:
    """Least time per network at the measured rates of arithmetic and of memory."""
    matrix, result = torch.randn(1024, 1024), torch.empty(1024, 1024)
    product = min(seconds(torch.mm, matrix, matrix, out=result) for _ in range(20))
    source, target = torch.randn(2, 2**17)
    copy = min(seconds(target.copy_, source) for _ in range(200))
    products = [a * b for a, b in itertools.pairwise(SIZES)]
    flop = 2 * (3 * sum(products) - products[0]) * n_inputs * N_EPOCHS
    n_steps = -(-n_inputs // BATCH_SIZE) * N_EPOCHS
    n_bytes = 7 * 4 * Architecture.mlp(SIZES).n_weights * n_steps
    return flop * product / (2 * 1024**3) + n_bytes * copy / (2 * source.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-networks", type=int, default=1000)
    parser.add_argument("--n-rounds", type=int, default=3)
    arguments = parser.parse_args()
    X, y = load_data()
    mlp = Architecture.mlp(SIZES)
    train_population(mlp, X, y, n_networks=64, n_epochs=1, random_state=0)  # warm-up

    n_threads = torch.get_num_threads()
    loop, loop_on_one_thread, together = [], [], []
    for seed in range(arguments.n_rounds):
        loop.append(seconds(train_one, X, y, seed))
        together.append(
            seconds(train_population, mlp, X, y, n_networks=arguments.n_networks, random_state=seed)
        )
        torch.set_num_threads(1)
        loop_on_one_thread.append(seconds(train_one, X, y, seed))
        torch.set_num_threads(n_threads)

    one, best = statistics.median(loop), statistics.median(loop_on_one_thread)
    ours = statistics.median(together) / arguments.n_networks
    floor = floor_seconds(len(X))
    print(f"threads                         {n_threads:8d}")
    print(f"loop, per network               {1e3 * one:8.1f} ms")
    print(f"loop on one thread, per network {1e3 * best:8.1f} ms")
    print(f"train_population, per network   {1e3 * ours:8.2f} ms")
    print(f"floor, per network              {1e3 * floor:8.2f} ms")
    print(f"faster than the faster loop     {min(one, best) / ours:8.0f} x")
    print(f"slower than the floor           {ours / floor:8.1f} x")


if __name__ == "__main__":
    main()
