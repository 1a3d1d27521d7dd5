"""Arrays, tensors and populations in, the same type out; bad weights are refused."""

import numpy as np
import pytest
import torch

from bayesflow_nn.symmetry import PermutationAligner, ScaleCanonicalizer
from bayesflow_nn.weights import Architecture, WeightPopulation

MLP = Architecture.mlp([3, 4, 2])
WEIGHTS = torch.randn(6, MLP.n_weights, generator=torch.Generator().manual_seed(0))

TRANSFORMERS = pytest.mark.parametrize(
    "transformer",
    [PermutationAligner(MLP, random_state=0), ScaleCanonicalizer(MLP)],
    ids=lambda transformer: type(transformer).__name__,
)


@TRANSFORMERS
def test_the_type_that_comes_in_goes_out(transformer):
    expected = transformer.fit(WEIGHTS).transform(WEIGHTS)
    assert isinstance(expected, torch.Tensor)
    array = transformer.transform(WEIGHTS.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, expected.numpy())
    assert isinstance(transformer.transform(WEIGHTS.tolist()), np.ndarray)


@TRANSFORMERS
def test_populations_keep_their_labels(transformer):
    labels = {"chain": torch.tensor([0, 0, 1, 1, 2, 2]), "draw": torch.arange(6)}
    population = WeightPopulation(WEIGHTS, architecture=MLP, task="regression", **labels)
    result = transformer.fit_transform(population)
    assert isinstance(result, WeightPopulation)
    assert torch.equal(result.chain, labels["chain"])
    assert torch.equal(result.draw, labels["draw"])
    assert result.task == "regression"
    assert torch.equal(result.weights, transformer.transform(WEIGHTS))


@TRANSFORMERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept_and_the_input_left_alone(transformer, dtype):
    weights = WEIGHTS.to(dtype)
    before = weights.clone()
    assert transformer.fit_transform(weights).dtype == dtype
    assert torch.equal(weights, before)


@TRANSFORMERS
def test_read_only_arrays_and_integers_are_accepted(transformer):
    array = np.ones((3, MLP.n_weights))
    array.setflags(write=False)
    assert transformer.fit_transform(array).dtype == np.float64
    assert transformer.fit_transform(np.ones((3, MLP.n_weights), dtype=int)).dtype == np.float32


@TRANSFORMERS
@pytest.mark.parametrize("shape", [(0, 26), (5, 25), (26,), (2, 3, 26)])
def test_wrong_shapes_are_refused(transformer, shape):
    with pytest.raises(ValueError, match=r"weights must have shape \(n_networks, 26\)"):
        transformer.fit(torch.zeros(shape))


@TRANSFORMERS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_networks_that_are_not_finite_are_named(transformer, value):
    weights = WEIGHTS.clone()
    weights[[1, 4], 3] = value
    with pytest.raises(ValueError, match="networks 1, 4 are not finite"):
        transformer.fit(weights)


@pytest.mark.parametrize("transformer", [PermutationAligner, ScaleCanonicalizer])
def test_the_architecture_must_be_known(transformer):
    with pytest.raises(ValueError, match="architecture must be given when weights are a plain"):
        transformer().fit(WEIGHTS)
    with pytest.raises(TypeError, match="architecture must be an Architecture, got list"):
        transformer([3, 4, 2]).fit(WEIGHTS)


@TRANSFORMERS
def test_mixed_architectures_are_refused(transformer):
    other = Architecture.mlp([3, 4, 2], activation="leaky_relu")
    population = WeightPopulation(WEIGHTS, architecture=other)
    with pytest.raises(ValueError, match="must be networks of .*'relu'.* got a population of"):
        transformer.fit(population)
