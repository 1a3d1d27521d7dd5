r"""The chains sample the posterior they claim: two tests that need no posterior in closed form.

Both rest on one identity. A parameter of the prior and data of the likelihood given it,

.. math::
    \theta \sim p(\theta), \quad y \sim p(y | \theta),

have the same joint law as these data and a parameter of their posterior :math:`p(\theta | y)`.

Simulation-based calibration (Talts et al. 2018, arXiv 1804.06788, theorem 1): among L posterior
draws :math:`\theta_l \sim p(\theta | y)`, the rank of the true parameter,
:math:`\sum_l 1[g(\theta_l) < g(\theta)]`, is uniform on 0, ..., L for every function g.

The joint test (Geweke 2004, Getting it right, JASA 99, section 3): a chain that redraws
:math:`y \sim p(y | \theta)` and moves :math:`\theta` by a transition that leaves
:math:`p(\theta | y)` invariant, in turn, keeps the joint law, and with it all moments.

Every chain has data of its own. All seeds are fixed, so the tests give one answer; a level says
how rarely other seeds would fail by chance.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    LaplacePrior,
    Likelihood,
    LogPosterior,
    Normal,
    NormalPrior,
    StudentT,
    sample_population,
)
from bayesflow_nn.weights.hmc import HMC
from bayesflow_nn.weights.mclmc import MCLMC

X = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
LEVEL = 1e-3
"""Chance of a false alarm of one test, shared by all its quantities (Bonferroni)."""


@dataclass(frozen=True)
class DataOfEachChain:
    """A likelihood whose row of outputs has targets of its own, in place of shared ones.

    `LogPosterior`, with all chains in one chunk, becomes the posteriors of as many data sets.
    """

    likelihood: Likelihood
    y: torch.Tensor  # (n_chains, n_inputs[, 1])
    n: int  # outputs of the network

    @property
    def task(self):
        return self.likelihood.task

    def n_outputs(self, n_targets):
        return self.n

    def log_prob(self, outputs, y):
        return self.likelihood.log_prob(outputs, self.y)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_mlp(likelihood):
    return Architecture.mlp([1, 3, likelihood.n_outputs(3 if is_labels(likelihood) else 1)], "tanh")


def is_labels(likelihood):
    return likelihood.task == "classification"


def shared_targets(likelihood):
    """Data of the right type for `LogPosterior`, which `DataOfEachChain` does not read."""
    return torch.zeros(len(X), dtype=torch.long if is_labels(likelihood) else torch.float64)


def make_target(mlp, prior, likelihood, y):
    return LogPosterior(
        mlp,
        X,
        shared_targets(likelihood),
        prior=prior,
        likelihood=DataOfEachChain(likelihood, y, mlp.n_outputs),
        chunk_size=len(y),
    )


def simulate(mlp, prior, likelihood, n, seed):
    """Draw networks of the prior, and data of each."""
    theta = prior.draw(n, mlp, seeded(seed)).double()
    return theta, likelihood.draw(mlp.apply(theta, X), np.random.default_rng(seed))


MODELS = [
    (NormalPrior(1.0), Normal(1.0)),
    (
        NormalPrior({"0.weight": 1.0, "0.bias": 0.5, "2.weight": 0.5, "2.bias": 0.7}),
        HeteroscedasticNormal(0.5),
    ),
    (LaplacePrior(0.5), StudentT(5.0, 1.0)),
    (NormalPrior(2.0), Categorical()),
]
NAMES = [type(likelihood).__name__ for _, likelihood in MODELS]


@pytest.mark.parametrize(("prior", "likelihood"), MODELS, ids=NAMES)
def test_chains_with_data_of_their_own_have_the_posteriors_of_these_data(prior, likelihood):
    mlp = make_mlp(likelihood)
    theta, y = simulate(mlp, prior, likelihood, n=5, seed=0)
    value, gradient = make_target(mlp, prior, likelihood, y).value_and_gradient(theta)
    for i in range(5):
        alone = LogPosterior(mlp, X, y[i], prior=prior, likelihood=likelihood)
        expected = alone.value_and_gradient(theta[i : i + 1])
        torch.testing.assert_close(value[i : i + 1], expected.value, rtol=0, atol=1e-10)
        torch.testing.assert_close(gradient[i : i + 1], expected.gradient, rtol=0, atol=1e-10)


# Simulation-based calibration

N_DRAWS, N_BINS = 19, 10  # 20 ranks, two per bin


def calibration_p_values(n_replications, noise, run):
    """Chi-square tests that ranks are uniform, for data with noise 1 and a posterior of `noise`."""
    prior, likelihood = MODELS[0]
    mlp = make_mlp(likelihood)
    theta, y = simulate(mlp, prior, likelihood, n_replications, seed=1)
    population = sample_population(
        mlp,
        X,
        shared_targets(likelihood),
        n_chains=n_replications,
        n_draws=N_DRAWS,
        prior=prior,
        likelihood=DataOfEachChain(Normal(noise), y, mlp.n_outputs),
        chunk_size=n_replications,
        random_state=2,
        **run,
    )
    draws = population.weights.view(n_replications, N_DRAWS, -1)
    truths = quantities(mlp, theta, y)
    ranks = sum(quantities(mlp, draws[:, i], y) < truths for i in range(N_DRAWS))
    bins = ranks.numpy() * N_BINS // (N_DRAWS + 1)
    return np.array([stats.chisquare(np.bincount(b, minlength=N_BINS)).pvalue for b in bins.T])


def quantities(mlp, theta, y):
    """Functions of weights and data, ``(n, 7)``.

    The first five do not change if hidden neurons are permuted, or change their signs; the weights
    of a neuron do, and see whether chains visit all of these modes.
    """
    f = mlp.apply(theta, X)
    log_likelihood = Normal(1.0).log_prob(f, y).sum(1)
    output_bias, input_weight, output_weight = theta[:, 9], theta[:, 0], theta[:, 6]
    return torch.stack(
        [
            f[:, 2, 0],
            f[:, 8, 0],
            log_likelihood,
            theta.square().sum(1),
            output_bias,
            input_weight,
            output_weight,
        ],
        1,
    )


# Thinned until draws are nearly independent: dependent ones would gather at the smallest and
# largest ranks, of single weights first. MCLMC has no Metropolis test; the bias of its default
# energy variance is too small for these tests, also for the many replications of the slow ones.
HMC_RUN = {"sampler": "hmc", "n_tune": 150, "thinning": 6, "sampler_options": {"n_leapfrog": 8}}
MCLMC_RUN = {"sampler": "mclmc", "n_tune": 400, "thinning": 30}
RUNS = [
    pytest.param(500, HMC_RUN, id="hmc"),
    pytest.param(500, MCLMC_RUN, id="mclmc"),
    pytest.param(4000, HMC_RUN | {"thinning": 10}, id="hmc-many", marks=pytest.mark.slow),
    pytest.param(
        4000,
        MCLMC_RUN | {"n_tune": 600, "thinning": 60},
        id="mclmc-many",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("n_replications", "run"), RUNS)
def test_ranks_of_true_networks_among_posterior_draws_are_uniform(n_replications, run):
    p = calibration_p_values(n_replications, noise=1.0, run=run)
    # A p-value below this means: the draws are not those of the posterior of the data, or hardly
    # forget where their chain was.
    assert p.min() > LEVEL / len(p)


def test_ranks_tell_a_posterior_of_the_wrong_noise():
    assert calibration_p_values(200, noise=1.3, run=HMC_RUN).min() < 1e-6


# Joint test

STEP_SIZE = 0.2


def move_hmc(target, theta, generator):
    chains = HMC(target, theta, generator, n_leapfrog=6, step_size=STEP_SIZE)
    acceptance = chains.step().acceptance.mean()
    # Chains that stay, or a Metropolis test without an occasion, would prove nothing.
    assert 0.4 < acceptance < 0.96
    return chains.position.weights


def move_mclmc(target, theta, generator):
    chains = MCLMC(target, theta, generator, step_size=STEP_SIZE, length=2.0)
    for _ in range(6):
        assert not chains.step().diverging.any()
    return chains.position.weights


def joint_z_scores(move, prior, likelihood, noise=None, n_chains=1000, n_rounds=40):
    """Differences of moments between the two simulators, in standard errors.

    Chains start in the joint law, so that they have nothing to forget. They are independent: the
    scatter of their means is the standard error, whatever the correlation within each. With
    `noise`, moves are for the posterior of another noise than that of the data.
    """
    mlp, claimed = make_mlp(likelihood), likelihood if noise is None else Normal(noise)
    theta, y = simulate(mlp, prior, likelihood, n_chains, seed=3)
    generator, rng = seeded(4), np.random.default_rng(4)
    total = 0
    for _ in range(n_rounds):
        theta = move(make_target(mlp, prior, claimed, y), theta, generator)
        total = total + moments(mlp, likelihood, theta, y)
        y = likelihood.draw(mlp.apply(theta, X), rng)
    successive = total / n_rounds
    marginal = moments(mlp, likelihood, *simulate(mlp, prior, likelihood, 40_000, seed=5))
    error = sum(m.var(0) / len(m) for m in (successive, marginal)).sqrt()
    return (successive.mean(0) - marginal.mean(0)) / error


def moments(mlp, likelihood, theta, y):
    """Weights, their squares, the same of targets, and functions of both; one row per network."""
    f = mlp.apply(theta, X)
    log_likelihood = likelihood.log_prob(f, y).sum(1, keepdim=True)
    # Some of the targets have heavy tails; a bounded function of them has a standard error.
    squashed = y.double().view(len(y), -1).tanh()
    products = f[:, :, 0] * squashed
    return torch.cat(
        [theta, theta.square(), squashed, squashed.square(), products, log_likelihood], 1
    )


@pytest.mark.parametrize(("prior", "likelihood"), MODELS, ids=NAMES)
def test_hamiltonian_transitions_keep_the_joint_law_of_weights_and_data(prior, likelihood):
    z = joint_z_scores(move_hmc, prior, likelihood)
    assert z.abs().max() < stats.norm.isf(LEVEL / len(z) / 2)


def test_microcanonical_transitions_keep_the_joint_law_of_weights_and_data():
    # Without a Metropolis test this holds up to an error of the square of the step size, which
    # the moments of this smooth posterior do not show.
    z = joint_z_scores(move_mclmc, *MODELS[0])
    assert z.abs().max() < stats.norm.isf(LEVEL / len(z) / 2)


@pytest.mark.parametrize("move", [move_hmc, move_mclmc])
def test_moments_tell_transitions_for_the_wrong_noise(move):
    assert joint_z_scores(move, *MODELS[0], noise=1.3).abs().max() > 10
