"""`sample_population`: labels, metrics, starts and errors, for both samplers."""

import numpy as np
import pytest
import torch
from torch import nn

from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    Normal,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.priors import LaplacePrior
from bayesflow_nn.weights.sampling import SAMPLERS, sample_population

MLP = Architecture.mlp([2, 3, 2], "tanh")
N_WEIGHTS = MLP.n_weights
X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SHORT = {"n_draws": 3, "n_tune": 20, "thinning": 4, "random_state": 0}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_are_sorted_by_chain_and_draw_and_carry_their_metrics(sampler):
    population = sample_population(MLP, X, Y, sampler=sampler, n_chains=5, prior=0.8, **SHORT)
    assert population.chain.tolist() == [c for c in range(5) for _ in range(3)]
    assert population.draw.tolist() == [0, 1, 2] * 5
    assert population.task == "classification"
    assert population.likelihood == Categorical()
    assert torch.equal(population.inputs, X)
    log_posterior = LogPosterior(MLP, X, Y, prior=0.8)
    if sampler != "sgld":  # which knows that of its last minibatch, a step before
        torch.testing.assert_close(population.metrics["lp"], log_posterior(population.weights))
    metrics = population.metrics
    assert set(metrics) == {
        "lp", "energy_error", "acceptance", "diverging", "n_gradients", "step_size",
    }  # fmt: skip
    assert metrics["diverging"].dtype == torch.bool
    assert ((metrics["acceptance"] >= 0) & (metrics["acceptance"] <= 1)).all()
    assert (metrics["step_size"].view(5, 3) == metrics["step_size"].view(5, 3)[:, :1]).all()
    # Every chain tunes its own, where anything is tuned.
    assert len(metrics["step_size"].unique()) == (1 if sampler == "sgld" else 5)
    if sampler != "hmc":
        assert (metrics["n_gradients"] == 4).all()


def test_a_regression_remembers_its_likelihood():
    mlp = Architecture.mlp([2, 3, 1])
    population = sample_population(mlp, X, X[:, 0], n_chains=2, likelihood=0.3, **SHORT)
    assert population.likelihood == Normal(0.3)
    assert population.task == "regression"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_bytes(sampler):
    first, second, other = (
        sample_population(MLP, X, Y, sampler=sampler, n_chains=4, **SHORT | {"random_state": seed})
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.weights, second.weights)
    assert not torch.equal(first.weights, other.weights)


def test_global_random_states_are_left_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sample_population(MLP, X, Y, n_chains=2, **SHORT)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("kind", ["population", "array"])
def test_chains_start_from_given_networks(kind):
    trained = train_population(MLP, X, Y, n_networks=3, n_epochs=1, random_state=0)
    population = sample_population(
        MLP,
        X,
        Y,
        init=trained if kind == "population" else trained.weights.numpy(),
        n_draws=1,
        n_tune=0,
        sampler_options={"step_size": 1e-6},
        random_state=0,
    )
    assert population.n_chains == 3
    assert not torch.equal(population.weights, trained.weights)
    torch.testing.assert_close(population.weights, trained.weights, rtol=0, atol=2e-6)


FEW, FEW_LABELS = X[:8].double(), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("sampler", ["mclmc", "hmc"])
def test_both_samplers_agree_with_importance_sampling_on_a_network(sampler):
    population = sample_population(
        MLP,
        FEW,
        FEW_LABELS,
        sampler=sampler,
        n_chains=150,
        n_draws=30,
        n_tune=300,
        thinning=5 if sampler == "mclmc" else 1,
        prior=1.0,
        sampler_options={} if sampler == "mclmc" else {"n_leapfrog": 8},
        random_state=1,
    )
    p = population.apply(X.double()).softmax(2)[..., 1]
    by_chain = p.view(150, 30, 30).mean(1)
    expected, error = importance_sampling_predictions()
    # Chains are independent: the scatter of their means is the Monte Carlo error.
    z = (by_chain.mean(0) - expected) / (by_chain.var(0) / 150 + error.square()).sqrt()
    # The maximum of 30 normal numbers exceeds 4.5 with a chance below 2.1e-4.
    assert z.abs().max() < 4.5
    # The comparison tells 2 % of probability.
    assert error.max() < 0.005


def importance_sampling_predictions(n=200_000):
    """Mean predictions of draws of the prior, weighted by the likelihood, and standard errors."""
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(n, N_WEIGHTS, generator=generator, dtype=torch.float64)
    log_w = Categorical().log_prob(MLP.apply(weights, FEW), FEW_LABELS).sum(1)
    w = (log_w - log_w.logsumexp(0)).exp()
    p = MLP.apply(weights, X.double()).softmax(2)[..., 1]
    mean = w @ p
    return mean, (w.square() @ (p - mean).square()).sqrt()


