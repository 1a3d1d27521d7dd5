"""``python -m bayesflow_nn``: a flow over the weights of small networks, against its ensemble.

Trains a population on a data set of scikit-learn (stratified 80/20 split with seed 0, inputs
standardised on the training part), fits a :class:`FlowPosterior` to nine tenths of its chains, and
compares generated networks with the chains that the flow never saw, with the ensemble of all that
it saw, and with generators that have learned nothing beyond second moments. A report follows:
calibration and uncertainty, strange inputs, how many networks are enough and what they are worth,
how they differ, leave-one-out, and importance weights.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

from bayesflow_nn import FlowPosterior
from bayesflow_nn.demonstration.comparison import HEADER, LEGEND, Comparison, Row
from bayesflow_nn.demonstration.figure import draw_figure
from bayesflow_nn.demonstration.findings import investigate
from bayesflow_nn.demonstration.problems import PROBLEMS, Data, load_data, train_networks
from bayesflow_nn.demonstration.report import write_report
from bayesflow_nn.symmetry.chart import GEOMETRIES

QUICK_NETWORKS = 400
QUICK = {"max_iter": 60, "batch_size": 64, "n_steps": 8}
TEMPERATURES = (1.0, 0.8, 0.6, 0.4)
N_DENSITIES = 50
DENSITY_STEPS = 4  # of rk4; twice as many move the log evidence by less than its error
FRONTIER = (0.0, 0.5, 0.7, 0.9, 1.0)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bayesflow_nn",
        description="Train many small networks, learn a flow over their weights, and compare the "
        "networks that it generates with trained ones, in tables and a figure.",
        epilog="The table. " + LEGEND,
    )
    parser.add_argument(
        "--dataset",
        choices=list(PROBLEMS),
        default="breast_cancer",
        help="data of scikit-learn that the networks classify (default: %(default)s); digits takes "
        "about five minutes, the others about two",
    )
    parser.add_argument(
        "--geometry",
        choices=GEOMETRIES,
        default="product_sphere",
        help="where the flow runs: on the spheres of canonical weights, in a flat space around "
        "them, or on aligned weights as they are (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_NETWORKS} networks and {QUICK['max_iter']} iterations: shows that it runs, "
        "not what it can do",
    )
    parser.add_argument(
        "--output",
        type=_figure_path,
        default="bayesflow_nn.png",
        metavar="FILE",
        help="where the figure goes; the ending decides the format (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _figure_path(text: str) -> Path:
    """Check the path before the work is done, not after."""
    path, formats = Path(text), FigureCanvasBase.get_supported_filetypes()
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if path.suffix[1:] not in formats:
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in one of {', '.join('.' + name for name in sorted(formats))}"
        )
    return path


def main(arguments: list[str] | None = None) -> None:
    """Train, fit, compare, print the report and write the figure."""
    start = time.perf_counter()
    options = parse_arguments(arguments)
    data = load_data(PROBLEMS[options.dataset])
    population = train_networks(options.dataset, data, QUICK_NETWORKS if options.quick else None)
    train_seconds = time.perf_counter() - start
    train, held_out = population.split(test_size=0.1, random_state=0)
    posterior = FlowPosterior(geometry=options.geometry, random_state=0, verbose=True)
    if options.quick:
        posterior.set_params(**QUICK)
    posterior.fit(train)
    fit_seconds = time.perf_counter() - start - train_seconds
    title = f"{options.dataset}, {'-'.join(map(str, train.architecture.sizes))}, {options.geometry}"
    print(
        f"\n{title}: trained {len(population)} networks in {train_seconds:.1f} s, "
        f"fitted the flow to {len(train)} of them in {fit_seconds:.1f} s\n\n{HEADER}"
    )
    comparison = Comparison(data, train, held_out, posterior)
    _print_rows(comparison.trained_rows(train_seconds))
    flow_rows = {t: _print_rows(comparison.flow_rows(t))[0] for t in TEMPERATURES}
    _print_rows([comparison.noise_row()])
    frontier = _print_rows([comparison.gaussian_row(tau) for tau in FRONTIER])
    findings = investigate(comparison, flow_rows[1.0].seconds)
    for paragraph in write_report(findings, data.y_test, train_seconds):
        print(f"\n{paragraph}", flush=True)
    _print_importance(posterior, data)
    draw_figure(
        comparison,
        findings,
        flow_rows=flow_rows,
        gaussian_rows=frontier,
        title=title,
        path=options.output,
    )
    seconds = time.perf_counter() - start
    print(f"\n{LEGEND}\n\n{seconds:.0f} s in all; figure: {options.output}")


def _print_importance(posterior: FlowPosterior, data: Data) -> None:
    """Say how far the flow is from the posterior of its training data under a standard prior."""
    if posterior.geometry == "normalized":
        return  # its points become networks by a projection, and have no density
    rough = copy.copy(posterior).set_params(n_steps=DENSITY_STEPS, trace="hutchinson")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-hat is", UserWarning)  # the verdict is printed
        importance = rough.importance_weights(
            data.X_train, data.y_train, n_samples=N_DENSITIES, random_state=1
        )
    print(
        f"\nImportance weights of {N_DENSITIES} generated networks for the posterior of the data "
        f"under the\nstandard prior. Trained networks are no sample of it, and k-hat says so:\n\n"
        f"{importance}"
    )


def _print_rows(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    main()
