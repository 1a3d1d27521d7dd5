"""Uncertainty where there are no data: two moons, and a regression with a gap.

Flows are fitted to small networks on both. Left, the shading is the epistemic uncertainty of the
class: it is small at the moons, and grows outwards along the boundary, which networks extend in
different ways. Where all extend one class alike they stay sure, however far from the data: averages
of ReLU networks do. Right, networks agree on the data and part ways in the gap and beyond.

    python examples/uncertainty_growth.py --output uncertainty.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

from bayesflow_nn import Architecture, FlowPosterior, TaskGuidance, train_population
from bayesflow_nn.plots import PredictiveBandDisplay, UncertaintySurfaceDisplay

N_NETWORKS = 1500


def fit(sizes: list[int], X: np.ndarray, y: np.ndarray, **training: object) -> FlowPosterior:
    """A flow over networks of these sizes, trained on the data."""
    population = train_population(
        Architecture.mlp(sizes),
        X,
        y,
        n_networks=N_NETWORKS,
        learning_rate=5e-3,
        random_state=0,
        **training,
    )
    return FlowPosterior(geometry="euclidean", max_iter=150, n_steps=16, random_state=0).fit(
        population
    )


def draw_gap(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs on both sides of a gap, and noisy targets (standard deviation .1)."""
    x = rng.uniform(0.7, 1.5, (n, 1)) * rng.choice([-1.0, 1.0], (n, 1))
    return x, np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=n)


def main(arguments: list[str] | None = None) -> None:
    """Fit both, print the growth and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("uncertainty_growth.png"))
    options = parser.parse_args(arguments)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)

    X, labels = make_moons(200, noise=0.15, random_state=0)
    X -= X.mean(0)
    moons = fit([2, 16, 2], X, labels, n_epochs=100)
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    inside = moons.uncertainty(X).epistemic.mean()
    print(f"two moons: epistemic uncertainty at the data {inside:.4f} nats")
    for radius in (3, 5, 10):
        circle = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        outside = moons.uncertainty(circle).epistemic.mean()
        print(f"  at radius {radius}: {outside:.4f}, {outside / inside:.1f} times as much")
    UncertaintySurfaceDisplay.from_estimator(moons, X, labels, eps=2.0, ax=left)

    rng = np.random.default_rng(0)
    x, y = draw_gap(rng, 120)
    x_held_out, y_held_out = draw_gap(rng, 120)
    posterior = fit([1, 32, 1], x, y, n_epochs=150, init="kaiming")
    # A few gradient steps on the data after the flow.
    sampling = {"guidance": TaskGuidance(x, y[:, None].astype(np.float32))}
    posterior.fit_noise(x_held_out, y_held_out, **sampling)
    places = {
        "at held-out inputs": x_held_out,
        "in the gap": np.linspace(-0.3, 0.3, 50)[:, None],
        "far outside": np.linspace(3, 4, 50)[:, None],
    }
    print(f"gap: noise {posterior.likelihood_.scale:.3f}; standard deviation of networks")
    for name, grid in places.items():
        print(f"  {name}: {posterior.predict_moments(grid, **sampling).epistemic_std.mean():.3f}")
    grid = np.linspace(-2.5, 2.5, 201)
    PredictiveBandDisplay.from_estimator(
        posterior, grid, sampling=sampling, x_train=x, y_train=y, ax=right
    )
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
