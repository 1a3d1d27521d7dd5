"""Cost of graph velocities: linear in the number of weights, and against dense attention.

    python examples/benchmarks/graph_velocity.py [--batch-size 8]

For networks 784-H-10 a training iteration of the relational transformer and of principal
neighbourhood aggregation: seconds, operations of matrix products (forward and backward), their
rate as a fraction of that of large matrix products on this machine, and peak memory beyond the
start. Then the transformer's blocks in dense form at 784-10-10 and batch size 1: attention and edge
updates between all pairs of nodes. Every row runs in a process of its own, for its memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
import itertools

from dense_attention import dense_attention

from bayesflow_nn.flow import GeodesicPath
from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity import (
    GraphVelocity,
    PNAVelocity,
    RelationalTransformer,
    VelocityProblem,
)
from bayesflow_nn.weights import Architecture

N_REPEATS = 5
KINDS = {"transformer": RelationalTransformer, "pna": PNAVelocity}


def make_model(kind: str, hidden: int) -> tuple[GraphVelocity, Tensor]:
    """A model for networks 784-hidden-10, and points of such networks."""
    mlp = Architecture.mlp([784, hidden, 10])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(8, mlp.n_weights, generator=generator)
    chart = WeightChart(mlp).fit(weights)
    points = chart.to_point(weights)
    problem = VelocityProblem(
        points=points,
        held_out=None,
        chart=chart,
        inputs=None,
        scale=chart.manifold.unit_scale,
        schedule=GeodesicPath(chart.manifold, 1e-3).schedule,
        generator=generator,
    )
    return KINDS[kind](problem, base="exchangeable"), points * problem.scale


def layered_loss(model: GraphVelocity, x: Tensor) -> Callable[[], Tensor]:
    """Loss of a training iteration."""
    t = torch.linspace(0.1, 0.9, len(x))
    return lambda: model(t, x).square().mean()


def dense_loss(model: RelationalTransformer, n: int) -> Callable[[], Tensor]:
    """Loss of the blocks in dense form: nodes attend to all, and all pairs have edges."""
    sizes = model.graph.sizes
    total = sum(sizes)
    node_width, edge_width = model.time_node.out_features, model.time_edge.out_features

    def loss() -> Tensor:
        nodes = torch.randn(n, total, node_width)
        pairs = torch.randn(n, total, total, edge_width)
        for block in model.blocks:
            normed = block.edge_norm(pairs)
            edges, start = [], 0
            for n_in, n_out in itertools.pairwise(sizes):
                middle = start + n_in
                edges.append(normed[:, middle : middle + n_out, start:middle])
                start = middle
            own = list(block.node_norm(nodes).split(sizes, dim=1))
            nodes = nodes + torch.cat(
                dense_attention(block.gather, edges, own, all_pairs=True), dim=1
            )
            nodes = nodes + block.node_update(nodes)
            hidden = block.from_edge(normed) + block.from_target(nodes)[:, :, None]
            hidden = hidden + block.from_source(nodes)[:, None]
            pairs = pairs + block.to_edge(nn.functional.silu(hidden))
        return nodes.square().mean() + pairs.square().mean()

    return loss


def matrix_product_rate() -> float:
    """Operations per second of a large matrix product."""
    a = torch.randn(2048, 2048)
    seconds = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def measure(
    kind: str, hidden: int, batch_size: int, dense: bool, queue: multiprocessing.Queue
) -> None:
    """Seconds, operations and bytes of a training iteration."""
    model, x = make_model(kind, hidden)
    loss = dense_loss(model, batch_size) if dense else layered_loss(model, x[:batch_size])
    optimizer = torch.optim.AdamW(model.parameters())

    def iterate() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    iterate()
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    with FlopCounterMode(display=False) as counter:
        iterate()
    seconds = []
    for _ in range(1 if dense else N_REPEATS):
        start = time.perf_counter()
        iterate()
        seconds.append(time.perf_counter() - start)
    queue.put((sorted(seconds)[len(seconds) // 2], counter.get_total_flops(), memory))


def run(kind: str, hidden: int, batch_size: int, rate: float, dense: bool = False) -> tuple:
    """Measure in a fresh process, and print a row."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(kind, hidden, batch_size, dense, queue))
    process.start()
    seconds, operations, memory = queue.get()
    process.join()
    name = f"784-{hidden}-10, {kind}{', dense, all pairs' if dense else ''}"
    print(
        f"{name:42s}{batch_size:6d}{seconds:10.3f}{operations / 1e9:12.2f}"
        f"{operations / seconds / rate:10.2f}{memory / 1e9:11.2f}",
        flush=True,
    )
    return seconds / batch_size, memory / batch_size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    rate = matrix_product_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s")
    print(f"{'':42s}{'batch':>6s}{'s':>10s}{'GFLOP':>12s}{'of rate':>10s}{'GB':>11s}")
    rows = {
        (kind, hidden): run(kind, hidden, options.batch_size, rate)
        for kind in KINDS
        for hidden in (10, 32, 64, 128)
    }
    dense = run("transformer", 10, 1, rate, dense=True)
    layered = rows["transformer", 10]
    print(
        f"dense over layered, per network: {dense[0] / layered[0]:.0f} times the time, "
        f"{dense[1] / layered[1]:.0f} times the memory"
    )


if __name__ == "__main__":
    main()
