"""Initial weights have the distributions they are named after."""

import pytest
import torch
from torch import nn

from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.initialization import draw_initial_weights

N = 2000


def draw(architecture, init, n_networks=N, **options):
    return draw_initial_weights(
        architecture,
        init,
        options.get("init_variance", 0.1),
        n_networks=n_networks,
        seed=0,
        dtype=torch.float32,
    )


def assert_normal_with_variance(values, variance):
    # The mean of n squares has relative standard error sqrt(2 / n); 6 of them, about 1e-9.
    n = values.numel()
    assert abs(values.square().mean() / variance - 1) < 6 * (2 / n) ** 0.5
    assert abs(values.mean()) < 6 * (variance / n) ** 0.5


def test_normal_has_the_given_variance_in_every_weight():
    weights = draw(Architecture.mlp([6, 4, 2]), "normal", init_variance=0.3)
    assert_normal_with_variance(weights, 0.3)
    assert len(weights.unique(dim=0)) == N


@pytest.mark.parametrize(("init", "variance"), [("kaiming", 2 / 6), ("xavier", 2 / (6 + 4))])
def test_fan_scaled_weights_have_zero_biases(init, variance):
    mlp = Architecture.mlp([6, 4, 2])
    weights = draw(mlp, init)
    assert_normal_with_variance(weights[:, mlp.layers[0].weight], variance)
    assert not weights[:, mlp.layers[0].bias].any()


def test_fans_of_convolutions_count_their_window_and_scales_stay_as_given():
    module = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5))
    architecture = Architecture(module)
    tensors = architecture.unflatten(draw(architecture, "xavier"))
    assert_normal_with_variance(tensors["0.weight"], 2 / (2 * 9 + 5 * 9))
    assert (tensors["1.weight"] == 1).all() and not tensors["1.bias"].any()


@pytest.mark.parametrize("as_mlp", [True, False])
def test_module_draws_as_reset_parameters_does(as_mlp):
    layers = [nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)]
    architecture = Architecture(nn.Sequential(*layers, *([] if as_mlp else [nn.Identity()])))
    assert architecture.is_mlp == as_mlp
    tensors = architecture.unflatten(draw(architecture, "module", n_networks=500))
    for name, fan_in in [("0.weight", 6), ("0.bias", 6), ("2.weight", 4), ("2.bias", 4)]:
        values = tensors[name]
        bound = fan_in**-0.5
        assert values.abs().max() <= bound * (1 + 1e-6)
        # Variance of U(-b, b) is b^2 / 3; that of its square 4 b^4 / 45.
        error = (4 / 45 / values.numel()) ** 0.5 * bound**2
        assert abs(values.square().mean() - bound**2 / 3) < 6 * error
