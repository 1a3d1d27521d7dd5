"""Transformers of weights in pipelines and among frames."""

import functools

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from torch import nn

from bayesflow_nn import FlowPosterior
from bayesflow_nn.symmetry import PermutationAligner, ScaleCanonicalizer
from bayesflow_nn.symmetry.module_scaling import ModuleScaleCanonicalizer
from bayesflow_nn.velocity import MLPVelocity
from bayesflow_nn.weights import Architecture, WeightPopulation

MLP = Architecture.mlp([3, 4, 2])
CNN = Architecture(
    nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2)),
    example_input=torch.linspace(-1, 1, 10).reshape(2, 1, 5),
)
WEIGHTS = torch.randn(40, MLP.n_weights, generator=torch.Generator().manual_seed(0))
POPULATION = WeightPopulation(WEIGHTS, architecture=MLP, task="classification")
TINY = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
FLOW = {"velocity": TINY, "max_iter": 2, "n_steps": 2, "random_state": 0}

TRANSFORMERS = {
    "aligner": PermutationAligner(MLP, random_state=0),
    "canonicalizer": ScaleCanonicalizer(MLP),
    "module canonicalizer": ModuleScaleCanonicalizer(MLP),
}


@pytest.fixture(params=TRANSFORMERS.values(), ids=TRANSFORMERS)
def transformer(request):
    return clone(request.param)


@pytest.fixture(scope="module")
def frame():
    pandas = pytest.importorskip("pandas")
    rows = [f"network {i}" for i in range(len(WEIGHTS))]
    return pandas.DataFrame(WEIGHTS.numpy(), index=rows).add_prefix("w")


def make_steps():
    flow = FlowPosterior(**FLOW, architecture=MLP, alignment=None)
    return make_pipeline(PermutationAligner(MLP, random_state=0), ScaleCanonicalizer(MLP), flow)


# Frames


def test_frames_lend_their_names_and_come_out_as_frames_if_asked(transformer, frame):
    expected = clone(transformer).fit_transform(WEIGHTS).numpy()
    assert isinstance(transformer.fit_transform(frame), np.ndarray)
    assert [*transformer.get_feature_names_out()] == [*frame.columns]
    result = transformer.set_output(transform="pandas").fit_transform(frame)
    assert [*result.columns] == [*frame.columns]
    assert [*result.index] == [*frame.index]
    np.testing.assert_array_equal(result, expected)
    assert [*transformer.fit_transform(WEIGHTS.numpy()).columns] == [f"x{i}" for i in range(26)]
    with pytest.raises(ValueError, match="feature names should match"):
        transformer.fit(frame).transform(frame[frame.columns[::-1]])


def test_tensors_and_populations_stay_what_they_are(transformer):
    pytest.importorskip("pandas")
    expected = clone(transformer).fit_transform(WEIGHTS)
    weights = WEIGHTS.clone().requires_grad_()
    with config_context(transform_output="pandas"):
        results = [clone(transformer).fit_transform(weights)]
    transformer.set_output(transform="pandas").fit(WEIGHTS)
    results += [transformer.transform(weights), transformer.fit_transform(weights)]
    for result in results:
        assert isinstance(result, torch.Tensor)
        assert result.requires_grad
        assert torch.equal(result, expected)
    population = transformer.fit_transform(POPULATION)
    assert isinstance(population, WeightPopulation)
    assert population.architecture == MLP


@pytest.mark.parametrize("kind", [PermutationAligner, ScaleCanonicalizer])
def test_frames_of_other_modules_keep_their_rows(kind):
    pandas = pytest.importorskip("pandas")
    weights = np.random.default_rng(0).normal(size=(4, CNN.n_weights))
    frame = pandas.DataFrame(weights, index=list("abcd")).add_prefix("w")
    with config_context(transform_output="pandas"):
        result = kind(CNN).fit_transform(frame)
    assert [*result.index] == list("abcd")
    assert [*result.columns] == [*frame.columns]


def test_scales_need_no_fit_unless_names_are_asked_for(frame):
    canonicalizer = ScaleCanonicalizer(MLP)
    expected = ScaleCanonicalizer(MLP).fit_transform(WEIGHTS)
    np.testing.assert_array_equal(canonicalizer.transform(frame), expected)
    assert not hasattr(canonicalizer, "n_features_in_")
    with pytest.raises(NotFittedError, match="not fitted yet"):
        canonicalizer.set_output(transform="pandas").transform(frame)


# What comes in


