"""Graphs of modules: parameters as features, permutations of units, graph velocities on them."""

import functools
import re

import pytest
import symmetric_modules as modules
import torch
from torch import nn

from bayesflow_nn import FlowPosterior
from bayesflow_nn.symmetry import WeightChart, discover
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.velocity import PNAVelocity, RelationalTransformer
from bayesflow_nn.velocity.gaussian import Denoised
from bayesflow_nn.velocity.graph_velocity import make_graph
from bayesflow_nn.velocity.module_graph import ModuleGraph
from bayesflow_nn.weights import Architecture, ConstantNoise, WeightPopulation

GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
SMALL = {"node_width": 8, "edge_width": 4, "n_blocks": 2}
GRAPHS = {
    "relational_transformer": functools.partial(RelationalTransformer, n_heads=2, **SMALL),
    "pna": functools.partial(PNAVelocity, message_width=4, **SMALL),
}
IMAGE = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cnn():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(5 * 16, 2)),
    )


CNN = Architecture(cnn(), example_input=IMAGE)
ARCHITECTURES = {
    "cnn": CNN,
    # Two blocks on a stream, one with a convolution in its shortcut.
    "residual": Architecture(modules.ResNet([3, 4], 1, 2), example_input=IMAGE),
    # Layers that read and normalise all layers before them.
    "concatenated": Architecture(modules.DenseBlock(), example_input=IMAGE),
}


class Isotropic(nn.Module):
    """The Gaussian prediction of standard normal points, which no permutation changes."""

    def forward(self, t, x, condition=None):
        return Denoised(t[:, None] * x, 1 - t[:, None])


@pytest.fixture(params=GRAPHS)
def make_model(request, generator):
    """Make a model whose refinement is not zero any more, on a base without an order."""

    def make(problem):
        model = GRAPHS[request.param](problem).double().eval()
        for layer in (*model.write_edge.values(), *model.write_node.values()):
            nn.init.normal_(layer.weight, std=0.3, generator=generator)
        model.base = Isotropic()
        return model

    return make