def logistic_moments(x, labels):
    """Means and variances of slope and intercept, of normal weights a priori, on a fine grid.

    Logits of both classes have weights and biases; labels know their differences, of variance 2.
    """
    slope, intercept = np.meshgrid(np.linspace(-4, 8, 601), np.linspace(-6, 6, 601), indexing="ij")
    log_p = -(slope**2 + intercept**2) / 4
    for value, label in zip(x, labels, strict=True):
        log_p -= np.logaddexp(0, -(2 * label - 1) * (slope * value + intercept))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    means = [(p * grid).sum() for grid in (slope, intercept)]
    grids = zip((slope, intercept), means, strict=True)
    return np.array(means), np.array([(p * (grid - mean) ** 2).sum() for grid, mean in grids])


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "hmc", "n_draws": 60, "n_tune": 100, "sampler_options": {"n_leapfrog": 8}},
        {"sampler": "mclmc", "n_draws": 60, "n_tune": 500, "thinning": 4},
    ],
    ids=["hmc", "mclmc"],
)
def test_a_logistic_regression_is_that_of_a_grid(options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    labels = (x + rng.logistic(size=40) > 0.5).astype(int)
    population = sample_population(
        Architecture.mlp([1, 2]),
        torch.tensor(x)[:, None],
        labels,
        n_chains=500,
        random_state=0,
        **options,
    )
    (w_0, w_1), (b_0, b_1) = population.weights.double().T.view(2, 2, -1)
    draws = torch.stack([w_1 - w_0, b_1 - b_0], 1).view(500, -1, 2)
    mean, variance = logistic_moments(x, labels)
    # Chains are independent: the scatter of their means is the Monte Carlo error.
    error = draws.mean(1).std(0).numpy() / 500**0.5
    assert (np.abs(draws.mean((0, 1)).numpy() - mean) < 3 * error).all()
    # 500 chains with six or more effective draws know a variance to 2.5 %.
    found = (draws - torch.from_numpy(mean)).square().mean((0, 1)).numpy()
    np.testing.assert_allclose(found, variance, rtol=0.05)


def test_the_inputs_that_a_population_keeps_are_bounded():
    many = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    population = sample_population(
        MLP, many, (many[:, 0] > 0).long(), n_chains=2, n_draws=1, n_tune=2, random_state=0
    )
    assert population.inputs.shape == (1024, 2)
    assert torch.equal(population.inputs[[0, -1]], many[[0, -1]])


def test_any_module_is_sampled():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Identity())
    population = sample_population(Architecture(module), X, Y, n_chains=2, **SHORT)
    mlp = sample_population(MLP, X, Y, n_chains=2, **SHORT)
    torch.testing.assert_close(population.weights, mlp.weights, rtol=0, atol=1e-3)


def test_the_progress_bar_counts_steps(capsys):
    sample_population(MLP, X, Y, n_chains=2, verbose=True, **SHORT)
    assert "32/32" in capsys.readouterr().err


def lost(on_divergence, rows=(1,)):
    init = torch.full((3, N_WEIGHTS), 0.1)
    init[list(rows)] = torch.nan
    return sample_population(MLP, X, Y, init=init, on_divergence=on_divergence, **SHORT)


def test_chains_without_a_finite_density_are_dropped():
    with pytest.warns(UserWarning, match=r"1 of 3 chains diverged .*: 1\. .* They are dropped"):
        population = lost("drop")
    assert population.chain.tolist() == [0] * 3 + [2] * 3


def test_chains_without_a_finite_density_are_kept_on_request():
    with pytest.warns(UserWarning, match=r"1 of 3 chains diverged .* They are kept"):
        population = lost("keep")
    assert population.chain[population.diverged].unique().tolist() == [1]
    assert population.metrics["diverging"].view(3, 3).all(1).tolist() == [False, True, False]


def test_chains_without_a_finite_density_raise_on_request_and_when_none_is_left():
    with pytest.raises(ValueError, match=r"1 of 3 chains diverged .*: 1\. Start them elsewhere"):
        lost("raise")
    with pytest.raises(ValueError, match=r"3 of 3 chains diverged .*: 0, 1, 2\."):
        lost("drop", rows=(0, 1, 2))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"architecture": nn.Linear(2, 2)}, TypeError, "architecture must be an Architecture"),
        ({"sampler": "nuts"}, ValueError, "sampler must be one of"),
        ({"n_chains": None}, ValueError, "n_chains must be an integer of at least 1, got None"),
        ({"n_draws": 0}, ValueError, "n_draws must be an integer of at least 1"),
        ({"n_tune": -1}, ValueError, "n_tune must be an integer of at least 0"),
        ({"thinning": 0}, ValueError, "thinning must be an integer of at least 1"),
        ({"init": "map"}, ValueError, r"init must be one of \['prior'\]"),
        ({"init": torch.zeros(3, N_WEIGHTS)}, ValueError, "n_chains is 2, but init holds 3"),
        ({"init": X}, ValueError, rf"weights must have shape \(n_networks, {N_WEIGHTS}\)"),
        (
            {"init": WeightPopulation(torch.zeros(2, 3), architecture=Architecture.mlp([2, 1]))},
            ValueError,
            "init is a population of Architecture.mlp",
        ),
        ({"prior": lambda w: -w.square().sum(1)}, ValueError, "prior without a method draw"),
        ({"prior": LaplacePrior({"a": 1.0})}, ValueError, "scale must hold one number for each"),
        ({"y": X[:, 0]}, ValueError, "likelihood must be the standard deviation"),
        ({"sampler_options": {"n_leapfrog": 3}}, ValueError, "sampler_options must be among"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
        ({"on_divergence": "ignore"}, ValueError, "on_divergence must be one of"),
        ({"random_state": -1}, ValueError, "random_state must be a non-negative integer"),
    ],
)
def test_bad_input_is_named(changes, error, match):
    arguments = {"architecture": MLP, "X": X, "y": Y, "n_chains": 2, **SHORT, **changes}
    with pytest.raises(error, match=match):
        sample_population(**arguments)
