"""Estimators over modules of any kind: images by channel, tokens, and what does not fit."""

import pickle

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from torch import nn

from bayesflow_nn import FlowBNNClassifier, FlowBNNRegressor
from bayesflow_nn.weights import ConstantNoise


def convolutional(n_outputs):
    return nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, n_outputs))


@pytest.fixture(scope="module")
def images():
    """Two channels in different units; the first one's mean is the target, its sign the label."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=80)
    X = rng.normal(size=(80, 2, 6, 5)) * np.array([1, 100]).reshape(2, 1, 1)
    X[:, 0] += mean[:, None, None]
    return X + np.array([0, 500]).reshape(2, 1, 1), np.where(mean > 0, "bright", "dark"), mean


@pytest.fixture(scope="module")
def classifier(images):
    X, labels, _ = images
    return FlowBNNClassifier(module=convolutional(2), **FAST).fit(X, labels)


def test_images_are_scaled_by_channel_and_seen_by_every_network(classifier, images):
    X, labels, _ = images
    Z = (X - X.mean((0, 2, 3), keepdims=True)) / X.std((0, 2, 3), keepdims=True)
    Z, proba = torch.as_tensor(Z, dtype=torch.float32), []
    for weights in classifier.networks_:
        module = convolutional(2)
        nn.utils.vector_to_parameters(torch.as_tensor(weights), module.parameters())
        proba.append(module(Z).softmax(-1).detach())
    np.testing.assert_allclose(classifier.predict_proba(X), torch.stack(proba).mean(0), atol=1e-5)
    assert classifier.score(X, labels) > 0.9
    assert (classifier.n_features_in_, classifier.input_shape_) == (2, (2, 6, 5))


def test_it_clones_and_pickles_with_its_module(classifier, images):
    X = images[0]
    copy = clone(classifier)
    assert copy.module is not classifier.module
    assert repr(copy.get_params()["module"]) == repr(classifier.module)
    loaded = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


def test_the_weights_of_the_module_given_do_not_matter(images):
    X, labels, _ = images
    one, two = (
        FlowBNNClassifier(module=convolutional(2), **FAST).fit(X, labels).networks_
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("population", ["ensemble", "mcmc"])
@pytest.mark.parametrize("noise", ["constant", "predicted"])
def test_images_have_real_targets(images, population, noise):
    X, _, y = images
    options = FAST | CHAINS | {"population": population, "noise": noise, "max_iter": 60}
    module = convolutional(1 if noise == "constant" else 2)
    model = FlowBNNRegressor(module=module, **options).fit(X, y)
    mean, std = model.predict(X, return_std=True)
    assert np.corrcoef(mean, y)[0, 1] > 0.8
    assert std.shape == (80,) and (std > 0).all()
    architecture = model.population_.architecture
    has_noise_weight = isinstance(architecture.module, ConstantNoise)
    assert has_noise_weight == (population == "mcmc" and noise == "constant")


class Bag(nn.Module):
    """Mean of the embeddings of tokens."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, X):
        return self.output(self.embedding(X).mean(1))


def test_integers_reach_the_module_as_tokens():
    X = np.random.default_rng(0).integers(0, 5, (80, 7))
    y = (X == 3).sum(1) > 1
    model = FlowBNNClassifier(module=Bag(), standardize=False, **FAST | {"max_iter": 100})
    assert model.fit(X, y).score(X, y) > 0.9
    assert model.population_.inputs.dtype == torch.int64


def test_a_perceptron_as_a_module_is_trained_as_a_perceptron():
    X = np.random.default_rng(0).normal(size=(60, 4))
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = FlowBNNClassifier(module=layers, **FAST).fit(X, X[:, 0] > 0)
    assert model.population_.architecture.sizes == (4, 8, 2)
    np.testing.assert_array_equal(model.scaler_.mean_, StandardScaler().fit(X).mean_)


def test_what_does_not_fit_is_named(classifier, images):
    X, labels, y = images
    with pytest.raises(ValueError, match="X must have shape .n_inputs, 2, 6, 5., as in fit, got"):
        classifier.predict(X[:, :, :5])
    with pytest.raises(ValueError, match="X has 1 features.* expecting 2"):
        classifier.predict(X[:, :1])
    with pytest.raises(ValueError, match="module must have 2 outputs, one per class, got 3"):
        FlowBNNClassifier(module=convolutional(3), **FAST).fit(X, labels)
    with pytest.raises(ValueError, match="module must have 1 outputs, one per target, got 2"):
        FlowBNNRegressor(module=convolutional(2), **FAST | ENSEMBLE).fit(X, y)
    with pytest.raises(ValueError, match="2 outputs, means and log scales of targets, got 1"):
        FlowBNNRegressor(module=convolutional(1), **FAST | CHAINS).fit(X, y)
    with pytest.raises(TypeError, match="module must be a Module, which is copied.*got int"):
        FlowBNNClassifier(module=3, **FAST).fit(X, labels)
    with pytest.raises(ValueError, match="dim 4"):
        FlowBNNClassifier(**FAST).fit(X, labels)
