"""Velocity models side by side: networks of flows that differ in nothing else.

Data, split and population are those of ``python -m bayesflow_nn``; chains that no flow sees judge
the networks. One thousand generated networks of every flow and temperature: accuracy, NLL and
calibration of each alone and of averages of a hundred, novelty and dispersion; beside them one
hundred of the tempered Gaussian of equal dispersion. All novelties are taken on the canonical
manifold of aligned networks, so that neurons in another order do not look new.

    python examples/benchmarks/velocities.py [--dataset digits] [--n-networks 100 300]
        [--velocity mlp relational_transformer] [--geometry product_sphere] [--max-iter 900]
        [--temperature 1 0.9]

"... unaligned" are flows over networks whose neurons are in no order, fitted with
``alignment=None``; "... on_probe" refines what the steps of "probe" predict. ``--n-networks`` are
numbers of networks to learn from, for sample efficiency.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Iterator, Sequence

import torch

from bayesflow_nn import FlowPosterior, WeightPopulation
from bayesflow_nn.demonstration.comparison import (
    HEADER,
    N_GENERATED,
    N_JUDGED,
    Comparison,
    Row,
)
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.symmetry.chart import GEOMETRIES
from bayesflow_nn.velocity import RelationalTransformer

N_HELD_OUT = 500
GRAPH = {"batch_size": 32}
VELOCITIES = {
    "mlp": {"velocity": "mlp"},
    "probe": {"velocity": "probe"},
    "relational_transformer": {"velocity": "relational_transformer", **GRAPH},
    "relational_transformer_on_probe": {
        "velocity": functools.partial(RelationalTransformer, base="probe", n_blocks=2),
        "time_distribution": "late",
        "batch_size": 64,
    },
    "relational_transformer_on_probe_unaligned": {
        "velocity": functools.partial(RelationalTransformer, base="probe", n_blocks=2),
        "alignment": None,
        "time_distribution": "late",
        "batch_size": 128,
        "n_iter_no_change": 25,
    },
    "pna": {"velocity": "pna", **GRAPH},
    "relational_transformer_unaligned": {
        "velocity": "relational_transformer",
        "alignment": None,
        **GRAPH,
    },
    "pna_unaligned": {"velocity": "pna", "alignment": None, **GRAPH},
}


def populations(
    dataset: str, data: Data, n_networks: list[int]
) -> Iterator[tuple[WeightPopulation, WeightPopulation]]:
    """Networks to learn from, as many as asked for, and the same held-out ones for all."""
    all_networks = train_networks(dataset, data, max(n_networks) + N_HELD_OUT)
    rest, held_out = all_networks.split(test_size=N_HELD_OUT, random_state=0)
    for n in n_networks:
        yield rest[:n], held_out


def make_comparison(data: Data, train: WeightPopulation, held_out: WeightPopulation) -> Comparison:
    """Judge of all flows: it aligns what it is shown; its own flow is not used."""
    judge = FlowPosterior(max_iter=1, velocity="mlp", random_state=0).fit(train)
    return Comparison(data, train, held_out, judge)


def print_flow(
    name: str,
    posterior: FlowPosterior,
    comparison: Comparison,
    temperatures: Sequence[float] = (1.0,),
) -> Row:
    """Fit a flow; print its cost and the rows of its networks; the first is returned."""
    start = time.perf_counter()
    posterior.fit(comparison.train)
    n_parameters = sum(p.numel() for p in posterior.field_.predictor.parameters())
    seconds = time.perf_counter() - start
    print(f"{name}: {n_parameters:,} parameters, fitted in {seconds:.0f} s")
    rows = [print_networks(posterior, comparison, each) for each in temperatures]
    return rows[0]


def print_networks(posterior: FlowPosterior, comparison: Comparison, temperature: float) -> Row:
    """Networks of one temperature alone, which are returned, their averages, and their Gaussian."""
    start = time.perf_counter()
    weights = torch.as_tensor(posterior.sample(N_JUDGED, random_state=1, temperature=temperature))
    seconds = (time.perf_counter() - start) * N_GENERATED / N_JUDGED
    row = comparison.network_row(f"  generated network, T = {temperature:g}", weights, seconds)
    print(row)
    print(comparison.average_row(f"  average of {N_GENERATED}", weights, size=N_GENERATED))
    print(comparison.matched_gaussian_row(row.dispersion), flush=True)
    return row


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="breast_cancer")
    parser.add_argument("--n-networks", type=int, nargs="+", default=[2000])
    parser.add_argument("--geometry", choices=GEOMETRIES, nargs="+", default=list(GEOMETRIES))
    parser.add_argument("--velocity", choices=list(VELOCITIES), nargs="+", default=list(VELOCITIES))
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    return parser.parse_args()


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
    options = parse_arguments()
    data = load_data(PROBLEMS[options.dataset])
    for train, held_out in populations(options.dataset, data, options.n_networks):
        comparison = make_comparison(data, train, held_out)
        print(f"\n{options.dataset}, {len(train)} networks to learn from\n\n{HEADER}")
        for row in comparison.trained_rows(0):
            print(row, flush=True)
        for geometry in options.geometry:
            for velocity in options.velocity:
                posterior = FlowPosterior(
                    geometry=geometry,
                    max_iter=options.max_iter,
                    random_state=0,
                    verbose=True,
                    **VELOCITIES[velocity],
                )
                print_flow(f"{geometry}, {velocity}", posterior, comparison, options.temperature)


if __name__ == "__main__":
    main()
