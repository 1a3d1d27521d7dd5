"""Cost of graph velocities: linear in the number of weights, and against dense attention.

    python examples/benchmarks/graph_velocity.py [--batch-size 8] [--node-width 64] [--edge-width 8]
    python examples/benchmarks/graph_velocity.py --autocast --compile

For networks 784-H-10 a training iteration of the relational transformer and of principal
neighbourhood aggregation: seconds, operations of matrix products (forward and backward), bytes of
what is kept for the way back, seconds over two floors, and peak memory beyond the start. One floor
is the operations, at the rate of large matrix products on this machine; to the other is added that
what is kept is written once and read once, at the rate of a large copy. Then the transformer's
blocks in dense form at 784-10-10 and batch size 1: attention and edge updates between all pairs of
nodes. Every row runs in a process of its own, for its memory.

With `--autocast` or `--compile` instead the models with these options, and with both, beside plain
ones in the same process: seconds of an iteration and their ratio, seconds of the first two, which
compile, with an empty cache of kernels and again with a full one, and the ratio of the seconds of a
fit of 600 iterations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
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
N_ITERATIONS = 600  # of a fit
KINDS = {"transformer": RelationalTransformer, "pna": PNAVelocity}
SHAPES = [((784, 10, 10), 8), ((64, 32, 10), 32)]  # networks and sizes of batches


def make_model(
    kind: str, sizes: tuple[int, ...], n_networks: int, **options: int | bool
) -> tuple[GraphVelocity, Tensor]:
    """A model for networks of these widths, and points of such networks."""
    mlp = Architecture.mlp(sizes)
    generator = torch.Generator().manual_seed(0)
    # A chart needs several networks.
    weights = torch.randn(max(8, n_networks), mlp.n_weights, generator=generator)
    chart = WeightChart(mlp).fit(weights)
    points = chart.to_point(weights)
    problem = VelocityProblem(
        points=points,
        held_out=None,
        chart=chart,
        inputs=None,
        scale=chart.manifold.unit_scale.float(),
        schedule=GeodesicPath(chart.manifold, 1e-3).schedule,
        generator=generator,
    )
    return KINDS[kind](problem, base="exchangeable", **options), (points * problem.scale)[
        :n_networks
    ]


def layered_loss(model: GraphVelocity, x: Tensor) -> Callable[[], Tensor]:
    """Loss of a training iteration."""
    t = torch.linspace(0.1, 0.9, len(x))
    return lambda: model(t, x).square().mean()


def dense_loss(model: RelationalTransformer, n: int) -> Callable[[], Tensor]:
    """Loss of the blocks in dense form: nodes attend to all, and all pairs have edges."""
    sizes = model.graph.layout.sizes
    total = sum(sizes)
    node_width, edge_width = model.time_node.out_features, model.time_edge.out_features

    def loss() -> Tensor:
        nodes = torch.randn(n, total, node_width)
        pairs = torch.randn(n, total, total, edge_width)
        for block in model.blocks:
            normed = nn.functional.layer_norm(
                pairs, (edge_width,), block.edge_norm.weight, block.edge_norm.bias
            )
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


def measure_rates(queue: multiprocessing.Queue) -> None:
    """Operations per second of a large matrix product, and bytes per second of a large copy.

    Each byte that is copied is read and written, and counts twice.
    """
    a = torch.randn(2048, 2048)
    product = min(time_of(lambda: a @ a) for _ in range(N_REPEATS))
    b = torch.randn(2**26)
    c = torch.empty_like(b)
    copy = min(time_of(lambda: c.copy_(b)) for _ in range(N_REPEATS))
    queue.put((2 * 2048**3 / product, 2 * b.nbytes / copy))


def kept_bytes(loss: Callable[[], Tensor]) -> int:
    """Bytes of all arrays that a loss keeps for its gradient."""
    sizes = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        value = loss()
    del value  # until here all of them are alive, each in its own place
    return sum(sizes.values())


def make_iteration(model: GraphVelocity, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A training iteration."""
    optimizer = torch.optim.AdamW(model.parameters())

    def iterate() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return iterate