def test_weights_may_be_passed_by_name(transformer):
    expected = clone(transformer).fit_transform(WEIGHTS)
    assert torch.equal(transformer.fit_transform(weights=WEIGHTS), expected)
    assert torch.equal(transformer.transform(weights=WEIGHTS), expected)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (csr_array(WEIGHTS.numpy()), TypeError, r"Sparse data was passed.*Use '.toarray\(\)'"),
        (WEIGHTS.to_sparse(), TypeError, r"weights must be dense, got torch.sparse_coo; pass"),
        (WEIGHTS.numpy() + 1j, ValueError, "Complex data not supported"),
        (WEIGHTS + 1j, TypeError, r"weights must be real, got torch.complex64; pass weights.real"),
        (WEIGHTS[0].numpy(), ValueError, "Expected 2D array, got 1D array instead"),
        (WEIGHTS[0], ValueError, r"weights must have shape \(n_networks, 26\).*got \(26,\)"),
        (WEIGHTS[:, 1:].numpy(), ValueError, r"weights must have shape \(n_networks, 26\).*25"),
        (WEIGHTS.numpy().astype(str), ValueError, "'numeric' is not compatible with .*strings"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_array_of_networks_is_refused(transformer, weights, error, message):
    with pytest.raises(error, match=message):
        transformer.fit(weights)


def test_other_weights_than_those_of_fit_are_refused(transformer):
    transformer.fit(WEIGHTS)
    with pytest.raises(ValueError, match=r"X has 25 features, but \w+ is expecting 26 features"):
        transformer.transform(WEIGHTS[:, 1:].numpy())
    with pytest.raises(ValueError, match=r"weights must have shape \(n_networks, 26\)"):
        transformer.transform(WEIGHTS[:, 1:])
    other = Architecture.mlp([3, 4, 2], activation="leaky_relu")
    with pytest.raises(ValueError, match=r"must be networks of .*fit anew"):
        transformer.transform(WeightPopulation(WEIGHTS, architecture=other))


def test_a_fit_to_a_population_serves_arrays(transformer):
    """Its architecture, and that its classes have a softmax, are known from then on."""
    transformer.set_params(architecture=None)
    expected = transformer.fit_transform(POPULATION).weights
    assert torch.equal(transformer.transform(WEIGHTS), expected)
    np.testing.assert_array_equal(transformer.transform(WEIGHTS.numpy()), expected)
    if isinstance(transformer, ScaleCanonicalizer):
        output = expected[:, MLP.layers[-1].weight].reshape(-1, 2, 4)
        assert output.mean(1).abs().max() < 1e-6  # float32 of order 1


def test_after_a_fit_that_failed_nothing_is_transformed():
    aligner = PermutationAligner(MLP, logit_shift="yes")
    canonicalizer = ScaleCanonicalizer(MLP, logit_shift="yes")
    for failing in (aligner, canonicalizer):
        with pytest.raises(ValueError, match="logit_shift must be"):
            failing.fit(WEIGHTS)
    with pytest.raises(NotFittedError):
        aligner.transform(WEIGHTS)
    with pytest.raises(ValueError, match="logit_shift must be"):
        canonicalizer.transform(WEIGHTS)


# Pipelines


def test_populations_pass_through_a_pipeline():
    """The flow sees what the steps give, and still knows the task."""
    pipeline = make_steps().fit(POPULATION)
    aligned = PermutationAligner(random_state=0).fit_transform(POPULATION)
    canonical = ScaleCanonicalizer().fit_transform(aligned)
    posterior = FlowPosterior(**FLOW, alignment=None).fit(canonical)
    assert pipeline[-1].task_ == "classification"
    np.testing.assert_array_equal(
        pipeline[-1].sample(3, random_state=0), posterior.sample(3, random_state=0)
    )
    np.testing.assert_array_equal(pipeline.score_samples(POPULATION), posterior.log_prob(canonical))


def test_a_pipeline_gives_equal_functions_the_same_density():
    """In flat space, where the flow itself removes neither order nor scale."""
    weights = WEIGHTS.double()
    pipeline = make_steps().set_params(flowposterior__geometry="euclidean").fit(weights)
    order, scale = [2, 0, 3, 1], torch.tensor([0.5, 2.0, 3.0, 0.1]).double()
    first, bias, last, shift = MLP.unflatten(weights).values()
    rescaled = first[:, order] * scale[:, None], bias[:, order] * scale, last[..., order] / scale
    other = MLP.flatten(dict(zip(MLP.names, [*rescaled, shift], strict=True)))
    expected = pipeline.score_samples(weights)
    np.testing.assert_allclose(pipeline.score_samples(other), expected, rtol=1e-9)
    assert np.abs(pipeline[-1].log_prob(other) - pipeline[-1].log_prob(weights)).min() > 1e-3


def test_frames_pass_through_a_pipeline(frame):
    pipeline = make_steps()
    expected = clone(pipeline).fit(frame.to_numpy()).score_samples(frame.to_numpy())
    pipeline.set_output(transform="pandas").fit(frame)
    assert [*pipeline[:-1].get_feature_names_out()] == [*frame.columns]
    assert [*pipeline[-1].feature_names_in_] == [*frame.columns]
    np.testing.assert_array_equal(pipeline.score_samples(frame), expected)
    assert np.isfinite(cross_val_score(pipeline, frame, cv=2)).all()


@pytest.mark.parametrize(
    "alignment",
    ["weight_matching", PermutationAligner(MLP, random_state=0).set_output(transform="pandas")],
    ids=["name", "object"],
)
def test_a_posterior_aligns_whatever_the_output_is_set_to(alignment):
    pytest.importorskip("pandas")
    posterior = FlowPosterior(**FLOW, alignment=alignment)
    expected = clone(posterior).fit(POPULATION).sample(2, random_state=0)
    with config_context(transform_output="pandas"):
        found = posterior.fit(POPULATION).sample(2, random_state=0)
    np.testing.assert_array_equal(found, expected)
