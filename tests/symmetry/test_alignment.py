"""PermutationAligner: same functions, one order of neurons for all equivalent networks."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from bayesflow_nn.symmetry import PermutationAligner, ScaleCanonicalizer
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.representation import find_groups
from bayesflow_nn.weights import Architecture, WeightPopulation

DEPTHS = [[5, 3], [5, 7, 3], [5, 7, 6, 3], [5, 7, 6, 4, 3], [5, 7, 6, 4, 8, 3]]


def random_weights(mlp, n=30, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, mlp.n_weights, generator=generator, dtype=dtype)


def shuffle_neurons(mlp, weights, seed=1):
    """Another random order of the hidden neurons for every network."""
    generator = torch.Generator().manual_seed(seed)
    orders = [
        torch.rand(len(weights), layer.n_out, generator=generator).argsort(1)
        for layer in mlp.layers[:-1]
    ]
    return mlp.flatten(permute_all(find_groups(mlp), mlp.unflatten(weights), orders))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu"])
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_function_is_unchanged_in_float64(sizes, activation):
    mlp = Architecture.mlp(sizes, activation=activation)
    weights, X = random_weights(mlp), random_weights(Architecture.mlp([1, 5]), 20)[:, :5]
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
    torch.testing.assert_close(mlp.apply(aligned, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_weights_of_every_layer_are_reordered_and_nothing_else(sizes):
    """In float32, too, not a bit of any weight changes."""
    mlp = Architecture.mlp(sizes)
    weights = random_weights(mlp, dtype=torch.float32)
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
    for layer in mlp.layers:
        for part in (layer.weight, layer.bias):
            assert torch.equal(aligned[:, part].sort(1).values, weights[:, part].sort(1).values)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    bias=st.booleans(),
    n=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_any_shape(sizes, bias, n, seed):
    mlp = Architecture.mlp(sizes, bias=bias)
    weights = random_weights(mlp, n, seed=seed)
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
    X = torch.linspace(-1, 1, 4 * sizes[0]).double().reshape(4, -1)
    torch.testing.assert_close(mlp.apply(aligned, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_the_order_of_neurons_that_comes_in_does_not_matter(sizes, dtype):
    mlp = Architecture.mlp(sizes)
    weights = random_weights(mlp, dtype=dtype)
    aligner = PermutationAligner(mlp, random_state=0).fit(weights)
    shuffled = shuffle_neurons(mlp, weights)
    assert torch.equal(aligner.transform(shuffled), aligner.transform(weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_it_is_idempotent(sizes, dtype):
    mlp = Architecture.mlp(sizes)
    aligner = PermutationAligner(mlp, random_state=0)
    aligned = aligner.fit_transform(random_weights(mlp, dtype=dtype))
    assert torch.equal(aligner.transform(aligned), aligned)


def test_neuron_scales_do_not_matter():
    mlp = Architecture.mlp([5, 7, 6, 3])
    weights = random_weights(mlp)
    aligner = PermutationAligner(mlp, random_state=0).fit(weights)
    canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    for found, expected in zip(
        aligner.permutations(canonical), aligner.permutations(weights), strict=True
    ):
        assert torch.equal(found, expected)


def test_shuffled_copies_of_one_network_with_little_noise_are_brought_together():
    """Noise of 1 % cannot exchange neurons that differ by order one."""
    mlp = Architecture.mlp([5, 7, 6, 3])
    noisy = random_weights(mlp, 1) + 0.01 * random_weights(mlp, 40, seed=2)
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(shuffle_neurons(mlp, noisy))
    assert aligned.std(0).max() < 0.02


def test_a_given_reference_is_what_networks_are_aligned_to():
    mlp = Architecture.mlp([5, 7, 6, 3])
    network = random_weights(mlp, 1)
    shuffled = shuffle_neurons(mlp, network.repeat(8, 1))
    for reference in (network[0], network[0].numpy()):
        aligner = PermutationAligner(mlp, reference=reference).fit(shuffled)
        assert torch.equal(aligner.transform(shuffled), network.repeat(8, 1))
        assert aligner.n_iter_ == 0


def test_refinement_lowers_the_distance_to_the_barycentre():
    mlp = Architecture.mlp([10, 8, 8, 2])
    weights = random_weights(mlp, 300)
    once, refined = (
        PermutationAligner(mlp, max_iter=n, random_state=0).fit(weights) for n in (1, 30)
    )
    assert refined.distances_[0] == once.distances_[0]
    assert refined.distances_[-1] < 0.99 * once.distances_[-1]
    assert refined.n_iter_ == len(refined.distances_) < 30


def test_the_barycentre_is_the_mean_of_the_aligned_networks():
    mlp = Architecture.mlp([5, 7, 3], activation="tanh")  # compared as they are
    weights = random_weights(mlp)
    aligner = PermutationAligner(mlp, tol=0, random_state=0).fit(weights)
    mean = mlp.unflatten(aligner.transform(weights).mean(0, keepdim=True))
    for name, tensor in aligner.reference_.items():
        torch.testing.assert_close(mean[name][0], tensor)


def test_a_seed_makes_it_reproducible_and_few_networks_may_define_the_reference():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp, 60)
    aligners = [
        PermutationAligner(mlp, max_reference_networks=10, random_state=seed).fit(weights)
        for seed in (0, 0, 1)
    ]
    first, second, other = (aligner.reference_[mlp.names[0]] for aligner in aligners)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert aligners[0].transform(weights).shape == weights.shape


def test_the_logit_shift_of_classifiers_is_left_out_of_the_comparison():
    mlp = Architecture.mlp([5, 7, 3])
    population = WeightPopulation(random_weights(mlp), architecture=mlp, task="classification")
    aligner = PermutationAligner(random_state=0).fit(population)
    assert aligner.logit_shift_
    output = aligner.reference_[mlp.names[-2]]
    torch.testing.assert_close(output.mean(0), torch.zeros(7).double(), atol=1e-14, rtol=0)
    assert not PermutationAligner(mlp).fit(population.weights).logit_shift_


def test_dead_neurons_are_aligned_without_change_or_warning():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp)
    weights[2, :5] = 0
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
    X = torch.ones(1, 5).double()
    torch.testing.assert_close(mlp.apply(aligned, X), mlp.apply(weights, X))


def test_identical_and_single_networks():
    mlp = Architecture.mlp([5, 7, 6, 3])
    one = random_weights(mlp, 1)
    for weights in (one, one.repeat(5, 1)):
        aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
        assert torch.equal(aligned, weights)


def test_gradients_pass_through_transform():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp).requires_grad_()
    aligned = PermutationAligner(mlp, random_state=0).fit_transform(weights)
    (gradient,) = torch.autograd.grad(aligned.sum(), weights)
    assert torch.equal(gradient, torch.ones_like(weights))


def test_it_clones_and_pickles():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp)
    aligner = clone(PermutationAligner(mlp, random_state=0)).fit(weights)
    copy = pickle.loads(pickle.dumps(aligner))
    assert torch.equal(copy.transform(weights), aligner.transform(weights))


def test_it_must_be_fitted_first():
    mlp = Architecture.mlp([5, 7, 3])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        PermutationAligner(mlp).transform(random_weights(mlp))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"method": "activation"},
            r"method must be one of \['weight_matching', .*\], got 'activation'",
        ),
        ({"reference": "mean"}, r"reference must be one of \['barycentre', 'medoid'\], got 'mean'"),
        ({"reference": torch.zeros(4)}, r"reference must have shape \(66,\), got \(4,\)"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
        ({"max_reference_networks": 2.5}, "max_reference_networks must be an integer"),
        ({"tol": -1}, "tol must be finite and >= 0"),
        ({"random_state": "x"}, "random_state must be a non-negative integer"),
        ({"logit_shift": 1}, "logit_shift must be 'auto', True or False, got 1"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    mlp = Architecture.mlp([5, 7, 3])
    with pytest.raises(ValueError, match=message):
        PermutationAligner(mlp, **parameters).fit(random_weights(mlp))


def test_other_architectures_are_refused():
    convolution = Architecture(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()))
    with pytest.raises(ValueError, match=r"found by running it; pass inputs=X\[:2\]"):
        PermutationAligner(convolution).fit(torch.zeros(2, convolution.n_weights))
    fitted = PermutationAligner(Architecture.mlp([5, 3]), random_state=0).fit(torch.zeros(2, 18))
    other = WeightPopulation(torch.zeros(2, 26), architecture=Architecture.mlp([3, 4, 2]))
    with pytest.raises(ValueError, match="must be networks of"):
        fitted.transform(other)
