"""The standard prior against volumes, change of variables and sampling."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from bayesflow_nn.geometry import ProductManifold, SphereBlock
from bayesflow_nn.symmetry import WeightChart, log_prior
from bayesflow_nn.weights import Architecture

MLP = Architecture.mlp([3, 4, 2])
SCALE = 0.7


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, MLP.n_weights, generator=generator, dtype=torch.float64)


def normal(values):
    """Log density of independent normal values, summed over the last axis."""
    return torch.distributions.Normal(0.0, SCALE).log_prob(values).sum(-1)


def test_on_flat_weights_all_are_normal(weights):
    chart = WeightChart(MLP, "euclidean", logit_shift=False).fit(weights)
    torch.testing.assert_close(log_prior(chart, weights, SCALE), normal(weights))


def test_without_the_logit_shift_the_mean_over_classes_is_left_out(weights):
    chart = WeightChart(MLP, "euclidean").fit(weights)
    matrix, bias = weights[:, 16:24].view(20, 2, 4), weights[:, 24:]
    # Of two classes, differences over root two are what is left.
    kept = [weights[:, :16], (matrix[:, 0] - matrix[:, 1]) / 2**0.5, bias @ BASIS]
    expected = normal(torch.cat(kept, dim=1))
    canonical = chart.to_weights(chart.to_point(weights))
    torch.testing.assert_close(log_prior(chart, canonical, SCALE), expected)


BASIS = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) / 2**0.5


@pytest.mark.parametrize("output_layer", ["polar", "euclidean"])
def test_hidden_directions_are_uniform_and_the_rest_is_normal(weights, output_layer):
    chart = WeightChart(MLP, "product_sphere", output_layer, logit_shift=False).fit(weights)
    canonical = chart.to_weights(chart.to_point(weights))
    flat = canonical[:, 12:]  # biases per norm, output matrix and bias
    expected = normal(flat) - 4 * math.log(4 * math.pi)
    if output_layer == "polar":
        # dW = r^8 d(log r) dS, on the unit sphere of R^8.
        expected += 8 * flat[:, 4:12].norm(dim=1).log()
    torch.testing.assert_close(log_prior(chart, canonical, SCALE), expected)


def test_a_spherical_output_layer_is_uniform(weights):
    chart = WeightChart(MLP, "product_sphere", "sphere", logit_shift=False).fit(weights)
    flat = chart.to_weights(chart.to_point(weights))
    volume = ProductManifold([SphereBlock(4, 3), SphereBlock(1, 8)]).log_volume()
    expected = normal(torch.cat([flat[:, 12:16], flat[:, 24:]], dim=1)) - float(volume)
    torch.testing.assert_close(log_prior(chart, flat, SCALE), expected)


def test_the_polar_prior_integrates_to_one():
    """A single direction on the circle and a log norm."""
    linear = Architecture.mlp([2, 1], bias=False)
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    chart = WeightChart(linear, "product_sphere", "polar", logit_shift=False).fit(some)

    def density(log_norm):
        weights = torch.tensor([[math.exp(log_norm), 0.0]], dtype=torch.float64)
        canonical = chart.to_weights(chart.to_point(weights))
        return log_prior(chart, canonical, SCALE).exp().item()

    # The same in every direction of the circle of length 2 pi.
    assert 2 * math.pi * quad(density, -20, 5)[0] == pytest.approx(1, abs=1e-6)


def test_the_normalized_geometry_has_no_density_of_networks(weights):
    chart = WeightChart(MLP, "normalized").fit(weights)
    with pytest.raises(ValueError, match="geometry must be 'product_sphere' or 'euclidean'"):
        log_prior(chart, weights, 1.0)


def test_of_a_convolutional_network_filters_are_uniform_and_the_rest_is_normal():
    """Nothing is polar there, whatever the option says."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    cnn = Architecture(net, example_input=torch.randn(2, 1, 4, 4))
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, cnn.n_weights, generator=generator, dtype=torch.float64)
    chart = WeightChart(cnn, "product_sphere", "polar", logit_shift=False).fit(weights)
    canonical = chart.to_weights(chart.to_point(weights))
    volume = float(ProductManifold([SphereBlock(3, 9)]).log_volume())
    expected = normal(canonical[:, 27:]) - volume
    torch.testing.assert_close(log_prior(chart, canonical, SCALE), expected)