def plain_chart(architecture, geometry):
    """A chart that standardises nothing, and random weights."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, architecture.n_weights)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    chart = WeightChart(architecture, geometry, logit_shift=False).fit(weights)
    mean, scale = torch.zeros_like(chart.state["mean"]), torch.ones_like(chart.state["scale"])
    return WeightChart.from_state(
        architecture, chart.state | {"mean": mean, "scale": scale}
    ), weights


def random_orders(graph, generator):
    hidden = [len(nodes.index) for nodes in graph.node_sets if not nodes.is_named]
    return [torch.randperm(n, generator=generator) for n in hidden]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_coordinates_are_split_and_joined(name, geometry, generator):
    chart, _ = plain_chart(ARCHITECTURES[name], geometry)
    graph = make_graph(chart)
    assert isinstance(graph, ModuleGraph)
    assert graph.n_coordinates == chart.architecture.n_weights
    x = torch.randn(2, graph.n_coordinates, generator=generator, dtype=torch.float64)
    features = graph.split(x.unsqueeze(-1))
    assert torch.equal(graph.join(features.edges, features.nodes), x)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_features_are_filters_places_biases_and_norms(geometry):
    chart, weights = plain_chart(CNN, geometry)
    graph, x = ModuleGraph(chart), chart.to_point(weights)
    features, named = graph.split(x.unsqueeze(-1)), CNN.unflatten(chart.to_weights(x))
    assert graph.layout.sizes == (4, 5, 3, 2)  # channels, then inputs and outputs
    assert graph.layout.ends == ((2, 0), (0, 1), (1, 3))
    expected = [
        named["0.weight"].flatten(3),
        named["3.weight"].flatten(3),
        named["6.weight"].view(3, 2, 5, 16),
    ]
    assert all(torch.equal(*pair) for pair in zip(features.edges, expected, strict=True))
    normed = torch.stack([named["0.bias"], named["1.weight"], named["1.bias"]], dim=-1)
    expected = [
        normed,
        named["3.bias"][..., None],
        torch.empty(3, 3, 0).double(),
        named["6.bias"][..., None],
    ]
    assert all(torch.equal(*pair) for pair in zip(features.nodes, expected, strict=True))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_permuting_coordinates_is_permuting_units(name, geometry, generator):
    architecture = ARCHITECTURES[name]
    chart, weights = plain_chart(architecture, geometry)
    graph, x = ModuleGraph(chart), chart.to_point(weights)
    orders = random_orders(graph, generator)
    moved = chart.to_weights(graph.permute(x, orders))
    buffers = {
        key: torch.rand(3, *shape, generator=generator, dtype=torch.float64) + 0.5
        for key, shape in architecture.buffer_shapes.items()
        if len(shape)  # no counters
    }
    state = architecture.unflatten(chart.to_weights(x)) | buffers
    groups = discover(architecture.module, IMAGE[:2])
    expected = permute_all(groups, state, [order.expand(3, -1) for order in orders])
    named = {key: expected[key] for key in architecture.names}
    torch.testing.assert_close(moved, architecture.flatten(named))
    X = IMAGE.double()
    outputs = architecture.apply(chart.to_weights(x), X, buffers=buffers)
    moved_buffers = {key: expected[key] for key in buffers}
    again = architecture.apply(moved, X, buffers=moved_buffers)
    torch.testing.assert_close(again, outputs, atol=1e-9, rtol=1e-9)
    assert (moved - chart.to_weights(x)).abs().max() > 0.1


@pytest.mark.parametrize("geometry", ["product_sphere", "euclidean"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_commute_with_permutations_of_units(
    make_problem, make_model, draw_noisy, generator, name, geometry
):
    problem = make_problem(ARCHITECTURES[name], geometry)
    model = make_model(problem)
    t, x = draw_noisy(problem, 3)
    orders = random_orders(model.graph, generator)
    moved = model(t, model.graph.permute(x, orders))
    expected = model.graph.permute(model(t, x), orders)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=1e-10)
    assert (moved - model(t, x)).abs().max() > 1e-2  # there was something to move
    refinement = model(t, x) - t[:, None] * x
    assert refinement.abs().max() > 1e-2  # by more than the base


def test_inputs_and_outputs_are_told_apart(make_problem, make_model, draw_noisy):
    """Two inputs that trade places: the model has another answer, as the function has."""
    problem = make_problem(CNN, "euclidean")
    model = make_model(problem)
    t, x = draw_noisy(problem, 2)
    places = torch.arange(CNN.n_weights)
    first = CNN.unflatten(places[None].clone())["0.weight"][0]
    places[first.flatten()] = first[:, [1, 0, 2]].flatten()
    assert (model(t, x[:, places]) - model(t, x)[:, places]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_parameters_have_gradients(make_problem, make_model, draw_noisy, name):
    problem = make_problem(ARCHITECTURES[name], "euclidean")
    model = make_model(problem)
    t, x = draw_noisy(problem, 3)
    model(t, x).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_its_size_does_not_depend_on_the_number_of_channels(make_problem, make_model):
    def count(width):
        image = torch.zeros(2, 1, 12, 12)
        architecture = Architecture(modules.SmallCNN(width, 2), example_input=image)
        model = make_model(make_problem(architecture, "euclidean"))
        return sum(p.numel() for p in model.parameters())

    assert count(2) == count(3)


@pytest.fixture(scope="module")
def population():
    weights = torch.randn(40, CNN.n_weights, generator=torch.Generator().manual_seed(0))
    return WeightPopulation(weights, architecture=CNN, task="classification")


@pytest.mark.parametrize(
    ("velocity", "geometry"), [("relational_transformer", "product_sphere"), ("pna", "euclidean")]
)
def test_flows_of_convolutional_networks(population, velocity, geometry):
    options = {"geometry": geometry, "max_iter": 3, "n_steps": 2, "n_probes": 1, "random_state": 0}
    posterior = FlowPosterior(velocity=velocity, early_stopping=False, **options).fit(population)
    model = posterior.field_.predictor.model
    assert isinstance(model, GRAPHS[velocity].func)
    assert isinstance(model.graph, ModuleGraph)
    weights = posterior.sample(3, random_state=0)
    assert weights.shape == (3, CNN.n_weights)
    assert posterior.predict_proba(IMAGE.numpy(), n_samples=3).shape == (5, 2)
    assert posterior.log_prob(weights[:1]).shape == (1,)
    assert any(layer.weight.abs().max() > 0 for layer in model.write_edge.values())  # it learned


def test_other_widths_are_for_perceptrons(population):
    options = {"velocity": GRAPHS["pna"], "alignment": None, "max_iter": 1, "random_state": 0}
    posterior = FlowPosterior(**options).fit(population)
    with pytest.raises(ValueError, match="architecture must be None for a posterior over Arch"):
        posterior.sample(1, architecture=Architecture.mlp([3, 4, 2]))


class PositionEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 4, 6))
        self.read, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.relu(self.read(x) + self.positions)).mean(1)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.factor = cnn(), nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.factor * self.body(x)


class RandomFeatures(nn.Module):
    """Units that fixed weights make and a sum reads: a norm is all that they have."""

    def __init__(self):
        super().__init__()
        self.register_buffer("fixed", torch.randn(6, 3))
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(1, 2)

    def forward(self, x):
        units = torch.relu(self.norm(nn.functional.linear(x, self.fixed)))
        return self.head(units.sum(1, keepdim=True))


MISFITS = {
    "no edges": (
        RandomFeatures,
        torch.randn(4, 3),
        "'fixed' of Architecture(RandomFeatures, n_weights=16) has units without weights to others",
    ),
    "attention": (
        modules.LibraryAttention,
        torch.randn(2, 6, 5),
        "'attention.in_proj_weight' of Architecture(LibraryAttention, n_weights=772) has units "
        "inside of other units (as heads have); use velocity='mlp'",
    ),
    "positions": (PositionEmbedding, torch.randn(2, 4, 5), "'positions' of Architecture(Position"),
    "factor": (Scaled, IMAGE, "'factor' of Architecture(Scaled, n_weights=468) is a single number"),
    "slope": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.PReLU(), nn.Linear(5, 2)),
        torch.randn(4, 3),
        "'1.weight' of Architecture(Sequential, n_weights=33) has entries that belong to no unit",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parameters_without_a_place_are_named(name):
    make, example, message = MISFITS[name]
    architecture = Architecture(make(), example_input=example)
    with pytest.raises(ValueError, match=re.escape(message)):
        ModuleGraph(WeightChart(architecture, "euclidean", logit_shift=False))


def test_scales_of_noise_belong_to_the_outputs():
    noisy = ConstantNoise(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), 2)
    architecture = Architecture(noisy, example_input=torch.randn(4, 3))
    chart, weights = plain_chart(architecture, "euclidean")
    named = architecture.unflatten(weights)
    outputs = ModuleGraph(chart).split(weights.unsqueeze(-1)).nodes[-1]
    assert torch.equal(outputs[..., 0], named["log_scale"])
    assert torch.equal(outputs[..., 1], named["module.2.bias"])


def test_wrong_charts_and_bases_are_refused(make_problem):
    with pytest.raises(ValueError, match="graph velocities need the architecture .* got None"):
        make_graph(WeightChart(None, "euclidean").fit(torch.randn(30, 4)))
    reduced = WeightChart(CNN, "euclidean", logit_shift=False, reducer=2)
    with pytest.raises(ValueError, match="not reduced to components, .* with reducer=2"):
        make_graph(reduced)
    with pytest.raises(ValueError, match="base must be 'affine' for Architecture"):
        RelationalTransformer(make_problem(CNN), base="exchangeable")
    with pytest.raises(ValueError, match="are found by running it; pass inputs"):
        make_graph(WeightChart(Architecture(cnn()), "euclidean", logit_shift=False))
