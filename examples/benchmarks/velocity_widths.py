"""Quality of generated networks against the width of a graph velocity ([E25] Figure 7.7).

The relational transformer with d = 8, 16 and 32 features on edges, and four times as many on nodes,
learns for the same number of iterations from networks whose neurons are in no order, where nothing
but the graph network can tell what a Gaussian misses. Data, split and population are those of
``python -m bayesflow_nn``; scores are means over one thousand generated networks, on test data.

    python examples/benchmarks/velocity_widths.py [--dataset iris] [--n-networks 2000]
        [--geometry product_sphere] [--max-iter 900] [--output velocity_widths.png]
"""

from __future__ import annotations

import argparse
import functools
import warnings
from pathlib import Path

from matplotlib.figure import Figure
from velocities import make_comparison, populations, print_flow

from bayesflow_nn import FlowPosterior
from bayesflow_nn.demonstration.comparison import HEADER, Row
from bayesflow_nn.demonstration.problems import PROBLEMS, load_data
from bayesflow_nn.symmetry.chart import GEOMETRIES
from bayesflow_nn.velocity import RelationalTransformer

WIDTHS = (8, 16, 32)


def make_posterior(geometry: str, width: int, max_iter: int) -> FlowPosterior:
    """A flow over unordered networks."""
    velocity = functools.partial(RelationalTransformer, node_width=4 * width, edge_width=width)
    return FlowPosterior(
        geometry=geometry,
        velocity=velocity,
        alignment=None,
        max_iter=max_iter,
        batch_size=32,
        random_state=0,
        verbose=True,
    )


def draw_figure(rows: dict[str, list[Row]], trained: Row, path: Path) -> None:
    """Accuracy and loss against width, one line per geometry."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, score, label in zip(
        panels, ("accuracy", "nll"), ("mean test accuracy", "mean test NLL (nats)"), strict=True
    ):
        for geometry, found in rows.items():
            axes.plot(WIDTHS, [getattr(row, score) for row in found], "o-", label=geometry)
        axes.axhline(getattr(trained, score), color="#444444", linestyle=":", label=trained.name)
        axes.set(xscale="log", xlabel="features of edges, d", ylabel=label)
        axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=len(names), frameon=False)
    figure.savefig(path, dpi=150)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=list(PROBLEMS), default="iris")
    parser.add_argument("--n-networks", type=int, default=2000)
    parser.add_argument("--geometry", choices=GEOMETRIES, nargs="+", default=list(GEOMETRIES))
    parser.add_argument("--max-iter", type=int, default=900)
    parser.add_argument("--output", type=Path, default=Path("velocity_widths.png"))
    return parser.parse_args()


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
    options = parse_arguments()
    data = load_data(PROBLEMS[options.dataset])
    ((train, held_out),) = populations(options.dataset, data, [options.n_networks])
    comparison = make_comparison(data, train, held_out)
    trained = comparison.trained_rows(0)[0]
    print(f"\n{options.dataset}, {len(train)} networks to learn from\n\n{HEADER}\n{trained}")
    rows: dict[str, list[Row]] = {geometry: [] for geometry in options.geometry}
    for geometry in options.geometry:
        for width in WIDTHS:
            posterior = make_posterior(geometry, width, options.max_iter)
            rows[geometry].append(print_flow(f"{geometry}, d = {width}", posterior, comparison))
    draw_figure(rows, trained, options.output)
    print(f"\nfigure: {options.output}")


if __name__ == "__main__":
    main()
