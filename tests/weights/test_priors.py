"""Priors against scipy's distributions, and their draws against the law they claim."""

import numpy as np
import pytest
import torch
from scipy import stats

from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.priors import LaplacePrior, NormalPrior, resolve_prior

MLP = Architecture.mlp([2, 3, 1])
SCALES = {"0.weight": 0.5, "0.bias": 2.0, "2.weight": 1.5, "2.bias": 3.0}
PER_WEIGHT = np.repeat([0.5, 2.0, 1.5, 3.0], [6, 3, 3, 1])
LAWS = {NormalPrior: stats.norm, LaplacePrior: stats.laplace}


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(("scale", "per_weight"), [(0.7, 0.7), (SCALES, PER_WEIGHT)])
def test_densities_are_scipys(kind, scale, per_weight):
    weights = np.random.default_rng(0).normal(size=(4, 13))
    log_prob = kind(scale).log_prob(torch.as_tensor(weights), MLP)
    expected = LAWS[kind](0, per_weight).logpdf(weights).sum(1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("scale", [0.7, SCALES])
def test_gradients_are_those_of_autograd(kind, scale):
    weights = torch.randn(
        4, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    (expected,) = torch.autograd.grad(kind(scale).log_prob(weights, MLP).sum(), weights)
    torch.testing.assert_close(kind(scale).gradient(weights.detach(), MLP), expected)


@pytest.mark.parametrize("kind", LAWS)
def test_draws_have_the_law_of_each_parameter(kind):
    draws = kind(SCALES).draw(2000, MLP, torch.Generator().manual_seed(0)).numpy()
    # Under the law itself the smallest of 13 p-values is below 1e-4 once in 770 seeds.
    for column, scale in zip(draws.T, PER_WEIGHT, strict=True):
        assert stats.kstest(column, LAWS[kind](0, scale).cdf).pvalue > 1e-4


def test_the_same_generator_gives_the_same_bytes():
    first, second = (
        LaplacePrior(1.0).draw(5, MLP, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_numbers_and_mappings_are_normal_priors():
    assert resolve_prior(2) == NormalPrior(2.0)
    assert resolve_prior(SCALES) == NormalPrior(SCALES)
    assert resolve_prior(LaplacePrior(0.3)) == LaplacePrior(0.3)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("scale", "error", "match"),
    [
        (0.0, ValueError, "scale must be finite and > 0, got 0.0"),
        ("wide", TypeError, "scale must be a number, got str"),
        ({"0.bias": -1.0}, ValueError, r"scale\['0.bias'\] must be finite and > 0, got -1.0"),
    ],
)
def test_bad_scales_are_named(kind, scale, error, match):
    with pytest.raises(error, match=match):
        kind(scale)


def test_unknown_names_weights_and_priors_are_named():
    with pytest.raises(ValueError, match=r"each of the parameters \['0.weight'.*got \['bias'\]"):
        NormalPrior({"bias": 1.0}).log_prob(torch.zeros(1, 13), MLP)
    with pytest.raises(ValueError, match=r"weights must have shape \(n_networks, 13\)"):
        LaplacePrior().log_prob(torch.zeros(1, 12), MLP)
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        NormalPrior().draw(0, MLP, torch.Generator())
    with pytest.raises(TypeError, match="prior must be a standard deviation, a prior such as"):
        resolve_prior("normal")
    with pytest.raises(ValueError, match="prior must be finite and > 0"):
        resolve_prior(-1.0)
