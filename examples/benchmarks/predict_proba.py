"""Time and memory of `predict_proba` against the bare matrix products of its networks.

1,000 networks 784-32-32-10 on 10,000 inputs, float32. The bare products are one `torch.mm` for the
first layers of a block of networks, which share their inputs, and a `torch.bmm` for each further
layer, in the same blocks, with weight matrices that lie ready: no biases, no activations, no
probabilities, no average. Both sides run in one process, in turns; the figures are medians.

Memory is the peak of a fresh process during the call, beyond what it held before: interpreter,
libraries, weights and inputs.

    python examples/benchmarks/predict_proba.py [--n-networks 1000] [--n-rounds 5]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.predictive import predict_proba
from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles
from bayesflow_nn.weights import Architecture

SIZES = [784, 32, 32, 10]
N_INPUTS = 10_000


def make_networks(n_networks: int) -> tuple[Architecture, Tensor, Tensor]:
    """Architecture, random weights and random inputs."""
    mlp = Architecture.mlp(SIZES)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(n_networks, mlp.n_weights, generator=generator).mul_(0.05)
    return mlp, weights, torch.randn(N_INPUTS, SIZES[0], generator=generator)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_memory(n_networks: int, queue: multiprocessing.Queue) -> None:
    """Peak memory of the call beyond that of before, in bytes."""
    networks = make_networks(n_networks)
    before = peak_memory()
    predict_proba(*networks)
    queue.put(peak_memory() - before)


def memory_in_fresh_process(n_networks: int) -> int:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_memory, args=(n_networks, queue))
    process.start()
    memory = queue.get()
    process.join()
    return memory


def bare_products(matrices: list[Tensor], X: Tensor, blocks: list[tuple[slice, slice]]) -> None:
    """Multiply through all layers, for matrices ``(n_networks, n_out, n_in)``."""
    for networks, inputs in blocks:
        first, *others = (matrix[networks] for matrix in matrices)
        rows = torch.mm(first.flatten(0, 1), X[inputs].T)
        hidden = rows.view(len(first), -1, rows.shape[1])
        for matrix in others:
            hidden = torch.bmm(matrix, hidden)


def seconds(run: Callable, *args: object) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-networks", type=int, default=1000)
    parser.add_argument("--n-rounds", type=int, default=5)
    arguments = parser.parse_args()
    # First, while this process is small: a child may count its parent's memory as its own peak.
    memory = memory_in_fresh_process(arguments.n_networks)

    mlp, weights, X = make_networks(arguments.n_networks)
    # Running all blocks once also warms up.
    blocks = [block[:2] for block in Tiles(mlp, weights, X, None, CHUNK_SIZE)]
    tensors = mlp.unflatten(weights)
    matrices = [t.contiguous() for t in tensors.values() if t.ndim == 3]
    bare, ours = [], []
    for _ in range(arguments.n_rounds):
        bare.append(seconds(bare_products, matrices, X, blocks))
        ours.append(seconds(predict_proba, mlp, weights, X))
    ratios = [b / a for a, b in zip(bare, ours, strict=True)]

    multiplications = sum(a * b for a, b in itertools.pairwise(SIZES))
    operations = 2 * multiplications * len(X) * len(weights)
    print(f"threads                          {torch.get_num_threads():8d}")
    print(f"networks x inputs                {len(weights):8,d} x {len(X):,d}")
    print(f"operations of the products       {operations / 1e9:8.0f} GFLOP")
    for name, times in (("bare products", bare), ("predict_proba", ours)):
        median = statistics.median(times)
        rate = operations / median / 1e9
        print(f"{name:32s} {median:8.2f} s    {rate:4.0f} GFLOP/s")
    print(
        f"predict_proba / bare products    {statistics.median(ratios):8.2f}      "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"peak memory beyond the inputs    {memory / 1e6:8.0f} MB")


if __name__ == "__main__":
    main()
