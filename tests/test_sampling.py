"""Ways to sample a FlowPosterior: guidance, noise, conditions, trajectories."""

import copy
import functools
import re

import numpy as np
import pytest
import torch

from bayesflow_nn import Architecture, FlowPosterior, train_population
from bayesflow_nn.flow import Guidance, Refresh, StepNoise, TaskGuidance
from bayesflow_nn.predictive import network_scores
from bayesflow_nn.velocity import MLPVelocity, ProbeVelocity, RelationalTransformer

TINY = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
TINY_PROBES = functools.partial(ProbeVelocity, n_probes=8, n_refinements=2)
TINY_GRAPH = functools.partial(RelationalTransformer, node_width=8, edge_width=4, n_blocks=1)
FAST = {"velocity": TINY, "max_iter": 3, "n_steps": 8, "random_state": 0}
MLP = Architecture.mlp([4, 5, 3])
GEOMETRIES = ["product_sphere", "normalized", "euclidean"]


@pytest.fixture(scope="module")
def population(iris):
    return train_population(MLP, *iris, n_networks=60, n_epochs=10, random_state=0)


@pytest.fixture(scope="module")
def flat_posterior(population):
    return FlowPosterior(geometry="euclidean", **FAST).fit(population)


@pytest.fixture(scope="module", params=GEOMETRIES)
def posterior(request, population):
    return FlowPosterior(geometry=request.param, **FAST).fit(population)


def loss(weights, iris):
    X, y = (torch.as_tensor(part) for part in iris)
    return network_scores(MLP, torch.as_tensor(weights), X, y).nll


@pytest.mark.parametrize(
    "rules",
    [
        {"strength": 150.0, "finish_steps": 0},
        {"strength": 1.0, "finish_steps": 0, "at": "point"},
        {"finish_steps": 10},
        {"finish_steps": 10, "finish": "covariance", "finish_step_size": 0.02},
        {"finish_steps": 0, "source_steps": 5},
        {"finish_steps": 10, "batch_size": 50},
    ],
    ids=["target", "point", "adam", "covariance", "source", "minibatch"],
)
def test_guidance_lowers_the_loss_and_stays_on_the_manifold(posterior, iris, rules):
    plain = posterior.sample(30, random_state=0)
    guided = posterior.sample(30, random_state=0, guidance=TaskGuidance(*iris, **rules))
    assert loss(guided, iris).mean() < loss(plain, iris).mean()
    points = posterior.to_points(guided)
    on_manifold = posterior.chart_.project(points)
    torch.testing.assert_close(points, on_manifold, atol=1e-6, rtol=0)
    if posterior.geometry != "euclidean":
        rows = torch.as_tensor(guided[:, :20]).view(30, 5, 4)
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(30, 5), atol=1e-6, rtol=0)


def test_any_objective_guides(posterior):
    def norm(weights):
        return weights.square().sum(1)

    plain = posterior.sample(20, random_state=0)
    small = posterior.sample(20, random_state=0, guidance=Guidance(norm, strength=5.0))
    assert np.square(small).sum() < np.square(plain).sum()


def test_sources_are_optimised_through_probes(population, iris):
    posterior = FlowPosterior(**(FAST | {"velocity": TINY_PROBES, "n_steps": 4})).fit(population)
    guidance = TaskGuidance(*iris, finish_steps=0, source_steps=5)
    plain = posterior.sample(10, random_state=0)
    guided = posterior.sample(10, random_state=0, guidance=guidance)
    assert loss(guided, iris).mean() < loss(plain, iris).mean()


@pytest.mark.parametrize("noise", [StepNoise(0.3), Refresh(3.0)])
def test_noise_follows_the_seed(posterior, noise):
    first, again = (posterior.sample(5, random_state=0, noise=noise) for _ in range(2))
    assert np.array_equal(first, again)
    for other in (None, 0):
        assert not np.array_equal(first, posterior.sample(5, random_state=0, noise=other))


def test_a_number_is_the_rate_at_which_noise_is_drawn_anew(posterior):
    asked = posterior.sample(5, random_state=0, noise=2)
    assert np.array_equal(asked, posterior.sample(5, random_state=0, noise=Refresh(2.0)))
    own = copy.copy(posterior).set_params(noise=2.0)
    assert np.array_equal(asked, own.sample(5, random_state=0))
    plain = posterior.sample(5, random_state=0, noise=0)
    assert np.array_equal(plain, own.set_params(noise=0).sample(5, random_state=0))


