"""Graph velocities: equivariant, as large as their features alone, the same on other widths."""

import copy
import dataclasses
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jvp, vjp, vmap

from bayesflow_nn import FlowPosterior, WeightPopulation
from bayesflow_nn.flow import FlowField, GeodesicPath
from bayesflow_nn.symmetry import WeightChart, transfer_chart
from bayesflow_nn.velocity import (
    MLPVelocity,
    PNAVelocity,
    ProbeVelocity,
    RelationalTransformer,
    UnitVariance,
    graph_velocity,
)
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.weights import Architecture

GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
SMALL = {"node_width": 8, "edge_width": 4, "n_blocks": 2}
GRAPHS = {
    "relational_transformer": functools.partial(RelationalTransformer, n_heads=2, **SMALL),
    "pna": functools.partial(PNAVelocity, message_width=4, **SMALL),
}
DEEP = Architecture.mlp([4, 5, 6, 3])
compiles = pytest.mark.filterwarnings(
    # PyTorch's own translation looks at gradients of inputs that are no leaves, and hides this.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


@pytest.fixture(params=GRAPHS)
def make_model(request, generator):
    """Make a model whose refinement is not zero any more, or a new one."""

    def make(problem, *, trained=True, **options):
        model = GRAPHS[request.param](problem, **options).double().eval()
        written = (*model.write_edge.values(), *model.write_node.values())
        for layer in written if trained else ():
            nn.init.normal_(layer.weight, std=0.3, generator=generator)
        return model

    return make


@pytest.fixture
def population():
    """Forty random networks."""
    mlp = Architecture.mlp([4, 5, 3])
    weights = torch.randn(40, mlp.n_weights, generator=torch.Generator().manual_seed(0))
    return WeightPopulation(weights, architecture=mlp, task="classification")


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_coordinates_are_split_and_joined(make_problem, geometry, bias):
    problem = make_problem(Architecture.mlp([4, 5, 6, 3], bias=bias), geometry)
    graph = NeuralGraph(problem.chart)
    x = problem.points
    assert graph.n_coordinates == x.shape[1]
    features = graph.split(x.unsqueeze(-1))
    assert [block.shape[1:3] for block in features.edges] == [(5, 4), (6, 5), (2, 6)]
    torch.testing.assert_close(graph.join(features.edges, features.nodes), x)


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


@pytest.mark.parametrize(
    ("base", "pooled", "is_affine"),
    [
        ("affine", True, True),
        ("exchangeable", False, False),
        ("auto", False, True),
        ("auto", True, False),
    ],
)
def test_a_new_model_is_its_base(make_problem, make_model, draw_noisy, base, pooled, is_affine):
    problem = make_problem(DEEP, pooled=pooled)
    model = make_model(problem, trained=False, base=base)
    t, x = draw_noisy(problem)
    exchangeable = problem.make_exchangeable_denoiser()
    expected = problem.make_denoiser() if is_affine else exchangeable
    torch.testing.assert_close(model(t, x), expected(t, x).mean)


@pytest.mark.parametrize("base", ["exchangeable", "probe"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_commutes_with_permutations_of_hidden_neurons(
    make_problem, make_model, draw_noisy, generator, geometry, base
):
    problem = make_problem(DEEP, geometry, pooled=True)
    model = make_model(problem, base=base)
    t, x = draw_noisy(problem)
    orders = [torch.randperm(n, generator=generator) for n in (5, 6)]
    moved = model(t, model.graph.permute(x, orders))
    torch.testing.assert_close(
        moved, model.graph.permute(model(t, x), orders), atol=1e-10, rtol=1e-10
    )
    assert (moved - model(t, x)).abs().max() > 1e-2  # there was something to move


def test_embeddings_of_hidden_nodes_tell_them_apart(make_problem, make_model, draw_noisy):
    problem = make_problem(DEEP)
    model = make_model(problem, base="exchangeable", node_embeddings=True)
    t, x = draw_noisy(problem)
    orders = [torch.tensor([1, 0, 2, 3, 4]), torch.arange(6)]
    moved = model(t, model.graph.permute(x, orders))
    assert (moved - model.graph.permute(model(t, x), orders)).abs().max() > 1e-2


def test_rows_do_not_depend_on_each_other(make_problem, make_model, draw_noisy):
    problem = make_problem(DEEP)
    model = make_model(problem)
    t, x = draw_noisy(problem)
    torch.testing.assert_close(model(t[1:3], x[1:3]), model(t, x)[1:3])
    assert (model(t.flip(0), x) - model(t, x)).abs().max() > 1e-3


@pytest.mark.parametrize(("n_networks", "sizes"), [(3, [3, 3, 1]), (1, [1] * 7), (0.5, [1] * 7)])
def test_many_edges_are_refined_in_parts(
    make_problem, make_model, draw_noisy, monkeypatch, n_networks, sizes
):
    problem = make_problem(DEEP)
    model = make_model(problem)
    t, x = draw_noisy(problem, n=7)
    expected = model(t, x)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0].shape[1]))
    n_edges = 4 * 5 + 5 * 6 + 6 * 2  # the shift of logits leaves two of three outputs
    monkeypatch.setattr(graph_velocity, "_MOST_EDGES", int(n_networks * n_edges))
    torch.testing.assert_close(model(t, x), expected)
    assert seen == sizes


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_velocities_are_tangent(make_problem, make_model, draw_noisy, geometry):
    problem = make_problem(DEEP, geometry)
    manifold = problem.chart.manifold
    model = UnitVariance(make_model(problem), problem.scale)
    t, x = draw_noisy(problem)
    x = x / problem.scale
    velocity = FlowField(GeodesicPath(manifold, 1e-3), model)(t[0], x)
    assert velocity.abs().max() > 0.1
    torch.testing.assert_close(manifold.proju(x, velocity), velocity)


