"""Distilled posteriors against the flow they come from."""

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from bayesflow_nn import Architecture, FlowPosterior, train_population
from bayesflow_nn.distillation import prediction_divergence
from bayesflow_nn.flow import Guidance, Refresh, TaskGuidance
from bayesflow_nn.predictive import network_scores
from bayesflow_nn.velocity import MLPVelocity

MLP = Architecture.mlp([4, 5, 3])
TINY = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
FAST = {"velocity": TINY, "max_iter": 30, "early_stopping": False, "n_steps": 16, "random_state": 0}
FEW = {"n_trajectories": 200, "max_iter": 60, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    X, y = load_iris(return_X_y=True)
    return ((X - X.mean(0)) / X.std(0)).astype(np.float32), y


@pytest.fixture(scope="module", params=["product_sphere", "normalized", "euclidean"])
def posterior(request, data):
    population = train_population(MLP, *data, n_networks=60, n_epochs=10, random_state=0)
    return FlowPosterior(geometry=request.param, **FAST).fit(population)


@pytest.fixture(scope="module")
def fast(posterior):
    return posterior.distill(**FEW)


def points(posterior, weights):
    return posterior.chart_.to_point(torch.as_tensor(weights)) * posterior.unit_scale_


def test_the_stated_error_is_that_of_new_samples(posterior, fast):
    flow = points(posterior, posterior.sample(400, random_state=1, noise=0))
    quick = points(fast, fast.sample(400, random_state=1))
    error = (flow - quick).square().mean().sqrt().item()
    # The mean over 20 held-out trajectories: within the scatter of their errors.
    assert fast.flow_map_.error.shape == (1,)
    assert fast.flow_map_.error.item() == pytest.approx(error, rel=0.3)
    assert 0 < fast.flow_map_.divergence < 1
    spread = (flow - flow.mean(0)).square().mean().sqrt().item()
    assert error < 0.5 * spread


def test_training_brings_the_map_closer(posterior, fast):
    rough = posterior.distill(n_trajectories=200, max_iter=1, learning_rate=1e-6, random_state=0)
    assert fast.flow_map_.divergence < rough.flow_map_.divergence


def test_the_posterior_stays_and_densities_agree(posterior, fast, data):
    assert posterior.flow_map_ is None
    weights = posterior.sample(3, random_state=0)
    assert np.array_equal(posterior.log_prob(weights), fast.log_prob(weights))
    assert fast.predict_proba(data[0], n_samples=5).shape == (150, 3)


def test_samples_are_on_the_manifold_and_follow_the_seed(posterior, fast):
    weights = fast.sample(7, random_state=0)
    assert np.array_equal(weights, fast.sample(7, random_state=0))
    again = posterior.distill(**FEW).sample(7, random_state=0)
    assert np.array_equal(weights, again)
    on_manifold = posterior.to_points(weights)
    projected = posterior.chart_.project(on_manifold)
    torch.testing.assert_close(on_manifold, projected, atol=1e-6, rtol=0)


def test_several_steps_report_each(posterior):
    two = posterior.distill(n_steps=2, **FEW)
    first, second = two.flow_map_.error
    # Nearer to the end less is left to be predicted.
    assert second < first
    assert two.sample(5, random_state=0).shape == (5, MLP.n_weights)


def test_a_lower_temperature_is_less_dispersed(fast):
    wide, narrow, none = (
        points(fast, fast.sample(50, random_state=0, temperature=t)).std(0).mean()
        for t in (1.0, 0.5, 0.0)
    )
    # In flat space directions become shorter, and on their spheres, with the biases divided by
    # their norms, they spread again; a deviation over all coordinates of 50 networks strays by 2 %.
    assert narrow < (0.9 if fast.geometry == "normalized" else 0.8) * wide
    assert none < 1e-5


@pytest.mark.parametrize("rules", [{"finish_steps": 5}, {"finish_steps": 0, "source_steps": 5}])
def test_guidance_before_and_after_the_map(fast, data, rules):
    X, y = (torch.as_tensor(part) for part in data)
    guidance = TaskGuidance(*data, **rules)
    plain, guided = (
        torch.as_tensor(fast.sample(20, random_state=0, guidance=g)) for g in (None, guidance)
    )
    assert (
        network_scores(MLP, guided, X, y).nll.mean() < network_scores(MLP, plain, X, y).nll.mean()
    )


def test_what_only_a_solver_does_is_refused(fast):
    for name, value in {
        "solver": "rk4",
        "n_steps": 4,
        "noise": Refresh(1.0),
        "return_trajectory": True,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be left out for a distilled posterior"):
            fast.sample(**{name: value})
    with pytest.raises(ValueError, match="guidance must have strength=0 for a distilled .* got 1"):
        fast.sample(guidance=Guidance(lambda w: w.sum(1)))
    with pytest.raises(ValueError, match="n_trajectories must be"):
        fast.distill(n_trajectories=5)


def test_a_new_fit_forgets_the_map(fast, data):
    population = train_population(MLP, *data, n_networks=20, n_epochs=1, random_state=0)
    refitted = FlowPosterior(**fast.get_params()).set_params(max_iter=1)
    refitted.__dict__ |= {k: v for k, v in vars(fast).items() if k.endswith("_")}
    assert refitted.fit(population).flow_map_ is None


def test_the_map_follows_conditions():
    noise = np.random.default_rng(0).normal(size=(200, 3))
    labels = np.array(["low", "high"] * 100)
    x = noise + 10 * (labels == "high")[:, None]
    fast = FlowPosterior(geometry="euclidean", **FAST).fit(x, labels).distill(**FEW)
    assert np.isnan(fast.flow_map_.divergence)
    assert (fast.sample(50, random_state=0, condition="high").mean(0) > 8).all()
    assert (fast.sample(50, random_state=0, condition="low").mean(0) < 2).all()


def test_a_velocity_that_does_not_refine_a_gaussian_is_refused():
    class Plain(nn.Module):
        def __init__(self, problem):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, t, x):
            return self.linear(x)

    x = np.random.default_rng(0).normal(size=(50, 3))
    posterior = FlowPosterior(geometry="euclidean", **(FAST | {"velocity": Plain})).fit(x)
    with pytest.raises(TypeError, match="attribute `denoiser`"):
        posterior.distill(**FEW)


def test_the_divergence_is_that_of_kullback_and_leibler():
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 4, MLP.n_weights, generator=generator)
    inputs = torch.randn(9, 4, generator=generator)
    got = prediction_divergence(MLP, lambda x: x, inputs)(teacher, student)
    for row in range(4):
        p, q = (MLP.apply(w[row : row + 1], inputs)[0].softmax(-1) for w in (teacher, student))
        expected = sum(p[i] @ (p[i] / q[i]).log() for i in range(9)) / 9
        torch.testing.assert_close(got[row], expected)
