"""Stochastic gradient Langevin dynamics: its law in closed form, its cycles and its minibatches."""

import math

import numpy as np
import pytest
import torch

from bayesflow_nn import sample_population
from bayesflow_nn.weights import Architecture, LogPosterior, Normal
from bayesflow_nn.weights.sgld import SGLD

LINE = Architecture.mlp([1, 1], bias=False)
X = torch.randn(60, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = 0.7 * X + 0.5 * torch.randn(60, 1, generator=torch.Generator().manual_seed(2)).double()
TARGET = LogPosterior(LINE, X, Y, prior=1.0, likelihood=Normal(0.5))
CURVATURE = (1 + X.square().sum() / 0.25).item()
MEAN = ((X * Y).sum() / 0.25).item() / CURVATURE


def chains(n=4000, target=TARGET, **options):
    start = torch.full((n, 1), MEAN, dtype=torch.float64)
    return SGLD(target, start, torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("relative", [0.1, 1.0, 2.0])
def test_with_all_data_the_law_is_that_of_an_autoregression(relative):
    """Of curvature c, steps e widen the variance 1 / c to 1 / (c (1 - e c / 4))."""
    sampler = chains(batch_size=60, step_size=relative / CURVATURE)
    sampler.tune(100)
    x = sampler.position.weights
    variance = 1 / (CURVATURE * (1 - relative / 4))
    # Of 4,000 chains: relative error of the variance .022, and of the mean its root.
    assert x.var().item() == pytest.approx(variance, rel=0.08)
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * math.sqrt(variance / 4000))


def test_minibatches_widen_the_law_and_small_steps_undo_it():
    variances = []
    for relative in (1.0, 0.05):
        sampler = chains(batch_size=6, step_size=relative / CURVATURE)
        # All chains share their minibatches: the mean over steps is what is unbiased.
        sampler.tune(round(8 / relative))
        draws = []
        for _ in range(round(60 / relative)):
            sampler.step()
            draws.append(sampler.position.weights)
        draws = torch.stack(draws)
        variances.append(draws.var().item() * CURVATURE)
    assert variances[0] > 1.5
    assert variances[1] == pytest.approx(1, rel=0.15)


def test_a_cycle_without_noise_climbs_with_a_cosine():
    step_size = 0.5 / CURVATURE
    sampler = chains(n=3, batch_size=60, step_size=step_size, cycle_length=10, exploration=0.9)
    start = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    sampler.position = sampler.position._replace(weights=start)
    expected, last_noise = start, step_size * (math.cos(0.9 * math.pi) + 1) / 2
    for k in range(10):
        size = step_size * (math.cos(math.pi * k / 10) + 1) / 2
        expected = expected - size / 2 * CURVATURE * (expected - MEAN)
    sampler.step()
    # One step of ten has noise, of which six standard deviations are never seen.
    assert ((sampler.position.weights - expected).abs() < 6 * math.sqrt(last_noise)).all()
    assert not torch.equal(sampler.position.weights, expected)


def test_every_datum_comes_once_before_one_comes_again():
    sampler = chains(n=1, batch_size=25)
    rows = torch.cat([sampler._draw_rows() for _ in range(2)])
    assert len(rows.unique()) == 50
    again = torch.cat([sampler._draw_rows() for _ in range(2)])
    assert len(again.unique()) == 50 and not torch.equal(rows, again)


def test_chains_that_diverge_stay_and_say_so():
    sampler = chains(n=3, batch_size=60, step_size=1e200)
    for _ in range(2):
        sampler.step()
    before = sampler.position.weights
    transition = sampler.step()
    assert transition.diverging.all() and (transition.acceptance == 0).all()
    assert before.isfinite().all() and torch.equal(sampler.position.weights, before)


def test_it_samples_populations_of_networks():
    X, y = np.random.default_rng(0).normal(size=(300, 2)), np.arange(300) % 2
    population = sample_population(
        Architecture.mlp([2, 4, 2]),
        X,
        y,
        sampler="sgld",
        n_chains=5,
        n_draws=3,
        n_tune=2,
        sampler_options={"batch_size": 32, "cycle_length": 20, "exploration": 0.5},
        random_state=0,
    )
    assert len(population) == 15
    assert (population.metrics["n_gradients"] == 20).all()
    assert population.metrics["energy_error"].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"cycle_length": 0}, "cycle_length must be"),
        ({"exploration": 1.0}, r"exploration must lie in \[0, 1\), got 1.0"),
        ({"step_size": 0.0}, "step_size must be"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        chains(n=1, **options)