def test_all_parameters_have_gradients(make_problem, make_model, draw_noisy):
    problem = make_problem(DEEP)
    model = make_model(problem)
    t, x = draw_noisy(problem)
    model(t, x).square().sum().backward()
    # The last layer of nodes is read out, the input nodes reach it through the last edges.
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_its_size_does_not_depend_on_the_hidden_layers(make_problem, make_model):
    counts = {
        sum(p.numel() for p in make_model(make_problem(mlp)).parameters())
        for mlp in (Architecture.mlp([4, 5, 6, 3]), Architecture.mlp([4, 9, 17, 3]))
    }
    assert len(counts) == 1


def test_on_other_widths_it_is_the_model_with_the_same_parameters(
    make_problem, make_model, draw_noisy
):
    problem = make_problem(DEEP, pooled=True)
    wide = make_problem(Architecture.mlp([4, 9, 7, 3]), pooled=True)
    model, other = make_model(problem), make_model(wide)
    other.load_state_dict(model.state_dict())
    for own, rebuilt in zip(model.blocks, other.blocks, strict=True):
        if hasattr(own.gather, "delta"):  # belongs to the widths of training
            rebuilt.gather.delta = own.gather.delta
    t, x = draw_noisy(wide)
    chart = transfer_chart(problem.chart, wide.chart.architecture)
    assert torch.equal(model.on(chart)(t, x), other(t, x))


@pytest.mark.parametrize("base", ["exchangeable", "probe"])
def test_it_stays_what_it_is_when_it_serves_other_widths(
    make_problem, make_model, draw_noisy, generator, base
):
    problem = make_problem(DEEP, pooled=True)
    wide = make_problem(Architecture.mlp([4, 9, 7, 3]), pooled=True)
    model = make_model(problem, base=base)
    t, x = draw_noisy(problem)
    before = model(t, x)
    chart = transfer_chart(problem.chart, wide.chart.architecture)
    other = model.on(chart)
    assert torch.equal(model(t, x), before)
    torch.testing.assert_close(other.on(problem.chart)(t, x), before)
    t, x = draw_noisy(wide)
    orders = [torch.randperm(n, generator=generator) for n in (9, 7)]
    moved = other.graph.permute(other(t, x), orders)
    torch.testing.assert_close(
        other(t, other.graph.permute(x, orders)), moved, atol=1e-10, rtol=1e-10
    )


