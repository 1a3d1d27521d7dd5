"""Normal laws in R^20 learned from 5,000 samples, with the defaults.

    python examples/benchmarks/normal_target.py [--n-densities 400]

Three laws: standard, with a mean and a width for every coordinate, and with correlated coordinates.
For each the mean of |log q - log p| over new samples (nats), that of the Gaussian of maximum
likelihood on the same samples, and the accuracy of a classifier between samples of the flow and of
the law, which is .5 by chance.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from bayesflow_nn import FlowPosterior

DIMENSION, N_SAMPLES = 20, 5000


def make_laws() -> dict[str, multivariate_normal]:
    """The three laws."""
    rng = np.random.default_rng(0)
    mean, width = 3 * rng.normal(size=DIMENSION), np.exp(rng.normal(size=DIMENSION))
    mixing = rng.normal(size=(DIMENSION, DIMENSION))
    return {
        "standard": multivariate_normal(np.zeros(DIMENSION)),
        "independent": multivariate_normal(mean, np.diag(width**2)),
        "correlated": multivariate_normal(mean, mixing @ mixing.T),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-densities", type=int, default=400)
    options = parser.parse_args()
    print(f"{'law':14s}{'flow':>8s}{'likelihood':>12s}{'classifier':>12s}")
    for name, law in make_laws().items():
        x = law.rvs(N_SAMPLES, random_state=1)
        new = law.rvs(options.n_densities, random_state=2)
        posterior = FlowPosterior(geometry="euclidean", random_state=0).fit(x)
        likely = multivariate_normal(x.mean(0), np.cov(x.T))
        errors = [
            np.abs(log_density - law.logpdf(new)).mean()
            for log_density in (posterior.log_prob(new), likely.logpdf(new))
        ]
        both = np.vstack([posterior.sample(2000, random_state=0), law.rvs(2000, random_state=3)])
        classifier = HistGradientBoostingClassifier(random_state=0)
        accuracy = cross_val_score(classifier, both, np.repeat([0, 1], 2000), cv=5).mean()
        print(f"{name:14s}{errors[0]:8.3f}{errors[1]:12.3f}{accuracy:12.3f}", flush=True)


if __name__ == "__main__":
    main()
