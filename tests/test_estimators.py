"""FlowBNNClassifier and FlowBNNRegressor as scikit-learn sees them, and against their own parts."""

import numpy as np
import pytest
import torch
from fast_estimators import CHAINS, ENSEMBLE, FAST
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import norm
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from bayesflow_nn import FlowBNNClassifier, FlowBNNRegressor
from bayesflow_nn.weights import HeteroscedasticNormal

CHECKED = {
    # Chains without a flow, as by default.
    "classifier": FlowBNNClassifier(**FAST | CHAINS | {"posterior": None}),
    "regressor": FlowBNNRegressor(**FAST | CHAINS | {"posterior": None}),
    "classifying ensemble": FlowBNNClassifier(**FAST),
    "regressing ensemble": FlowBNNRegressor(**FAST | ENSEMBLE),
}
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "repeated rows make other minibatches, and another choice of held-out rows, than weights do"
    )
}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def classifier(iris):
    return FlowBNNClassifier(**FAST).fit(*iris)


@pytest.fixture(scope="module")
def line():
    """Noise of deviation 5 about a line in large units, over one input."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    return X, 1000 + 20 * X[:, 0] + 5 * rng.normal(size=400)


@parametrize_with_checks(
    [*CHECKED.values()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CHECKED.values(), ids=CHECKED)
def test_the_contract_is_that_of_scikit_learn_in_full(estimator):
    listed = [
        getattr(check, "func", check).__name__ for _, check in estimator_checks_generator(estimator)
    ]
    (mark,) = (m for m in test_scikit_learn_contract.pytestmark if m.name == "parametrize")
    ran = [
        getattr(case.values[1], "func", case.values[1]).__name__
        if hasattr(case, "values")
        else getattr(case[1], "func", case[1]).__name__
        for case in mark.args[1]
        if (case.values if hasattr(case, "values") else case)[0] is estimator
    ]
    assert sorted(ran) == sorted(listed)
    assert len(ran) >= 50
    assert set(EXPECTED_FAILURES) < set(ran)


def test_probabilities_are_those_of_the_networks_on_scaled_inputs(classifier, iris):
    X = StandardScaler().fit(iris[0]).transform(iris[0]).astype(np.float32)
    networks = classifier.population_.replace(
        classifier.population_.weights.new_tensor(classifier.networks_).repeat(2, 1)
    )
    proba = networks.apply(classifier.population_.inputs.new_tensor(X)).softmax(-1).mean(0)
    np.testing.assert_allclose(classifier.predict_proba(iris[0]), proba, atol=1e-6)
    assert np.array_equal(classifier.networks_, classifier.posterior_.sample(12, random_state=0))
    assert set(classifier.fit_times_) == {"train", "flow", "sample"}


def test_uncertainty_is_the_entropy_of_the_prediction(classifier, iris):
    p = classifier.predict_proba(iris[0]).astype(float)
    total, aleatoric, epistemic = classifier.uncertainty(iris[0])
    np.testing.assert_allclose(total, -(p * np.log(p)).sum(1), atol=1e-5)
    np.testing.assert_allclose(total, aleatoric + epistemic, atol=1e-6)


def test_labels_of_any_kind_come_back(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = FlowBNNClassifier(**FAST).fit(X, names)
    assert set(model.predict(X)) == set(names)
    assert (model.predict(X) == names).mean() > 0.9


def test_it_works_in_pipelines_and_searches(iris):
    pipeline = make_pipeline(PolynomialFeatures(2), FlowBNNClassifier(**FAST))
    assert cross_val_score(pipeline, *iris, cv=3).mean() > 0.9
    grid = {"posterior__n_steps": [2, 4], "alpha": [1e-3]}
    search = GridSearchCV(FlowBNNClassifier(**FAST), grid, cv=2).fit(*iris)
    assert search.best_estimator_.posterior_.n_steps == search.best_params_["posterior__n_steps"]


def test_a_temperature_is_the_best_one_for_held_out_labels(classifier, iris):
    rng = np.random.default_rng(0)
    X, y = iris
    turned = np.where(rng.random(150) < 0.4, rng.integers(0, 3, 150), y)  # overconfident of these
    scaled = CalibratedClassifierCV(FrozenEstimator(classifier), method="temperature")
    proba = scaled.fit(X, turned).predict_proba(X)
    log_p = classifier.predict_log_proba(X)

    def loss(beta):
        return log_loss(turned, softmax(beta * log_p, axis=1))

    best = minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-8})
    assert loss(1.0) > best.fun + 0.01
    np.testing.assert_allclose(proba, softmax(best.x * log_p, axis=1), atol=1e-4)


def test_means_and_noise_are_in_the_units_of_the_targets(line):
    X, y = line
    # Networks along the flow, for which the bound on the noise below was set.
    flow = clone(FAST["posterior"]).set_params(noise=0)
    model = FlowBNNRegressor(**FAST | ENSEMBLE | {"posterior": flow}).fit(X, y)
    scaled = StandardScaler().fit(X).transform(X).astype(np.float32)
    architecture = model.population_.architecture
    f = architecture.apply(torch.from_numpy(model.networks_), torch.from_numpy(scaled))
    f = y.mean() + y.std() * f[..., 0].double().numpy()
    noise = model.likelihood_.scale * y.std()
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, f.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(f.var(0) + noise**2), rtol=1e-4)
    log_p = logsumexp(norm(f, noise).logpdf(y), axis=0) - np.log(12)
    np.testing.assert_allclose(model.log_predictive_density(X, y), log_p, atol=1e-4)
    low, high = model.predict_quantiles(X, [0.05, 0.95]).T
    np.testing.assert_allclose(norm(f, noise).cdf(low).mean(0), 0.05, atol=1e-4)
    np.testing.assert_allclose(norm(f, noise).cdf(high).mean(0), 0.95, atol=1e-4)
    draws = model.sample_y(X, 500, random_state=1)
    assert draws.shape == (500, 400)
    # 400 means of 500 draws: 6 standard errors are exceeded with a probability of 1e-6.
    assert (np.abs(draws.mean(0) - mean) < 6 * std / np.sqrt(500)).all()
    assert 4 < noise < 8  # 5, by 40 residuals of networks of little training


def test_predicted_noise_follows_the_inputs():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 1))
    y = np.where(X[:, 0] > 0, 3.0, 0.3) * rng.normal(size=600)
    model = FlowBNNRegressor(**FAST | ENSEMBLE | {"noise": "predicted"}).fit(X, y)
    assert isinstance(model.likelihood_, HeteroscedasticNormal)
    noise = model.predict_moments(np.array([[-0.7], [0.7]])).aleatoric_std[:, 0]
    assert noise[1] > 3 * noise[0]


def test_several_targets_keep_their_columns(line):
    X, y = line
    model = FlowBNNRegressor(**FAST | ENSEMBLE).fit(X, np.stack([y, -y], 1))
    mean, std = model.predict(X[:5], return_std=True)
    assert mean.shape == std.shape == (5, 2)
    assert model.predict_quantiles(X[:5]).shape == (5, 3, 2)
    assert model.sample_y(X[:5], 7).shape == (7, 5, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_networks": 1}, ValueError, "n_networks must be an integer of at least 2"),
        (
            {"hidden_layer_sizes": (8.5,)},
            ValueError,
            "sizes must be at least two positive",
        ),
        ({"alpha": -1.0}, ValueError, "alpha must be finite and >= 0"),
        ({"posterior": 3}, TypeError, "posterior must be a FlowPosterior.*got int"),
        ({"noise": "none"}, ValueError, "noise must be one of"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be .* in \(0, 1\)"),
        ({"validation_fraction": 0.999}, ValueError, "validation_fraction must leave inputs"),
    ],
)
def test_bad_parameters_are_named(line, options, error, message):
    with pytest.raises(error, match=message):
        FlowBNNRegressor(**FAST | ENSEMBLE | options).fit(*line)


def test_one_class_is_refused_and_nothing_works_before_fit(iris):
    X, y = iris
    for weight, rows in ((None, slice(50)), ((y == 0) * 1.0, slice(None))):
        with pytest.raises(ValueError, match="at least 2 classes, got one class"):
            FlowBNNClassifier(**FAST).fit(X[rows], y[rows], weight)
    with pytest.raises(NotFittedError):
        FlowBNNClassifier(**FAST).uncertainty(X)
