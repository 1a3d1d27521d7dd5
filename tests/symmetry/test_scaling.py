"""ScaleCanonicalizer: the function stays, the scales go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch import nn

from bayesflow_nn.symmetry import ScaleCanonicalizer
from bayesflow_nn.weights import Architecture, WeightPopulation

DEPTHS = [[5, 3], [5, 7, 3], [5, 7, 6, 3], [5, 7, 6, 4, 3], [5, 7, 6, 4, 8, 3]]


def random_weights(mlp, n=20, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, mlp.n_weights, generator=generator, dtype=torch.float64).to(dtype)


def random_inputs(mlp, n=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(99)
    return torch.randn(n, mlp.sizes[0], generator=generator, dtype=torch.float64).to(dtype)


def rounding_bound(mlp, weights, X):
    """A priori bound on two float32 evaluations of the same function.

    Every layer sums n_in + 1 products, rounded once each, and the rescaled weights carry a few
    roundings more; the relative errors of all layers add and apply to the sum of magnitudes, which
    is the forward pass of the absolute weights (Higham, Accuracy and Stability, section 3.1).
    """
    roundings = 2 * sum(layer.n_in + 10 for layer in mlp.layers)
    identity = Architecture.mlp(mlp.sizes, activation="identity")
    magnitude = identity.apply(weights.double().abs(), X.double().abs())
    return roundings * torch.finfo(torch.float32).eps * magnitude


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_function_is_unchanged_in_float64(sizes, activation):
    mlp = Architecture.mlp(sizes, activation=activation)
    weights, X = random_weights(mlp), random_inputs(mlp)
    canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    torch.testing.assert_close(mlp.apply(canonical, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_function_is_unchanged_in_float32_within_rounding(sizes):
    mlp = Architecture.mlp(sizes)
    weights, X = random_weights(mlp, dtype=torch.float32), random_inputs(mlp, dtype=torch.float32)
    canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    difference = (mlp.apply(canonical, X) - mlp.apply(weights, X)).abs().double()
    assert (difference <= rounding_bound(mlp, weights, X)).all()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    bias=st.booleans(),
    n=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_function_is_unchanged_for_any_shape(sizes, bias, n, seed):
    mlp = Architecture.mlp(sizes, bias=bias)
    weights, X = random_weights(mlp, n, seed=seed), random_inputs(mlp)
    canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    torch.testing.assert_close(mlp.apply(canonical, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)


def test_hidden_rows_have_norm_one():
    mlp = Architecture.mlp([5, 7, 6, 3])
    canonical = ScaleCanonicalizer(mlp).fit_transform(random_weights(mlp))
    for layer in mlp.layers[:-1]:
        norms = canonical[:, layer.weight].reshape(-1, layer.n_in).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-14, rtol=0)


def test_networks_that_differ_by_neuron_scales_become_equal():
    mlp = Architecture.mlp([5, 7, 6, 3])
    weights = random_weights(mlp)
    named = mlp.unflatten(weights.clone())
    scale = torch.rand(20, 7, generator=torch.Generator().manual_seed(1)).double() * 9 + 0.1
    named["0.weight"] *= scale[:, :, None]
    named["0.bias"] *= scale
    named["2.weight"] /= scale[:, None, :]
    canonicalizer = ScaleCanonicalizer(mlp)
    torch.testing.assert_close(
        canonicalizer.fit_transform(mlp.flatten(named)), canonicalizer.transform(weights)
    )


def test_it_is_idempotent():
    mlp = Architecture.mlp([5, 7, 6, 3])
    canonicalizer = ScaleCanonicalizer(mlp, logit_shift=True)
    once = canonicalizer.fit_transform(random_weights(mlp))
    torch.testing.assert_close(canonicalizer.transform(once), once, atol=1e-14, rtol=0)


def test_one_neuron_by_hand():
    """w = (3, 4), b = 10, v = 2, c = 1 becomes w = (.6, .8), b = 2, v = 10, c = 1."""
    weights = torch.tensor([[3.0, 4.0, 10.0, 2.0, 1.0]])
    canonical = ScaleCanonicalizer(Architecture.mlp([2, 1, 1])).fit_transform(weights)
    torch.testing.assert_close(canonical, torch.tensor([[0.6, 0.8, 2.0, 10.0, 1.0]]))


def kill_neurons(mlp, weights):
    """Neurons 1 and 2 of the first layer of networks 3 and 4, one with bias +, one with -."""
    named = mlp.unflatten(weights.clone())
    named["0.weight"][3:5, 1:3] = 0
    named["0.bias"][3:5, 1], named["0.bias"][3:5, 2] = 2.0, -3.0
    return mlp.flatten(named)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_dead_neurons_are_exact_and_announced(activation):
    mlp = Architecture.mlp([5, 7, 6, 3], activation=activation)
    weights, X = kill_neurons(mlp, random_weights(mlp)), random_inputs(mlp)
    with pytest.warns(UserWarning, match=r"4 hidden neurons in 2 of 20 networks .* networks 3, 4"):
        canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    torch.testing.assert_close(mlp.apply(canonical, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)
    named = mlp.unflatten(canonical)
    assert torch.equal(named["0.weight"][3, 1], torch.eye(5, dtype=torch.float64)[0])
    assert (named["0.bias"][3:5, 1:3] == 0).all()
    assert (named["2.weight"][3:5, :, 1:3] == 0).all()


def test_dead_neurons_of_a_leaky_relu_use_its_own_slope():
    module = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.3), nn.Linear(3, 2))
    architecture = Architecture(module)
    weights = random_weights(architecture, 2)
    weights[:, :4], weights[:, 12] = 0, -2.0
    with pytest.warns(UserWarning, match="dead"):
        canonical = ScaleCanonicalizer(architecture).fit_transform(weights)
    X = random_inputs(architecture)
    torch.testing.assert_close(
        architecture.apply(canonical, X), architecture.apply(weights, X), atol=1e-9, rtol=1e-9
    )


def test_dead_neurons_without_bias_are_exact():
    mlp = Architecture.mlp([5, 7, 3], bias=False)
    weights, X = random_weights(mlp), random_inputs(mlp)
    weights[0, :5] = 0
    with pytest.warns(UserWarning, match="1 hidden neurons in 1 of 20"):
        canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    torch.testing.assert_close(mlp.apply(canonical, X), mlp.apply(weights, X))


def test_a_dead_neuron_needs_a_bias_behind_it():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    weights = torch.tensor([[0.0, 0.0, 1.0, 1.0, 5.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="has none; use geometry='euclidean'"):
        ScaleCanonicalizer(Architecture(module)).fit_transform(weights)


@pytest.mark.parametrize("size", [1e-25, 1e-30])
def test_rows_whose_squares_underflow_are_not_dead(size):
    """Weight decay shrinks silent neurons; float32 squares vanish below 1e-23."""
    mlp = Architecture.mlp([2, 1, 1])
    weights = torch.tensor([[3 * size, 4 * size, 0.0, 1.0, 0.0]])
    canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    torch.testing.assert_close(canonical[0, :2], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(canonical[0, 3].item(), 5 * size, atol=0, rtol=1e-6)


def test_rows_far_below_their_bias_are_dead_and_nothing_overflows():
    weights = torch.tensor([[1e-38, 0.0, 10.0, 2.0, 1.0]])
    with pytest.warns(UserWarning, match="dead"):
        canonical = ScaleCanonicalizer(Architecture.mlp([2, 1, 1])).fit_transform(weights)
    torch.testing.assert_close(canonical, torch.tensor([[1.0, 0.0, 0.0, 0.0, 21.0]]))


def test_logit_shift_leaves_probabilities_and_takes_the_mean_over_classes():
    mlp = Architecture.mlp([5, 7, 3])
    weights, X = random_weights(mlp), random_inputs(mlp)
    canonical = ScaleCanonicalizer(mlp, logit_shift=True).fit_transform(weights)
    torch.testing.assert_close(
        mlp.apply(canonical, X).softmax(-1), mlp.apply(weights, X).softmax(-1), atol=1e-9, rtol=0
    )
    named = mlp.unflatten(canonical)
    assert named["2.weight"].mean(1).abs().max() < 1e-14
    assert named["2.bias"].mean(1).abs().max() < 1e-14


@pytest.mark.parametrize(("task", "removed"), [("classification", True), ("regression", False)])
def test_auto_removes_the_shift_of_classifiers_alone(task, removed):
    mlp = Architecture.mlp([5, 7, 3])
    population = WeightPopulation(random_weights(mlp), architecture=mlp, task=task)
    canonical = ScaleCanonicalizer().fit_transform(population)
    means = mlp.unflatten(canonical.weights)["2.weight"].mean(1).abs()
    assert (means.max() < 1e-14) == removed


def test_auto_keeps_a_single_logit():
    mlp = Architecture.mlp([5, 7, 1])
    population = WeightPopulation(random_weights(mlp), architecture=mlp, task="classification")
    X = random_inputs(mlp)
    canonical = ScaleCanonicalizer().fit_transform(population)
    torch.testing.assert_close(canonical.apply(X), population.apply(X), atol=1e-9, rtol=1e-9)


def test_gradients_pass_and_are_finite_at_dead_rows():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp)
    weights[:, :5] = 0
    weights.requires_grad_()
    with pytest.warns(UserWarning, match="dead"):
        canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    (gradient,) = torch.autograd.grad(canonical.square().sum(), weights)
    assert gradient.isfinite().all()


def test_it_clones_and_needs_no_fit():
    mlp = Architecture.mlp([5, 7, 3])
    canonicalizer = clone(ScaleCanonicalizer(mlp, logit_shift=False))
    assert canonicalizer.get_params() == {
        "architecture": mlp,
        "logit_shift": False,
        "inputs": None,
    }
    assert canonicalizer.transform(np.ones((2, mlp.n_weights))).shape == (2, mlp.n_weights)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu", "sigmoid"])
def test_activations_without_scale_symmetry_are_refused(activation):
    mlp = Architecture.mlp([5, 7, 3], activation=activation)
    with pytest.raises(ValueError, match=f"got '{activation}'; use geometry='euclidean'"):
        ScaleCanonicalizer(mlp).fit(random_weights(mlp))


def test_bad_parameters_are_refused():
    mlp = Architecture.mlp([5, 7, 1])
    weights = random_weights(mlp)
    with pytest.raises(ValueError, match="logit_shift must be 'auto', True or False, got 'yes'"):
        ScaleCanonicalizer(mlp, logit_shift="yes").fit(weights)
    with pytest.raises(ValueError, match="logit_shift must be False for a network with one output"):
        ScaleCanonicalizer(mlp, logit_shift=True).fit(weights)
    convolution = Architecture(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()))
    with pytest.raises(ValueError, match="scales of .* are found by running it; pass inputs"):
        ScaleCanonicalizer(convolution).fit(torch.zeros(1, convolution.n_weights))
