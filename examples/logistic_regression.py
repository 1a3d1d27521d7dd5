"""A posterior corrected to the truth: Bayesian logistic regression, against quadrature.

A logistic regression is a network without hidden layer. Networks come from unadjusted Langevin
chains with steps so long that they spread too far; a flow learns from them, and importance weights
correct it to the posterior under the prior N(0, 1) on all weights. Posterior mean and evidence are
compared with adaptive Gauss-Hermite quadrature, centred on the mode and scaled by the curvature
there; its evidence is printed beside that of the Laplace approximation.

    python examples/logistic_regression.py [--n-samples 2000]
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.preprocessing import StandardScaler

from bayesflow_nn import Architecture, FlowPosterior
from bayesflow_nn.velocity import MLPVelocity

PRIOR_VARIANCE = 2.0  # of a slope, the difference of two standard normal weights
N_CHAINS, N_STEPS, STEP = 4000, 200, 0.9  # Langevin; the step in units of the smallest variance
N_NODES = 20  # of the quadrature, along each axis


class Problem(NamedTuple):
    """Inputs with a column of ones ``(n, n_slopes)``, and labels 0 and 1."""

    name: str
    design: np.ndarray
    y: np.ndarray

    def log_joint(self, slopes: np.ndarray) -> np.ndarray:
        """Log of prior times likelihood ``(n,)`` of slopes ``(n, n_slopes)``."""
        signs = 2 * self.y - 1
        likelihood = log_expit(slopes @ (self.design * signs[:, None]).T).sum(-1)
        normalizer = 0.5 * slopes.shape[-1] * math.log(2 * math.pi * PRIOR_VARIANCE)
        return likelihood - 0.5 * np.square(slopes).sum(-1) / PRIOR_VARIANCE - normalizer

    def gradient(self, slopes: np.ndarray) -> np.ndarray:
        """Gradient of `log_joint`, ``(n, n_slopes)``."""
        return (self.y - expit(slopes @ self.design.T)) @ self.design - slopes / PRIOR_VARIANCE

    def mode(self) -> tuple[np.ndarray, np.ndarray]:
        """Mode, and the inverse of the curvature there."""
        start = np.zeros(self.design.shape[1])
        found = minimize(
            lambda s: -self.log_joint(s[None])[0], start, jac=lambda s: -self.gradient(s[None])[0]
        ).x
        p = expit(self.design @ found)
        curvature = (self.design * (p * (1 - p))[:, None]).T @ self.design
        return found, np.linalg.inv(curvature + np.eye(len(found)) / PRIOR_VARIANCE)


def problems() -> list[Problem]:
    """Two or three standardised features of two data sets."""
    cancer, iris = load_breast_cancer(return_X_y=True), load_iris(return_X_y=True)
    two_species = iris[1] > 0
    chosen = {
        "iris, 2 features": (iris[0][two_species][:, :2], iris[1][two_species] - 1),
        "breast cancer, 2 features": (cancer[0][:, :2], cancer[1]),
        "breast cancer, 3 features": (cancer[0][:, [0, 1, 4]], cancer[1]),
    }
    return [
        Problem(name, np.hstack([StandardScaler().fit_transform(X), np.ones((len(X), 1))]), y)
        for name, (X, y) in chosen.items()
    ]


def quadrature(problem: Problem) -> tuple[np.ndarray, float, float]:
    """Posterior mean and log evidence, and the log evidence of Laplace."""
    mode, covariance = problem.mode()
    root, dim = np.linalg.cholesky(covariance), len(mode)
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
    z = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), -1).reshape(-1, dim)
    log_w = sum(np.meshgrid(*[np.log(weights)] * dim, indexing="ij")).ravel()
    slopes = mode + z @ root.T
    log_values = log_w + 0.5 * np.square(z).sum(1) + problem.log_joint(slopes)
    log_volume = np.log(np.diag(root)).sum()
    log_evidence = logsumexp(log_values) + log_volume
    mean = np.exp(log_values - logsumexp(log_values)) @ slopes
    laplace = problem.log_joint(mode[None])[0] + 0.5 * dim * math.log(2 * math.pi) + log_volume
    return mean, log_evidence, laplace


def rough_networks(problem: Problem) -> np.ndarray:
    """Weights of two-output networks from Langevin chains with long steps."""
    rng = np.random.default_rng(0)
    mode, covariance = problem.mode()
    step = STEP * np.linalg.eigvalsh(covariance)[0]
    slopes = np.tile(mode, (N_CHAINS, 1))
    for _ in range(N_STEPS):
        noise = rng.normal(size=slopes.shape)
        slopes += step * problem.gradient(slopes) + math.sqrt(2 * step) * noise
    matrix, bias = slopes[:, :-1], slopes[:, -1:]
    return np.hstack([-matrix, matrix, -bias, bias]) / 2


def slopes_of(networks: np.ndarray) -> np.ndarray:
    """Differences of the two outputs."""
    n_inputs = networks.shape[1] // 2 - 1
    matrix, bias = np.split(networks, [2 * n_inputs], axis=1)
    matrix = matrix[:, n_inputs:] - matrix[:, :n_inputs]
    return np.hstack([matrix, bias[:, 1:] - bias[:, :1]])


def run(problem: Problem, geometry: str, n_samples: int) -> None:
    """Fit, correct and print."""
    posterior = FlowPosterior(
        architecture=Architecture.mlp([problem.design.shape[1] - 1, 2]),
        task="classification",
        geometry=geometry,
        velocity=functools.partial(MLPVelocity, hidden_size=64, n_blocks=2),
        random_state=0,
    ).fit(rough_networks(problem))
    importance = posterior.importance_weights(
        problem.design[:, :-1], problem.y, n_samples=n_samples, random_state=0
    )
    mean, log_evidence, laplace = quadrature(problem)
    corrected, error = importance.average(slopes_of(importance.networks))
    plain = slopes_of(importance.networks).mean(0)
    print(f"\n{problem.name}, {geometry}\n{importance}")
    bound = importance.log_ratios.mean()
    print(
        f"log evidence by quadrature {log_evidence:.3f}, by Laplace {laplace:.3f} nats; the flow "
        f"uncorrected gives the bound {bound:.3f}"
    )
    print(f"{'posterior mean of':>20s}{'quadrature':>12s}{'flow':>10s}{'corrected':>12s}{'+-':>9s}")
    for j, row in enumerate(zip(mean, plain, corrected, error, strict=True)):
        name = f"slope {j}" if j < len(mean) - 1 else "intercept"
        print(f"{name:>20s}{row[0]:12.4f}{row[1]:10.4f}{row[2]:12.4f}{row[3]:9.4f}")
    worst = np.abs((corrected - mean) / error).max()
    evidence = abs(importance.log_evidence - log_evidence) / importance.log_evidence_std
    print(f"standard errors away: mean at most {worst:.1f}, evidence {evidence:.1f}", flush=True)


def main() -> None:
    """Both geometries on all problems."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-samples", type=int, default=2000)
    options = parser.parse_args()
    for problem in problems():
        for geometry in ("product_sphere", "euclidean"):
            run(problem, geometry, options.n_samples)


if __name__ == "__main__":
    main()
