"""Charts of modules that are no perceptrons: exact inverses, spheres, flows on them."""

import pickle

import pytest
import symmetric_modules as modules
import torch
from torch import nn

from bayesflow_nn import FlowPosterior
from bayesflow_nn.geometry import SphereBlock
from bayesflow_nn.symmetry import ScaleCanonicalizer, WeightChart
from bayesflow_nn.weights import Architecture, WeightPopulation

IMAGE = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
CNN = Architecture(modules.SmallCNN(4, 3), example_input=IMAGE)
RESNET = Architecture(modules.resnet20(2), example_input=IMAGE.repeat(1, 3, 1, 1))


def random_weights(architecture, n=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, architecture.n_weights, generator=generator, dtype=dtype)


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
@pytest.mark.parametrize("architecture", [CNN, RESNET])
def test_points_lead_back_to_canonical_weights(architecture, geometry):
    weights = random_weights(architecture)
    chart = WeightChart(architecture, geometry, logit_shift=False).fit(weights)
    point = chart.to_point(weights)
    canonical = ScaleCanonicalizer(architecture).fit_transform(weights)
    torch.testing.assert_close(chart.to_weights(point), canonical)
    torch.testing.assert_close(chart.to_point(canonical), point)
    torch.testing.assert_close(chart.project(point), point)


def test_project_restores_directions_and_keeps_the_function():
    weights = random_weights(CNN)
    chart = WeightChart(CNN, "normalized", logit_shift=False).fit(weights)
    generator = torch.Generator().manual_seed(1)
    points = chart.to_point(weights)
    points = points + 0.3 * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    projected = chart.project(points)
    canonical = projected * chart.fixed_scale.nan_to_num(nan=1.0)
    sphere = chart.canonical_manifold.sphere_mask
    on_manifold = chart.canonical_manifold.projx(canonical)
    torch.testing.assert_close(canonical[:, sphere], on_manifold[:, sphere])
    X = IMAGE.double()
    before, after = (CNN.apply(chart.to_weights(p), X) for p in (points, projected))
    torch.testing.assert_close(after, before)


def test_functions_and_the_directions_of_channels_are_kept():
    weights = random_weights(CNN)
    chart = WeightChart(CNN, logit_shift=False).fit(weights)
    networks = chart.to_weights(chart.to_point(weights))
    X = IMAGE.double()
    torch.testing.assert_close(CNN.apply(networks, X), CNN.apply(weights, X))
    # Of every channel the filter, of the hidden dense layer the row.
    spheres = [block for block in chart.manifold.blocks if isinstance(block, SphereBlock)]
    assert [(b.n_spheres, b.dim) for b in spheres] == [(4, 9), (8, 36), (8, 72), (16, 72)]
    first = chart.to_point(weights)[:, :36].view(-1, 4, 9)
    expected = nn.functional.normalize(CNN.unflatten(weights)["conv1.weight"].flatten(2), dim=-1)
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized", "euclidean"])
def test_moving_a_coordinate_moves_the_weight_that_it_is(geometry):
    weights = random_weights(CNN, 2)
    chart = WeightChart(CNN, geometry, logit_shift=False).fit(weights)
    point = chart.to_point(weights)[:1]
    moved = point + torch.eye(point.shape[1], dtype=torch.float64)
    changed = chart.to_weights(moved) != chart.to_weights(point)
    assert torch.equal(changed.sum(1), torch.ones(len(changed), dtype=torch.int64))
    assert torch.equal(changed.int().argmax(1), chart.weight_order)


def test_any_module_has_a_euclidean_chart():
    architecture = Architecture(modules.LibraryAttention(), example_input=torch.randn(2, 6, 5))
    weights = random_weights(architecture)
    chart = WeightChart(architecture, "euclidean", logit_shift=False).fit(weights)
    torch.testing.assert_close(chart.to_weights(chart.to_point(weights)), weights)
    expected = (weights - weights.mean(0)) / weights.std(0, correction=0)
    torch.testing.assert_close(chart.to_point(weights), expected)


def test_rescaled_networks_have_one_point():
    weights = random_weights(CNN)
    networks = CNN.unflatten(weights.clone())
    networks["conv2.weight"] *= 3
    networks["conv2.bias"] *= 3
    networks["conv3.weight"] /= 3
    chart = WeightChart(CNN, logit_shift=False).fit(weights)
    torch.testing.assert_close(chart.to_point(CNN.flatten(networks)), chart.to_point(weights))


def test_the_chart_is_rebuilt_from_its_state():
    bare = Architecture(modules.SmallCNN(4, 3))
    weights = random_weights(bare)
    chart = WeightChart(bare, logit_shift=False, inputs=IMAGE[:2]).fit(weights)
    copy = WeightChart.from_state(bare, pickle.loads(pickle.dumps(chart.state)))
    assert torch.equal(copy.to_point(weights), chart.to_point(weights))


def test_a_flow_runs_on_the_spheres_of_a_convolutional_network():
    population = WeightPopulation(
        random_weights(CNN, 30, torch.float32), architecture=CNN, task="classification"
    )
    posterior = FlowPosterior(velocity="mlp", max_iter=2, n_steps=2, random_state=0).fit(population)
    weights = torch.as_tensor(posterior.sample(4, random_state=0))
    filters = CNN.unflatten(weights)["conv2.weight"].flatten(2)
    torch.testing.assert_close(filters.norm(dim=-1), torch.ones(4, 8))
    assert posterior.predict_proba(IMAGE.numpy(), n_samples=3).shape == (6, 3)
    assert posterior.score_samples(weights[:1]).shape == (1,)


def test_modules_without_scales_and_dead_units_are_refused():
    gelu = Architecture(
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(6, 2)),
        example_input=torch.randn(2, 1, 5),
    )
    with pytest.raises(ValueError, match="must have units whose scale is free"):
        WeightChart(gelu, logit_shift=False)
    for geometry in ("product_sphere", "euclidean"):
        with pytest.raises(ValueError, match="logit_shift must be False for Architecture"):
            WeightChart(CNN, geometry)
    dead = random_weights(CNN)
    dead[1, 18:27] = 0  # the third filter of the first layer
    chart = WeightChart(CNN, logit_shift=False).fit(random_weights(CNN))
    with pytest.raises(ValueError, match="networks 1 have units without incoming weights"):
        chart.to_point(dead)
