"""Likelihoods against scipy's distributions, and their draws against their own moments."""

import numpy as np
import pytest
import torch
from scipy import stats

from bayesflow_nn.weights.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Normal,
    StudentT,
    resolve_likelihood,
)

N_NETWORKS, N_INPUTS = 3, 5
REGRESSIONS = [Normal(0.7), Normal([0.7, 2.0]), HeteroscedasticNormal(0.1), StudentT(5.0, 0.7)]
LIKELIHOODS = [Categorical(), *REGRESSIONS]


def draw_outputs(likelihood, n_targets=2, dtype=torch.float64):
    shape = N_NETWORKS, N_INPUTS, likelihood.n_outputs(n_targets)
    return torch.as_tensor(np.random.default_rng(0).normal(size=shape), dtype=dtype)


def draw_targets(likelihood):
    rng = np.random.default_rng(1)
    if likelihood.task == "classification":
        return torch.as_tensor(rng.integers(0, 2, N_INPUTS))
    return torch.as_tensor(rng.normal(size=(N_INPUTS, 2)))


def scipy_law(likelihood, f):
    """Law of two targets for the outputs `f` of one network on one input."""
    if isinstance(likelihood, HeteroscedasticNormal):
        return stats.norm(f[:2], likelihood.min_scale + np.exp(f[2:]))
    if isinstance(likelihood, StudentT):
        return stats.t(likelihood.df, f, likelihood.scale)
    return stats.norm(f, likelihood.scale)


@pytest.mark.parametrize("likelihood", REGRESSIONS, ids=repr)
def test_densities_and_moments_of_a_regression_are_scipys(likelihood):
    outputs, y = draw_outputs(likelihood), draw_targets(likelihood)
    log_prob = likelihood.log_prob(outputs, y)
    mean, variance = likelihood.moments(outputs)
    assert log_prob.shape == (N_NETWORKS, N_INPUTS)
    for k, i in np.ndindex(N_NETWORKS, N_INPUTS):
        law = scipy_law(likelihood, outputs[k, i].numpy())
        assert log_prob[k, i].item() == pytest.approx(law.logpdf(y[i].numpy()).sum(), abs=1e-12)
        np.testing.assert_allclose(mean[k, i], law.mean(), atol=1e-12)
        np.testing.assert_allclose(variance[k, i], law.var(), rtol=1e-12)


def test_probabilities_of_labels_are_those_of_a_softmax():
    outputs, y = draw_outputs(Categorical()), draw_targets(Categorical())
    p = np.exp(outputs.numpy()) / np.exp(outputs.numpy()).sum(-1, keepdims=True)
    expected = np.log(p[:, np.arange(N_INPUTS), y])
    np.testing.assert_allclose(Categorical().log_prob(outputs, y), expected, rtol=1e-12)
    mean, variance = Categorical().moments(outputs)
    np.testing.assert_allclose(mean, p, rtol=1e-12)
    np.testing.assert_allclose(variance, p * (1 - p), rtol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_draws_have_the_moments_of_the_law(likelihood):
    n = 40_000
    outputs = draw_outputs(likelihood)[0]
    drawn = likelihood.draw(outputs.expand(n, *outputs.shape), np.random.default_rng(0))
    if likelihood.task == "classification":
        drawn = torch.nn.functional.one_hot(drawn, 2).double()
    mean, variance = likelihood.moments(outputs)
    # Ten means and ten variances: |z| > 5 has a probability of 1e-5 in all; the standard error
    # of a variance follows from the fourth moment, kurtosis 9 for Student's t with 5 degrees.
    error = (variance / n).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
    kurtosis = 9 if isinstance(likelihood, StudentT) else 3
    assert ((drawn.var(0) / variance - 1).abs() < 5 * (kurtosis / n) ** 0.5).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_draws_do_not_depend_on_the_blocks_they_come_in(likelihood):
    outputs = draw_outputs(likelihood)
    whole = likelihood.draw(outputs, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    assert torch.equal(whole, torch.cat([likelihood.draw(f, rng) for f in outputs.split(1)]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_log_densities_have_the_gradient_of_a_finite_difference(likelihood):
    outputs = draw_outputs(likelihood).requires_grad_()
    y = draw_targets(likelihood)
    assert torch.autograd.gradcheck(lambda f: likelihood.log_prob(f, y), outputs)


def test_a_float_is_normal_noise_and_none_are_class_probabilities():
    assert resolve_likelihood("regression", 0.5) == Normal(0.5)
    assert resolve_likelihood("classification", None) == Categorical()
    assert resolve_likelihood("regression", StudentT(4, 1.0)) == StudentT(4, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0.0), "scale must be finite and > 0"),
        (lambda: Normal([1.0, -1.0]), "scale must be finite and > 0"),
        (lambda: Normal([[1.0]]), r"scale must be one number, or one per target.*got \(1, 1\)"),
        (lambda: StudentT(2.0, 1.0), "df must be finite and > 2"),
        (lambda: HeteroscedasticNormal(-1.0), "min_scale must be finite and >= 0"),
        (lambda: resolve_likelihood("regression", None), "likelihood must be the standard dev"),
        (lambda: resolve_likelihood("classification", 0.5), "likelihood must be None or Categ"),
        (lambda: resolve_likelihood("regression", Categorical()), "one of regression.*Categ"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scales_must_fit_the_targets():
    outputs = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="one number per target, 3 of them, got 2"):
        Normal([1.0, 1.0]).log_prob(outputs, torch.zeros(4, 3))
