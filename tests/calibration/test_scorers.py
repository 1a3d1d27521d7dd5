"""Calibration errors as scikit-learn scorers, against a loop over folds."""

import functools
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, cross_validate
from sklearn.svm import LinearSVC

from bayesflow_nn.calibration import (
    ProbabilityScorer,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    neg_classwise_calibration_error_scorer,
    neg_expected_calibration_error_scorer,
)


@pytest.fixture(params=[2, 3])
def named_iris(request):
    """Iris with names for labels, of two or three species."""
    X, y = load_iris(return_X_y=True)
    keep = y < 2 if request.param == 2 else y >= 0
    rng = np.random.default_rng(0)
    return X[keep] + rng.normal(scale=2, size=X[keep].shape), load_iris().target_names[y[keep]]


def scores_of_a_loop(score, X, names, cv):
    classes, scores = np.unique(names), []
    for train, test in cv.split(X, names):
        model = LogisticRegression().fit(X[train], names[train])
        indices = (names[test][:, None] == classes).argmax(1)
        scores.append(-score(model.predict_proba(X[test]), indices))
    return scores


@pytest.mark.parametrize(
    ("scorer", "score"),
    [
        (neg_expected_calibration_error_scorer, expected_calibration_error),
        (neg_classwise_calibration_error_scorer, classwise_calibration_error),
        (ProbabilityScorer(brier_score), brier_score),
    ],
)
@pytest.mark.parametrize("dtype", [str, object])
def test_scorers_work_with_cross_val_score(named_iris, scorer, score, dtype):
    X, names = named_iris
    cv = StratifiedKFold(5)
    scores = cross_val_score(LogisticRegression(), X, names.astype(dtype), scoring=scorer, cv=cv)
    np.testing.assert_allclose(scores, scores_of_a_loop(score, X, names, cv), rtol=1e-12)


def test_scorers_work_with_grid_search_with_several_scores_and_in_other_processes(named_iris):
    X, names = named_iris
    ten_bins = ProbabilityScorer(functools.partial(expected_calibration_error, n_bins=10))
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, scoring=ten_bins, cv=3)
    assert search.fit(X, names).best_score_ < 0
    several = {"ece": neg_expected_calibration_error_scorer, "nll": "neg_log_loss"}
    scores = cross_validate(LogisticRegression(), X, names, scoring=several, cv=3)
    assert scores["test_ece"].shape == scores["test_nll"].shape == (3,)
    copy = pickle.loads(pickle.dumps(ten_bins))
    assert copy(search, X, names) == ten_bins(search, X, names)


def test_a_scorer_knows_the_columns_where_a_fold_lacks_a_class(named_iris):
    X, names = named_iris
    model = LogisticRegression().fit(X, names)
    last = names == model.classes_[-1]
    column = np.full(last.sum(), len(model.classes_) - 1)
    expected = -expected_calibration_error(model.predict_proba(X[last]), column)
    assert neg_expected_calibration_error_scorer(model, X[last], names[last]) == expected


def test_classes_may_stand_in_any_order(named_iris):
    X, names = named_iris
    model = LogisticRegression().fit(X, names)
    expected = neg_classwise_calibration_error_scorer(model, X, names)

    class Reversed:
        classes_ = model.classes_[::-1]

        def predict_proba(self, X):
            return model.predict_proba(X)[:, ::-1]

    score = neg_classwise_calibration_error_scorer(Reversed(), X, names)
    assert score == pytest.approx(expected, rel=1e-12)


def test_a_scorer_names_unknown_labels_and_estimators_without_probabilities(named_iris):
    X, names = named_iris
    scorer, model = neg_expected_calibration_error_scorer, LogisticRegression().fit(X, names)
    with pytest.raises(ValueError, match="y must hold labels of the estimator.*got .'a', 'zinnia'"):
        scorer(model, X[:3], ["zinnia", names[0], "a"])
    with pytest.raises(TypeError, match="estimator must be .* with predict_proba.*got LinearSVC"):
        scorer(LinearSVC().fit(X, names), X, names)