@pytest.fixture
def make_pair(make_problem, make_model):
    """Make two models in float32 with equal parameters, with autocast and without."""

    def make(architecture=DEEP):
        problem = make_problem(architecture)
        problem = dataclasses.replace(
            problem, points=problem.points.float(), scale=problem.scale.float(), held_out=None
        )
        rounded, plain = (make_model(problem, autocast=a).float() for a in (True, False))
        plain.load_state_dict(rounded.state_dict())
        return problem, rounded, plain

    return make


def test_autocast_rounds_the_refinement_to_bfloat16_and_nothing_else(make_pair, draw_noisy):
    problem, rounded, plain = make_pair()
    t, x = (own.float() for own in draw_noisy(problem, n=50))
    expected = plain(t, x) - plain.base(t, x).mean
    error = rounded(t, x) - plain(t, x)
    assert rounded(t, x).dtype == torch.float32
    # Rounding to 8 binary digits changes a number by up to 2^-9 of itself. On the longest way
    # through a block lie the inputs and outputs of five products, and what is multiplied or added
    # between them: some ten roundings, twenty in two blocks, none of which cancels another at
    # worst. A few roundings in float32 come to 2^-20.
    ratio = error.norm() / expected.norm()
    assert 2**-14 < ratio < 20 * 2**-9


def test_points_in_float64_are_never_autocast(make_pair, draw_noisy):
    problem, rounded, plain = make_pair()
    t, x = draw_noisy(problem)
    assert torch.equal(rounded.double()(t, x), plain.double()(t, x))


def test_gradients_under_autocast_reach_all_parameters(make_pair, draw_noisy):
    problem, rounded, plain = make_pair()
    t, x = (own.float() for own in draw_noisy(problem, n=50))
    for model in (rounded, plain):
        model(t, x).square().sum().backward()
    gradients = [parameter.grad for parameter in rounded.parameters()]
    assert all(gradient.any() and gradient.isfinite().all() for gradient in gradients)
    found, expected = (
        torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        for model in (rounded, plain)
    )
    # The way back has as many roundings as the way there.
    assert (found - expected).norm() < 40 * 2**-9 * expected.norm()


@pytest.mark.parametrize("velocity", GRAPHS)
def test_a_flow_fits_and_samples_under_autocast(velocity, population):
    rounded, plain = (
        FlowPosterior(
            velocity=functools.partial(GRAPHS[velocity], autocast=autocast),
            max_iter=3,
            n_steps=2,
            early_stopping=False,  # keeps what was trained, were it worse than the start
            random_state=0,
        ).fit(population)
        for autocast in (True, False)
    )
    samples = rounded.sample(20, random_state=0)
    expected = plain.sample(20, random_state=0)
    assert np.isfinite(samples).all()
    assert not np.array_equal(samples, expected)


@pytest.fixture
def translated(monkeypatch):
    """Graphs that were translated, and calls of them; a translation is the graph itself."""
    record = {"graphs": 0, "calls": 0}

    def translate(graph, example_inputs):
        def run(*args):
            record["calls"] += 1
            return graph(*args)

        record["graphs"] += 1
        return run

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=translate))
    yield record
    torch.compiler.reset()


@compiles
def test_compiled_blocks_share_a_graph_and_copies_are_plain(
    make_problem, make_model, draw_noisy, translated
):
    problem = make_problem(DEEP)
    model = make_model(problem, compile=True)
    t, x = draw_noisy(problem)
    plain = copy.deepcopy(model)
    expected = plain(t, x)
    assert translated == {"graphs": 0, "calls": 0}
    torch.testing.assert_close(model(t, x), expected)
    assert translated == {"graphs": 1, "calls": SMALL["n_blocks"]}
    restored = pickle.loads(pickle.dumps(model.blocks[0]))
    assert restored.state_dict().keys() == plain.blocks[0].state_dict().keys()
    edges, nodes = plain._read(torch.stack([x, x], dim=-1), all_features(t, None, 0))
    restored(edges, nodes, model.graph.layout)
    assert translated["calls"] == SMALL["n_blocks"]


