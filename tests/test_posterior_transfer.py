"""Networks of other widths from one flow, which no order of hidden neurons changes."""

import functools

import numpy as np
import pytest
import torch
from permuted_neurons import permute_neurons, random_orders

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, train_population
from bayesflow_nn.flow import Refresh, TaskGuidance
from bayesflow_nn.velocity import PNAVelocity, RelationalTransformer
from bayesflow_nn.velocity.neural_graph import NeuralGraph

SMALL = {"node_width": 8, "edge_width": 4, "n_blocks": 1}
GRAPHS = {
    "relational_transformer": functools.partial(RelationalTransformer, n_heads=2, **SMALL),
    "pna": functools.partial(PNAVelocity, message_width=4, **SMALL),
}
GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
OWN, WIDE = Architecture.mlp([4, 6, 3]), Architecture.mlp([4, 16, 3])
FAST = {"alignment": None, "n_steps": 2, "random_state": 0, "validation_fraction": 0}


@pytest.fixture(scope="module")
def population(iris):
    return train_population(OWN, *iris, n_networks=120, n_epochs=100, random_state=0)


@pytest.fixture(
    scope="module",
    params=[
        *((GRAPHS["relational_transformer"], geometry) for geometry in GEOMETRIES),
        (GRAPHS["pna"], "product_sphere"),
    ],
    ids=[*GEOMETRIES, "pna"],
)
def posterior(request, population):
    velocity, geometry = request.param
    options = {"max_iter": 60, "batch_size": 64, "learning_rate": 2e-2}
    return FlowPosterior(velocity=velocity, geometry=geometry, **FAST, **options).fit(population)


def draw(posterior, n=3, **options):
    return posterior.sample(n, random_state=1, **options)


def deep_posterior(geometry, velocity="relational_transformer"):
    """A flow over random networks with two hidden layers, of which densities are exact."""
    mlp = Architecture.mlp([2, 2, 3, 2])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(40, mlp.n_weights, generator=generator)
    population = WeightPopulation(weights, architecture=mlp, task="classification")
    options = {"velocity": GRAPHS[velocity], "geometry": geometry, "max_iter": 10}
    return FlowPosterior(**FAST, **options).fit(population), population


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"noise": Refresh(1.0, start=0.0)}], ids=str
)
def test_the_own_architecture_has_the_same_samples(posterior, options):
    again = draw(posterior, architecture=Architecture.mlp([4, 6, 3]), **options)
    assert np.array_equal(again, draw(posterior, **options))


def assert_wider_networks_have_learned_the_task(posterior, iris):
    X, y = (torch.as_tensor(part) for part in iris)
    weights = torch.as_tensor(draw(posterior, 60, architecture=WIDE))
    assert weights.shape == (60, WIDE.n_weights)
    assert weights.isfinite().all()
    accuracy = (WIDE.apply(weights, X).argmax(-1) == y).float().mean(1)
    # Random networks are right in a third of the cases; the mean of 60 of them, each with a
    # deviation of about 0.2, strays from that by 0.03.
    assert accuracy.mean() > 0.5


def test_wider_networks_of_the_flow_have_learned_the_task(posterior, iris):
    assert_wider_networks_have_learned_the_task(posterior, iris)


def test_networks_of_other_widths_follow_labels(population):
    """Flat weights 10 apart, as two labels have them, stay 10 apart."""
    labels = np.array(["low", "high"] * 60)
    weights = population.weights + 10 * torch.as_tensor(labels == "high")[:, None]
    options = {"velocity": GRAPHS["pna"], "geometry": "euclidean", "max_iter": 10}
    shifted = WeightPopulation(weights, architecture=OWN, task="regression")
    posterior = FlowPosterior(**FAST, **options).fit(shifted, labels)
    for condition in ("low", "high"):
        own = draw(posterior, 50, condition=condition)
        again = draw(posterior, 50, condition=condition, architecture=Architecture.mlp([4, 6, 3]))
        assert np.array_equal(again, own)
        # Of biases, whose mean does not depend on the width: the first sixteen after 64 weights.
        biases = draw(posterior, 50, condition=condition, architecture=WIDE)[:, 64:80]
        assert (biases.mean() > 5) == (condition == "high")


def test_a_distilled_flow_makes_networks_of_other_widths(posterior, iris):
    fast = posterior.distill(n_trajectories=100, max_iter=20, random_state=0)
    own = Architecture.mlp([4, 6, 3])
    assert np.array_equal(draw(fast, architecture=own), draw(fast))
    assert not np.allclose(draw(fast), draw(posterior))
    assert_wider_networks_have_learned_the_task(fast, iris)


