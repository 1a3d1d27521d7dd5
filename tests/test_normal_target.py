"""A normal law in R^20 learned from 5,000 samples, with the defaults."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from bayesflow_nn import FlowPosterior

LAW = multivariate_normal(np.zeros(20))


@pytest.fixture(scope="module")
def posterior():
    x = LAW.rvs(5000, random_state=0)
    return FlowPosterior(geometry="euclidean", random_state=0).fit(x)


def test_densities_are_within_a_seventh_of_a_nat(posterior):
    """The Gaussian of maximum likelihood errs by .16 on the same samples."""
    new = LAW.rvs(60, random_state=1)
    # Sixty rows know the mean, .06, to about .01.
    assert np.abs(posterior.log_prob(new) - LAW.logpdf(new)).mean() < 0.15


def test_no_classifier_tells_samples_from_the_law(posterior):
    x = np.vstack([posterior.sample(2000, random_state=0), LAW.rvs(2000, random_state=2)])
    y = np.repeat([0, 1], 2000)
    accuracy = cross_val_score(HistGradientBoostingClassifier(random_state=0), x, y, cv=5).mean()
    assert accuracy < 0.55  # chance has a standard error of .008