def time_of(function: Callable[[], None]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(
    kind: str,
    hidden: int,
    batch_size: int,
    widths: dict[str, int],
    dense: bool,
    queue: multiprocessing.Queue,
) -> None:
    """Seconds, operations, kept bytes and peak bytes of a training iteration."""
    model, x = make_model(kind, (784, hidden, 10), batch_size, **widths)
    loss = dense_loss(model, batch_size) if dense else layered_loss(model, x)
    iterate = make_iteration(model, loss)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    iterate()
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    with FlopCounterMode(display=False) as counter:
        iterate()
    seconds = statistics.median(time_of(iterate) for _ in range(1 if dense else N_REPEATS))
    queue.put((seconds, counter.get_total_flops(), kept_bytes(loss), memory))


def measure_options(
    kind: str,
    sizes: tuple[int, ...],
    batch_size: int,
    widths: dict[str, int],
    options: dict[str, bool],
    queue: multiprocessing.Queue,
) -> None:
    """Seconds of the first two iterations and of later ones: of plain models, and with options."""
    iterations = []
    for chosen in ({}, options):
        model, x = make_model(kind, sizes, batch_size, **widths, **chosen)
        iterations.append(make_iteration(model, layered_loss(model, x)))
    first = [time_of(iterate) + time_of(iterate) for iterate in iterations]
    rounds = [[time_of(iterate) for iterate in iterations] for _ in range(3 * N_REPEATS)]
    queue.put((first, [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]))


def call_apart(function: Callable, *args: object) -> tuple:
    """What a function puts into its queue, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*args, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def run(
    kind: str,
    hidden: int,
    batch_size: int,
    widths: dict[str, int],
    rates: tuple[float, float],
    dense: bool = False,
) -> tuple[float, float]:
    """Measure in a fresh process, and print a row; seconds and bytes per network are returned."""
    args = (kind, hidden, batch_size, widths, dense)
    seconds, operations, kept, memory = call_apart(measure, *args)
    name = f"784-{hidden}-10, {kind}{', dense, all pairs' if dense else ''}"
    floor = operations / rates[0]
    both = floor + 2 * kept / rates[1]
    print(
        f"{name:42s}{batch_size:6d}{seconds:10.3f}{operations / 1e9:10.2f}{kept / 1e9:10.2f}"
        f"{seconds / floor:12.1f}{seconds / both:12.1f}{memory / 1e9:10.2f}",
        flush=True,
    )
    return seconds / batch_size, memory / batch_size


def run_options(
    kind: str, sizes: tuple[int, ...], batch_size: int, widths: dict[str, int], names: list[str]
) -> None:
    """Measure a model with options in fresh processes that share kernels, and print a row."""
    args = (kind, sizes, batch_size, widths, dict.fromkeys(names, True))
    fits = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for _ in range(2 if "compile" in names else 1):
            first, (plain, seconds) = call_apart(measure_options, *args)
            total = [own + N_ITERATIONS * s for own, s in zip(first, (plain, seconds), strict=True)]
            fits.append(f"{first[1]:10.1f}{total[1] / total[0]:10.2f}")
    name = f"{'-'.join(map(str, sizes))}, {kind}, {' and '.join(names)}"
    print(
        f"{name:50s}{batch_size:6d}{plain:10.3f}{seconds:10.3f}{seconds / plain:10.2f}"
        + "".join(fits),
        flush=True,
    )


def compare_options(names: list[str], widths: dict[str, int]) -> None:
    """Print the table of models with options."""
    print(
        f"{'':50s}{'batch':>6s}{'plain s':>10s}{'s':>10s}{'ratio':>10s}{'first s':>10s}"
        f"{'fit':>10s}{'again s':>10s}{'fit':>10s}"
    )
    chosen = [[name] for name in names] + ([names] if len(names) > 1 else [])
    for sizes, batch_size in SHAPES:
        for kind in KINDS:
            for own in chosen:
                run_options(kind, sizes, batch_size, widths, own)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--node-width", type=int, default=64)
    parser.add_argument("--edge-width", type=int, default=8)
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    widths = {"node_width": options.node_width, "edge_width": options.edge_width}
    names = [name for name in ("autocast", "compile") if getattr(options, name)]
    if names:
        compare_options(names, widths)
        return
    # A process starts with the peak memory of the one that made it, so that none may be large here.
    rates = call_apart(measure_rates)
    print(f"matrix products: {rates[0] / 1e9:.0f} GFLOP/s, copies: {rates[1] / 1e9:.1f} GB/s")
    print(
        f"{'':42s}{'batch':>6s}{'s':>10s}{'GFLOP':>10s}{'kept GB':>10s}{'operations':>12s}"
        f"{'and bytes':>12s}{'peak GB':>10s}"
    )
    rows = {
        (kind, hidden): run(kind, hidden, options.batch_size, widths, rates)
        for kind in KINDS
        for hidden in (10, 32, 64, 128)
    }
    dense = run("transformer", 10, 1, widths, rates, dense=True)
    layered = rows["transformer", 10]
    print(
        f"dense over layered, per network: {dense[0] / layered[0]:.0f} times the time, "
        f"{dense[1] / layered[1]:.0f} times the memory"
    )


if __name__ == "__main__":
    main()
