"""Noise of unknown size: what networks put out, and a posterior that quadrature knows."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from bayesflow_nn import Architecture, FlowPosterior, sample_population, train_population
from bayesflow_nn.weights import ConstantNoise, HeteroscedasticNormal, NormalPrior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 1))
Y = 0.8 * X + 0.4 * RNG.normal(size=(30, 1))
LIKELIHOOD = HeteroscedasticNormal(min_scale=0.0)


def line():
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    return Architecture(ConstantNoise(layer).double(), example_input=torch.zeros(2, 1).double())


def perceptron():
    layers = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    return Architecture(ConstantNoise(layers), example_input=torch.zeros(2, 1))


def test_outputs_are_means_and_the_same_log_scales_everywhere():
    layer = nn.Linear(3, 2)
    network = ConstantNoise(layer, n_targets=2)
    with torch.no_grad():
        network.log_scale.copy_(torch.tensor([0.5, -1.0]))
    inputs = torch.randn(5, 3)
    outputs = network(inputs)
    torch.testing.assert_close(outputs[:, :2], layer(inputs))
    torch.testing.assert_close(outputs[:, 2:], torch.tensor([[0.5, -1.0]]).expand(5, 2))


def test_chains_find_the_posterior_of_slope_and_noise():
    population = sample_population(
        line(),
        X,
        Y,
        sampler="hmc",
        n_chains=300,
        n_draws=20,
        n_tune=100,
        prior=NormalPrior({"log_scale": 0.7, "module.weight": 2.0}),
        likelihood=LIKELIHOOD,
        sampler_options={"n_leapfrog": 6},
        random_state=0,
    )
    log_scale, slope = np.linspace(-2, 0.5, 301), np.linspace(0, 1.6, 301)
    s, w = np.meshgrid(log_scale, slope, indexing="ij")
    log_p = norm.logpdf(s, scale=0.7) + norm.logpdf(w, scale=2.0)
    log_p += norm.logpdf(Y.ravel(), w[..., None] * X.ravel(), np.exp(s)[..., None]).sum(-1)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    for column, grid in ((0, s), (1, w)):
        mean = (p * grid).sum()
        std = np.sqrt((p * (grid - mean) ** 2).sum())
        draws = population.weights[:, column].reshape(300, 20)
        # Chains are independent: the error of the mean is that of their means.
        error = draws.mean(1).std().item() / np.sqrt(300)
        assert draws.mean().item() == pytest.approx(mean, abs=4 * error)
        # Of 6,000 draws, at least a third of them independent: 1.6 % or less.
        assert draws.std().item() == pytest.approx(std, rel=0.05)


def test_training_fits_the_noise_and_a_flow_predicts_it():
    inputs = RNG.uniform(-2, 2, size=(400, 1)).astype(np.float32)
    targets = (np.sin(2 * inputs) + 0.3 * RNG.normal(size=inputs.shape)).astype(np.float32)
    networks = train_population(
        perceptron(),
        inputs,
        targets,
        n_networks=60,
        loss=HeteroscedasticNormal(),
        init="kaiming",
        learning_rate=2e-2,
        n_epochs=60,
        random_state=0,
    )
    # The networks are a little more or less than flexible enough: 15 % of .3.
    assert networks.weights[:, 0].exp().median().item() == pytest.approx(0.3, rel=0.15)
    posterior = FlowPosterior(
        geometry="euclidean", velocity="mlp", max_iter=20, n_steps=4, random_state=0
    ).fit(networks)
    moments = posterior.predict_moments(inputs[:20])
    scale = torch.from_numpy(posterior.sample(100, random_state=0))[:, 0].exp()
    expected = (scale + HeteroscedasticNormal().min_scale).square().mean().sqrt().item()
    np.testing.assert_allclose(moments.aleatoric_std, expected, rtol=1e-3)


def test_hidden_neurons_still_may_trade_places():
    networks = train_population(
        perceptron(),
        X.astype(np.float32),
        Y.astype(np.float32),
        n_networks=12,
        loss=HeteroscedasticNormal(),
        n_epochs=2,
        random_state=0,
    )
    posterior = FlowPosterior(
        geometry="euclidean", velocity="mlp", max_iter=3, n_steps=4, random_state=0
    ).fit(networks)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    pieces = perceptron().unflatten(networks.weights[:1])
    swapped = dict(pieces)
    swapped["module.0.weight"] = pieces["module.0.weight"][:, order]
    swapped["module.0.bias"] = pieces["module.0.bias"][:, order]
    swapped["module.2.weight"] = pieces["module.2.weight"][..., order]
    flat = perceptron().flatten(swapped)
    torch.testing.assert_close(posterior.to_points(flat), posterior.to_points(networks.weights[:1]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Architecture.mlp([1, 1]),), TypeError, "module must be a torch.nn.Module, got Arch"),
        ((nn.Linear(1, 1), 0), ValueError, "n_targets must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ConstantNoise(*arguments)
