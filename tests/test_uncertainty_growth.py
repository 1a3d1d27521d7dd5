"""Epistemic uncertainty grows where there are no data, at least threefold far outside of them."""

import numpy as np
import pytest
from sklearn.datasets import make_moons

from bayesflow_nn import Architecture, FlowPosterior, TaskGuidance, train_population

SAMPLING = {"n_samples": 100, "random_state": 0}


@pytest.fixture(scope="module")
def moons():
    X, y = make_moons(200, noise=0.15, random_state=0)
    return (X - X.mean(0)).astype(np.float32), y


def fit(sizes, X, y, **training):
    population = train_population(
        Architecture.mlp(sizes),
        X,
        y,
        n_networks=800,
        learning_rate=5e-3,
        random_state=0,
        **training,
    )
    return FlowPosterior(geometry="euclidean", max_iter=80, n_steps=16, random_state=0).fit(
        population
    )


def test_of_classes_around_two_moons(moons):
    X, y = moons
    posterior = fit([2, 16, 2], X, y, n_epochs=100)
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    inside = posterior.uncertainty(X, **SAMPLING)
    near, far = (posterior.uncertainty(r * circle, **SAMPLING) for r in (3.0, 10.0))
    assert (posterior.predict(X, **SAMPLING) == y).mean() > 0.95
    assert near.epistemic.mean() > 3 * inside.epistemic.mean()
    assert far.epistemic.mean() > near.epistemic.mean()
    # Noise there is on the line between the classes, and nowhere else.
    assert far.aleatoric.mean() < 2 * inside.aleatoric.mean()


def test_of_means_in_a_gap_and_beyond_the_data():
    rng = np.random.default_rng(0)

    def draw(n):
        x = rng.uniform(0.7, 1.5, (n, 1)) * rng.choice([-1.0, 1.0], (n, 1))
        return x, np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=n)

    x, y = draw(120)
    held_out, targets = draw(120)
    posterior = fit([1, 32, 1], x, y, n_epochs=150, init="kaiming")
    guidance = TaskGuidance(x, y[:, None].astype(np.float32))
    sampling = SAMPLING | {"guidance": guidance}
    posterior.fit_noise(held_out, targets, **sampling)
    gap, far = np.linspace(-0.3, 0.3, 50)[:, None], np.linspace(3, 4, 50)[:, None]
    inside, between, outside = (
        posterior.predict_moments(grid, **sampling) for grid in (held_out, gap, far)
    )
    error = posterior.predict(held_out, **sampling) - targets
    assert np.sqrt(np.square(error).mean()) < 0.15  # the noise is 0.1
    assert between.epistemic_std.mean() > 3 * inside.epistemic_std.mean()
    assert outside.epistemic_std.mean() > 3 * inside.epistemic_std.mean()
