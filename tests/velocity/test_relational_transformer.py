"""The graph velocity: equivariant, equal to its dense form, as large as its features alone."""

import functools

import pytest
import torch
from dense_attention import dense_attention
from torch import nn

from bayesflow_nn import FlowPosterior, WeightPopulation
from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity import RelationalTransformer
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.weights import Architecture

GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
SMALL = {"node_width": 8, "edge_width": 4, "n_heads": 2, "n_blocks": 2}
DEEP = Architecture.mlp([4, 5, 6, 3])


def trained(problem, generator, **options):
    """A model whose refinement is not zero any more."""
    model = RelationalTransformer(problem, **(SMALL | options)).double().eval()
    for layer in (model.write_edge, model.write_node):
        nn.init.normal_(layer.weight, std=0.3, generator=generator)
    return model


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_coordinates_are_split_and_joined(make_problem, geometry, bias):
    problem = make_problem(Architecture.mlp([4, 5, 6, 3], bias=bias), geometry)
    graph = NeuralGraph(problem.chart)
    x = problem.points
    assert graph.n_coordinates == x.shape[1]
    features = graph.split(x.unsqueeze(-1))
    assert [block.shape[1:3] for block in features.edges] == [(5, 4), (6, 5), (2, 6)]
    again = graph.join([block.squeeze(-1) for block in features.edges], features.nodes[1:])
    torch.testing.assert_close(again, x)


@pytest.mark.parametrize("base", ["affine", "isotropic"])
def test_a_new_model_is_its_base(make_problem, draw_noisy, base):
    problem = make_problem(DEEP)
    model = RelationalTransformer(problem, base=base, **SMALL).double()
    t, x = draw_noisy(problem)
    if base == "affine":
        expected = problem.make_denoiser()(t, x).mean
    else:
        signal, noise = problem.schedule(t)
        expected = signal * x / (signal**2 + noise**2)
    torch.testing.assert_close(model(t, x), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_commutes_with_permutations_of_hidden_neurons(
    make_problem, draw_noisy, generator, geometry
):
    problem = make_problem(DEEP, geometry)
    model = trained(problem, generator, base="isotropic")
    t, x = draw_noisy(problem)
    orders = [torch.randperm(n, generator=generator) for n in (5, 6)]
    moved = model(t, model.graph.permute(x, orders))
    torch.testing.assert_close(
        moved, model.graph.permute(model(t, x), orders), atol=1e-10, rtol=1e-10
    )
    assert (moved - model(t, x)).abs().max() > 1e-2  # there was something to move


def test_embeddings_of_hidden_nodes_tell_them_apart(make_problem, draw_noisy, generator):
    problem = make_problem(DEEP)
    model = trained(problem, generator, base="isotropic", node_embeddings=True)
    t, x = draw_noisy(problem)
    orders = [torch.tensor([1, 0, 2, 3, 4]), torch.arange(6)]
    moved = model(t, model.graph.permute(x, orders))
    assert (moved - model.graph.permute(model(t, x), orders)).abs().max() > 1e-2


def test_permuting_coordinates_is_permuting_neurons():
    """On a chart that standardises nothing, the graph's permutation leaves the function."""
    chart = WeightChart(DEEP, logit_shift=False).fit(torch.randn(9, DEEP.n_weights).double())
    chart = WeightChart.from_state(
        DEEP,
        chart.state
        | {
            name: f(chart.state[name])
            for name, f in (("mean", torch.zeros_like), ("scale", torch.ones_like))
        },
    )
    weights = torch.randn(3, DEEP.n_weights, generator=torch.Generator().manual_seed(0)).double()
    x = chart.to_point(weights)
    moved = NeuralGraph(chart).permute(x, [torch.randperm(5), torch.randperm(6)])
    X = torch.randn(7, 4).double()
    torch.testing.assert_close(DEEP.apply(chart.to_weights(moved), X), DEEP.apply(weights, X))


def test_attention_is_that_of_all_incident_pairs(make_problem, draw_noisy, generator):
    problem = make_problem(DEEP)
    model = trained(problem, generator)
    attention = model.blocks[0].attention
    edges = [
        torch.randn(3, n, m, 4, generator=generator).double() for n, m in [(5, 4), (6, 5), (2, 6)]
    ]
    nodes = [torch.randn(3, n, 8, generator=generator).double() for n in (4, 5, 6, 2)]
    for own, expected in zip(
        attention(edges, nodes), dense_attention(attention, edges, nodes), strict=True
    ):
        torch.testing.assert_close(own, expected)


def test_rows_do_not_depend_on_each_other(make_problem, draw_noisy, generator):
    problem = make_problem(DEEP)
    model = trained(problem, generator)
    t, x = draw_noisy(problem)
    torch.testing.assert_close(model(t[2:4], x[2:4]), model(t, x)[2:4])
    assert (model(t.flip(0), x) - model(t, x)).abs().max() > 1e-3


def test_its_size_does_not_depend_on_the_hidden_layers(make_problem):
    counts = {
        sum(p.numel() for p in RelationalTransformer(make_problem(mlp), **SMALL).parameters())
        for mlp in (Architecture.mlp([4, 5, 6, 3]), Architecture.mlp([4, 9, 17, 3]))
    }
    assert len(counts) == 1


def test_it_is_chosen_by_its_name_and_fits_a_flow():
    mlp = Architecture.mlp([4, 5, 3])
    weights = torch.randn(40, mlp.n_weights, generator=torch.Generator().manual_seed(0))
    population = WeightPopulation(weights, architecture=mlp, task="classification")
    options = {"max_iter": 3, "n_steps": 2, "random_state": 0}
    posterior = FlowPosterior(velocity="relational_transformer", **options).fit(population)
    assert isinstance(posterior.field_.predictor.model, RelationalTransformer)
    weights = posterior.sample(3, random_state=0)
    assert posterior.log_prob(weights).shape == (3,)
    small = functools.partial(RelationalTransformer, **SMALL)
    assert FlowPosterior(velocity=small, **options).fit(population).sample(2).shape == (2, 43)


def test_wrong_parameters_and_problems_are_refused(make_problem):
    problem = make_problem(DEEP)
    with pytest.raises(ValueError, match="base must be 'affine' or 'isotropic', got 'none'"):
        RelationalTransformer(problem, base="none")
    with pytest.raises(ValueError, match="n_heads must divide node_width=64, got 5"):
        RelationalTransformer(problem, n_heads=5)
    rows = torch.randn(30, 4)
    with pytest.raises(ValueError, match="graph velocities need a multilayer perceptron"):
        NeuralGraph(WeightChart(None, "euclidean").fit(rows))