@compiles
def test_compiled_models_are_differentiated_by_torch_func(
    make_problem, make_model, draw_noisy, translated
):
    problem = make_problem(DEEP)
    model = make_model(problem, compile=True)
    t, x = draw_noisy(problem)
    plain = copy.deepcopy(model)
    model(t, x)
    vectors = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(0)).double()
    for function in (_pushed, _pulled, _pushed_together):
        torch.testing.assert_close(function(model, t, x, vectors), function(plain, t, x, vectors))


def _pushed(model, t, x, vectors):
    return jvp(lambda x: model(t, x), (x,), (vectors[0],))[1]


def _pulled(model, t, x, vectors):
    return vjp(lambda x: model(t, x), x)[1](vectors[0])[0]


def _pushed_together(model, t, x, vectors):
    return vmap(lambda vector: jvp(lambda x: model(t, x), (x,), (vector,))[1])(vectors)


@compiles
@pytest.mark.parametrize("velocity", GRAPHS)
def test_fits_train_compiled_blocks_and_densities_take_plain_ones(velocity, population, translated):
    posterior = FlowPosterior(
        velocity=functools.partial(GRAPHS[velocity], compile=True),
        max_iter=3,
        n_steps=2,
        random_state=0,
    )
    for n_fits in (1, 2):  # a density between them does not keep the second from it
        samples = posterior.fit(population).sample(1, random_state=0)
        assert np.isfinite(posterior.log_prob(samples)).all()
        assert translated["calls"] == n_fits * 3 * SMALL["n_blocks"]


@compiles
@pytest.mark.slow
# PyTorch's compiler is made of scripts itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_blocks_compiled_to_kernels_give_the_same_outputs(make_problem, make_model, draw_noisy):
    problem = make_problem(DEEP)
    model = make_model(problem, compile=True)
    t, x = draw_noisy(problem)
    torch.testing.assert_close(model(t, x), copy.deepcopy(model)(t, x))


@pytest.mark.parametrize("velocity", GRAPHS)
def test_it_is_chosen_by_its_name_and_fits_a_flow(velocity, population):
    options = {"max_iter": 3, "n_steps": 2, "random_state": 0}
    posterior = FlowPosterior(velocity=velocity, **options).fit(population)
    assert isinstance(posterior.field_.predictor.model, GRAPHS[velocity].func)
    weights = posterior.sample(3, random_state=0)
    assert posterior.log_prob(weights[:1]).shape == (1,)
    small = FlowPosterior(velocity=GRAPHS[velocity], **options).fit(population)
    assert small.sample(2).shape == (2, 43)


@pytest.mark.parametrize("options", [{"base": "affine"}, {"node_embeddings": True}], ids=str)
def test_models_that_tell_neurons_apart_serve_no_other_widths(make_problem, make_model, options):
    problem = make_problem(DEEP, pooled=True)
    with pytest.raises(ValueError, match="velocity must not tell hidden neurons apart"):
        make_model(problem, **options).on(problem.chart)


def test_a_callable_makes_the_base(make_problem, make_model, draw_noisy):
    problem = make_problem(DEEP, pooled=True)
    make_base = functools.partial(ProbeVelocity, n_probes=7, n_refinements=2)
    model = make_model(problem, trained=False, base=make_base)
    assert [step.probes.shape for step in model.base.refinements] == [(7, 4), (7, 4)]
    t, x = draw_noisy(problem)
    torch.testing.assert_close(model(t, x), model.base(t, x))


def test_wrong_parameters_and_problems_are_refused(make_problem, make_model):
    with pytest.raises(ValueError, match="base must make a ProbeVelocity .*, got MLPVelocity"):
        make_model(make_problem(DEEP), base=MLPVelocity)
    with pytest.raises(ValueError, match="base must be one of .*'exchangeable'.*, got 'none'"):
        make_model(make_problem(DEEP), base="none")
    with pytest.raises(ValueError, match="autocast must be False for points in torch.float64"):
        make_model(make_problem(DEEP), autocast=True)
    rows = torch.randn(30, 4)
    with pytest.raises(ValueError, match="graph velocities need a multilayer perceptron"):
        NeuralGraph(WeightChart(None, "euclidean").fit(rows))
