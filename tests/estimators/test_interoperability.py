"""Estimators among the tools of scikit-learn: frames, searches, stacks, workers and files."""

import io
import pickle

import joblib
import numpy as np
import pytest
from fast_estimators import ENSEMBLE, FAST
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import StackingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from bayesflow_nn import FlowBNNClassifier, FlowBNNRegressor


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def classifier(iris):
    return FlowBNNClassifier(**FAST).fit(*iris)


@pytest.mark.parametrize(
    "model",
    [FlowBNNClassifier(**FAST), FlowBNNRegressor(**FAST | ENSEMBLE)],
    ids=["classes", "targets"],
)
def test_sparse_inputs_are_refused(iris, model):
    X, y = csr_array(iris[0]), iris[1]
    with pytest.raises(TypeError, match="Sparse data was passed.*dense data is required"):
        model.fit(X, y)
    with pytest.raises(TypeError, match="Sparse data was passed.*dense data is required"):
        model.fit(*iris).predict(X)


def test_frames_lend_their_names(classifier, iris):
    pandas = pytest.importorskip("pandas")
    X, y = iris
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    model = FlowBNNClassifier(**FAST).fit(frame, pandas.Series(y))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(model.predict_proba(frame), classifier.predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c", "d"]])


@pytest.mark.parametrize(
    "model",
    [FlowBNNClassifier(**FAST), FlowBNNRegressor(**FAST | ENSEMBLE)],
    ids=["classes", "targets"],
)
def test_output_of_transformers_may_be_set_to_frames(iris, model):
    pytest.importorskip("pandas")
    expected = clone(model).fit(*iris).predict(iris[0])
    with config_context(transform_output="pandas"):
        found = clone(model).fit(*iris).predict(iris[0])
    np.testing.assert_array_equal(found, expected)


def test_columns_of_a_frame_are_transformed_on_the_way():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"size": rng.normal(size=200), "kind": rng.choice(["x", "y"], 200)})
    y = np.where(frame["kind"] == "x", frame["size"], -frame["size"]) > 0
    columns = ColumnTransformer(
        [("kind", OneHotEncoder(), ["kind"])], remainder="passthrough", sparse_threshold=0
    )
    model = make_pipeline(columns, FlowBNNClassifier(**FAST | {"max_iter": 100}))
    assert model.fit(frame, y).score(frame, y) > 0.9


def test_files_give_the_same_predictions(classifier, iris):
    expected = classifier.predict_proba(iris[0])
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    for loaded in (pickle.loads(pickle.dumps(classifier)), joblib.load(file)):
        np.testing.assert_array_equal(loaded.predict_proba(iris[0]), expected)
        # What is drawn and what is updated later is the same as well.
        np.testing.assert_array_equal(
            loaded.posterior_.sample(3, random_state=1),
            classifier.posterior_.sample(3, random_state=1),
        )


def test_the_feature_that_decides_is_the_important_one():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    model = FlowBNNRegressor(**FAST | ENSEMBLE).fit(X, X[:, 1])
    importance = permutation_importance(model, X, X[:, 1], n_repeats=2, random_state=0)
    assert importance.importances_mean.argmax() == 1


def test_it_is_stacked(iris):
    stack = StackingClassifier(
        [("flow", FlowBNNClassifier(**FAST)), ("line", LogisticRegression(max_iter=500))], cv=2
    )
    assert stack.fit(*iris).score(*iris) > 0.9


def test_a_search_sets_parameters_of_the_posterior(iris):
    grid = {"posterior__geometry": ["euclidean", "normalized"]}
    search = GridSearchCV(FlowBNNClassifier(**FAST), grid, cv=2).fit(*iris)
    geometry = search.best_params_["posterior__geometry"]
    assert search.best_estimator_.posterior_.geometry == geometry
    assert FAST["posterior"].geometry == "euclidean"  # clones were changed


def thread_count(model, X, y):
    """A score that tells how many threads the worker's kernels may take."""
    import torch

    assert model.score(X, y) > 0.5
    return torch.get_num_threads()


def test_workers_give_the_same_scores_and_share_the_cores(iris):
    model = FlowBNNClassifier(**FAST)
    alone = cross_val_score(model, *iris, cv=2)
    np.testing.assert_array_equal(cross_val_score(model, *iris, cv=2, n_jobs=2), alone)
    counts = cross_val_score(model, *iris, cv=2, n_jobs=2, scoring=thread_count)
    # joblib tells its processes, before they import torch, to share the cores.
    assert counts.sum() <= max(2, joblib.cpu_count())