@pytest.mark.parametrize("velocity", GRAPHS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_densities_do_not_depend_on_the_order_of_neurons(geometry, velocity):
    posterior, population = deep_posterior(geometry, velocity)
    mlp, weights = population.architecture, population.weights[:2].double()
    orders = random_orders(mlp, torch.Generator().manual_seed(1))
    moved = permute_neurons(mlp, weights, orders)
    assert (moved - weights).abs().max() > 0.1
    log_prob = posterior.log_prob(weights)
    np.testing.assert_allclose(posterior.log_prob(moved), log_prob, atol=1e-6, rtol=0)
    assert np.ptp(log_prob) > 0.1


@pytest.mark.parametrize("velocity", GRAPHS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_field_of_other_widths_commutes_with_their_permutations(geometry, velocity):
    flow = deep_posterior(geometry, velocity)[0]._of_widths(Architecture.mlp([2, 7, 5, 2]))
    graph, generator = NeuralGraph(flow.chart_), torch.Generator().manual_seed(1)
    x = flow.chart_.manifold.random_source(4, generator, torch.float64)
    orders = random_orders(flow.architecture_, generator)
    field, t = flow._precise_field(None), torch.tensor(0.6, dtype=torch.float64)
    moved = field(t, graph.permute(x, orders))
    expected = graph.permute(field(t, x), orders)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=1e-10)
    # As points of the chart they are the same networks.
    weights = permute_neurons(flow.architecture_, flow.chart_.to_weights(x), orders)
    torch.testing.assert_close(flow.chart_.to_weights(graph.permute(x, orders)), weights)


def test_wider_networks_follow_conditions_guidance_and_trajectories(population, iris):
    y = np.arange(120) % 2
    options = {"velocity": GRAPHS["relational_transformer"], "max_iter": 2, "architecture": OWN}
    posterior = FlowPosterior(**FAST, **options, task="classification").fit(population.weights, y)
    # Embeddings of conditions are new, and so far nothing but noise.
    assert draw(posterior, architecture=WIDE, condition=1).shape == (3, WIDE.n_weights)
    with torch.no_grad():
        model = posterior.field_.predictor.model
        model.write_edge["1"].weight.normal_(generator=torch.Generator().manual_seed(0))
    one, other = (draw(posterior, architecture=WIDE, condition=c) for c in (0, 1))
    assert np.abs(one - other).max() > 1e-4
    guidance = TaskGuidance(*iris, strength=0, finish_steps=30)
    X = torch.as_tensor(iris[0])
    losses = [
        torch.nn.functional.cross_entropy(
            WIDE.apply(torch.as_tensor(weights), X).mean(0), torch.as_tensor(iris[1])
        )
        for weights in (
            draw(posterior, architecture=WIDE),
            draw(posterior, architecture=WIDE, guidance=guidance),
        )
    ]
    assert losses[1] < losses[0]
    trajectory = draw(posterior, architecture=WIDE, return_trajectory=True)
    assert trajectory.weights.shape == (3, 3, WIDE.n_weights)


def test_predictions_run_the_networks_that_were_drawn(posterior, iris):
    X = iris[0][:5]
    proba = posterior.predict_proba(X, n_samples=3, random_state=1, architecture=WIDE)
    networks = torch.as_tensor(draw(posterior, architecture=WIDE))
    expected = WIDE.apply(networks, torch.as_tensor(X)).softmax(-1).mean(0)
    np.testing.assert_allclose(proba, expected, atol=1e-6)
    curve = posterior.predictive_curve(*iris, n_samples=4, architecture=WIDE)
    assert np.isfinite(curve.nll).all()


REFUSED = [
    {"velocity": "mlp"},
    {"velocity": "probe"},
    {"velocity": GRAPHS["relational_transformer"], "alignment": "weight_matching"},
]


@pytest.mark.parametrize("options", REFUSED, ids=["mlp", "probe", "aligned"])
def test_flows_that_tell_neurons_apart_are_refused(population, options):
    posterior = FlowPosterior(**(FAST | {"max_iter": 1} | options)).fit(population)
    with pytest.raises(ValueError, match=r"tells no hidden neurons apart, .* alignment=None\)"):
        posterior.sample(architecture=WIDE)


@pytest.mark.parametrize("options", [{"base": "affine"}, {"node_embeddings": True}], ids=str)
def test_models_that_tell_neurons_apart_are_refused(population, options):
    velocity = functools.partial(GRAPHS["relational_transformer"], **options)
    posterior = FlowPosterior(**FAST, velocity=velocity, max_iter=1).fit(population)
    with pytest.raises(ValueError, match="velocity must not tell hidden neurons apart"):
        posterior.sample(architecture=WIDE)


def test_wrong_architectures_are_refused(population):
    velocity = GRAPHS["relational_transformer"]
    posterior = FlowPosterior(**FAST, velocity=velocity, max_iter=1).fit(population)
    with pytest.raises(ValueError, match="has another depth; fit a flow to networks of that"):
        posterior.sample(architecture=Architecture.mlp([4, 6, 6, 3]))
    with pytest.raises(TypeError, match="architecture must be an Architecture, got list"):
        posterior.sample(architecture=[4, 6, 3])
    with pytest.raises(ValueError, match="architecture must be left out of a record"):
        posterior.to_arviz(architecture=WIDE)
    rows = np.random.default_rng(0).normal(size=(40, 3))
    density = FlowPosterior(geometry="euclidean", max_iter=1, random_state=0).fit(rows)
    with pytest.raises(ValueError, match="must be None for a posterior over plain arrays"):
        density.sample(architecture=WIDE)