def test_noise_is_as_cold_as_the_source(posterior):
    for temperature, n_different in {0.0: 1, 0.5: 5}.items():
        samples = posterior.sample(5, random_state=0, temperature=temperature, noise=1.0)
        assert len(np.unique(samples.round(4), axis=0)) == n_different


def test_ways_that_noise_would_spoil_follow_the_flow(posterior, iris):
    adaptive = posterior.sample(5, random_state=0, solver="dopri5")
    assert np.array_equal(adaptive, posterior.sample(5, random_state=0, solver="dopri5", noise=0))
    search = TaskGuidance(*iris, finish_steps=0, source_steps=1)
    found, plain = (
        posterior.sample(5, random_state=0, guidance=search, noise=n) for n in (None, 0)
    )
    assert np.array_equal(found, plain)


def test_the_trajectory_ends_at_the_samples(posterior):
    times, weights = posterior.sample(4, random_state=0, return_trajectory=True)
    assert np.allclose(times, np.linspace(0, 1, 9))
    assert weights.shape == (9, 4, MLP.n_weights)
    assert np.array_equal(weights[-1], posterior.sample(4, random_state=0))


def test_solvers_and_grids_agree(posterior):
    fine = posterior.sample(20, random_state=0, solver="rk4", n_steps=64, noise=0)
    adaptive = posterior.sample(20, random_state=0, solver="dopri5")
    # dopri5 keeps to 1e-5 per step in points; weights are products of two of order one.
    assert np.abs(adaptive - fine).max() < 0.01
    uneven = FlowPosterior(**posterior.get_params()).set_params(time_grid="error")
    uneven.__dict__ |= {k: v for k, v in vars(posterior).items() if k.endswith("_")}
    assert np.abs(uneven.sample(20, random_state=0, n_steps=64, noise=0) - fine).max() < 0.01


def errors_of_eight_steps(posterior, n, **options):
    """Of exponential Euler and of Euler steps, root mean squares."""
    fine, exponential, euler = (
        posterior.sample(n, random_state=0, solver=solver, n_steps=n_steps, noise=0, **options)
        for solver, n_steps in (("rk4", 64), ("exponential_euler", 8), ("euler", 8))
    )
    return (np.sqrt(np.square(each - fine).mean()) for each in (exponential, euler))


def test_exponential_steps_follow_a_gaussian_flow_closely(posterior):
    """What three iterations have learned is small beside the Gaussian."""
    exponential, euler = errors_of_eight_steps(posterior, 20)
    assert exponential < euler / 3


def test_exponential_steps_are_guided(posterior, iris):
    guidance = TaskGuidance(*iris, strength=20.0, finish_steps=2, source_steps=1)
    exponential, euler = errors_of_eight_steps(posterior, 5, guidance=guidance)
    assert exponential < euler


def test_exponential_steps_know_other_widths(population):
    posterior = FlowPosterior(velocity=TINY_GRAPH, alignment=None, max_iter=1, random_state=0).fit(
        population
    )
    wide = Architecture.mlp([4, 8, 3])
    exponential, euler = errors_of_eight_steps(posterior, 5, architecture=wide)
    assert exponential < euler / 3


@pytest.fixture(scope="module")
def labelled():
    """Two groups of points around 0 and 10."""
    noise = np.random.default_rng(0).normal(size=(200, 3))
    labels = np.array(["low", "high"] * 100)
    return noise + 10 * (labels == "high")[:, None], labels


@pytest.fixture(scope="module")
def conditional(labelled):
    return FlowPosterior(geometry="euclidean", **FAST).fit(*labelled)


def test_exponential_steps_know_the_condition(conditional):
    exponential, euler = errors_of_eight_steps(conditional, 5, condition="low")
    assert exponential < euler / 10


def test_a_condition_chooses_the_group(conditional, labelled):
    conditions = np.array(["low", "high", "high"])
    samples = conditional.sample(3, random_state=0, condition=conditions)
    assert ((samples.mean(1) > 5) == (conditions == "high")).all()
    assert (conditional.sample(50, random_state=0, condition="high").mean(0) > 8).all()
    x, labels = labelled
    own = conditional.log_prob(x[:20], condition=labels[:20])
    other = conditional.log_prob(x[:20], condition=labels[1:21])
    assert (own > other + 10).all()
    assert np.isfinite(conditional.log_prob(x[:20])).all()


def test_the_strength_of_a_condition_goes_from_nothing_to_beyond(conditional):
    plain = conditional.sample(20, random_state=0)
    none = conditional.sample(20, random_state=0, condition="high", condition_strength=0.0)
    assert np.allclose(none, plain, atol=1e-5)
    means = [
        conditional.sample(20, random_state=0, condition="high", condition_strength=w).mean()
        for w in (0.0, 0.5, 1.0)
    ]
    assert means[0] < means[1] < means[2]


def test_real_conditions_order_the_samples():
    rng = np.random.default_rng(0)
    value = rng.exponential(size=400)
    x = np.log(value)[:, None] + 0.1 * rng.normal(size=(400, 3))
    made = FlowPosterior(geometry="euclidean", **FAST).fit(x, value)
    asked = np.array([0.1, 0.3, 1.0, 2.0])
    got = made.sample(4, random_state=0, condition=asked).mean(1)
    # The cubic in the normal score follows the log within .3 between the 10 % and 90 % quantiles.
    assert np.abs(got - np.log(asked)).max() < 0.6


def test_a_fit_that_always_saw_conditions_asks_for_them(labelled):
    x, labels = labelled
    made = FlowPosterior(geometry="euclidean", condition_dropout=0, **FAST).fit(x, labels)
    assert (made.sample(20, random_state=0, condition="high").mean(0) > 8).all()
    assert np.isfinite(made.log_prob(x[:4], condition=labels[:4])).all()
    for call in (made.sample, made.novelty, lambda: made.log_prob(x[:4])):
        with pytest.raises(ValueError, match="condition must be given .* condition_dropout=0"):
            call()
    with pytest.raises(ValueError, match="condition_strength must be 1 after .* got 2.0"):
        made.sample(2, condition="high", condition_strength=2.0)
    with pytest.raises(ValueError, match="condition must be given .* condition_dropout=0"):
        made.set_params(condition_dropout=0.1).sample()  # the fit has not changed
    plain = FlowPosterior(geometry="euclidean", condition_dropout=0, **FAST).fit(x)
    assert np.isfinite(plain.sample(2)).all()


def test_wrong_ways_to_sample_are_refused(posterior, conditional, labelled, iris):
    with pytest.raises(TypeError, match=r"noise must be a number.* got 'much'"):
        posterior.sample(noise="much")
    with pytest.raises(ValueError, match="noise must be"):
        posterior.sample(noise=-1.0)
    with pytest.raises(TypeError, match=r"guidance must be TaskGuidance.* got function"):
        posterior.sample(guidance=lambda w: w.sum(1))
    with pytest.raises(ValueError, match="solver must take fixed steps with noise, got 'dopri5'"):
        posterior.sample(noise=Refresh(1.0), solver="dopri5")
    with pytest.raises(ValueError, match="fixed steps for source_steps.* got 'dopri5'"):
        posterior.sample(guidance=TaskGuidance(*iris, source_steps=1), solver="dopri5")
    with pytest.raises(ValueError, match="condition must be None for a posterior fitted without y"):
        posterior.sample(condition="low")
    with pytest.raises(ValueError, match="must hold 1 or 3 conditions, got 2"):
        conditional.sample(3, condition=["low", "high"])
    with pytest.raises(ValueError, match="condition_strength must be 1 without .* got 2.0"):
        conditional.sample(condition_strength=2.0)
    with pytest.raises(ValueError, match="TaskGuidance needs the architecture"):
        conditional.sample(guidance=TaskGuidance(*iris))
    with pytest.raises(ValueError, match="coupling must be 'independent' for a fit with"):
        FlowPosterior(geometry="euclidean", coupling="ot", **FAST).fit(*labelled)


@pytest.mark.parametrize(("n", "shown"), [(300, {0, 128, 256, 300}), (100, set())])
def test_progress_counts_networks_that_are_carried_in_parts(flat_posterior, capsys, n, shown):
    loud = copy.copy(flat_posterior).set_params(verbose=True)
    loud.sample(n, n_steps=2, random_state=0)
    counted = re.findall(rf"networks.*?(\d+)/{n} ", capsys.readouterr().err)
    assert {int(count) for count in counted} == shown
