"""WeightChart: exact inverses, same functions, standardised coordinates, volumes."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from bayesflow_nn.geometry import EuclideanBlock, SphereBlock
from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.weights import Architecture, WeightPopulation

GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
OUTPUT_LAYERS = ["polar", "sphere", "euclidean"]
DEPTHS = [[5, 3], [5, 7, 3], [5, 7, 6, 3], [5, 7, 6, 4, 3], [5, 7, 6, 4, 8, 3]]
EXACT = [*itertools.product(GEOMETRIES, ["polar", "euclidean"]), ("euclidean", "sphere")]


def random_weights(mlp, n=40, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, mlp.n_weights, generator=generator, dtype=dtype)


def random_inputs(mlp, dtype=torch.float64):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(25, mlp.sizes[0], generator=generator, dtype=dtype)


def fitted(sizes=(5, 7, 6, 3), **options):
    mlp = Architecture.mlp(sizes)
    return WeightChart(mlp, **options).fit(random_weights(mlp))


def random_points(chart, n=10):
    """Points of the manifold that come from no network."""
    generator = torch.Generator().manual_seed(5)
    shape = (n, chart.manifold.n_coordinates)
    return chart.project(torch.randn(shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(("geometry", "output_layer"), EXACT)
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_there_and_back_keeps_the_probabilities(sizes, geometry, output_layer):
    mlp = Architecture.mlp(sizes)
    weights, X = random_weights(mlp), random_inputs(mlp)
    chart = WeightChart(mlp, geometry, output_layer).fit(weights)
    back = chart.to_weights(chart.to_point(weights))
    expected = mlp.apply(weights, X).softmax(-1)
    torch.testing.assert_close(mlp.apply(back, X).softmax(-1), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("geometry", "output_layer"), EXACT)
@pytest.mark.parametrize("sizes", DEPTHS, ids=len)
def test_there_and_back_keeps_regression_outputs(sizes, geometry, output_layer):
    mlp = Architecture.mlp([*sizes[:-1], 1])
    weights, X = random_weights(mlp), random_inputs(mlp)
    chart = WeightChart(mlp, geometry, output_layer, logit_shift=False).fit(weights)
    back = chart.to_weights(chart.to_point(weights))
    torch.testing.assert_close(mlp.apply(back, X), mlp.apply(weights, X), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
def test_output_directions_alone_keep_the_predicted_class(geometry):
    mlp = Architecture.mlp([5, 7, 3])
    weights, X = random_weights(mlp), random_inputs(mlp)
    chart = WeightChart(mlp, geometry, "sphere").fit(weights)
    back = chart.to_weights(chart.to_point(weights))
    assert torch.equal(mlp.apply(back, X).argmax(-1), mlp.apply(weights, X).argmax(-1))
    norm = mlp.unflatten(back)["2.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(norm, torch.ones(40).double())


@pytest.mark.parametrize("output_layer", OUTPUT_LAYERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("logit_shift", [True, False])
def test_points_come_back_from_weights(geometry, output_layer, logit_shift):
    chart = fitted(geometry=geometry, output_layer=output_layer, logit_shift=logit_shift)
    points = random_points(chart)
    torch.testing.assert_close(
        chart.to_point(chart.to_weights(points)), points, atol=1e-10, rtol=1e-10
    )


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(2, 5), min_size=2, max_size=5),
    bias=st.booleans(),
    geometry=st.sampled_from(GEOMETRIES),
    output_layer=st.sampled_from(OUTPUT_LAYERS),
    logit_shift=st.booleans(),
)
def test_any_shape(sizes, bias, geometry, output_layer, logit_shift):
    mlp = Architecture.mlp(sizes, bias=bias)
    chart = WeightChart(mlp, geometry, output_layer, logit_shift).fit(random_weights(mlp, 8))
    points = random_points(chart)
    weights = chart.to_weights(points)
    assert weights.shape == (10, mlp.n_weights)
    torch.testing.assert_close(chart.to_point(weights), points, atol=1e-9, rtol=1e-9)


def test_float32_goes_there_and_back_within_rounding():
    """Some ten roundings per coordinate; the logarithm of the norm is the largest of them."""
    mlp = Architecture.mlp([5, 7, 6, 3])
    weights = random_weights(mlp)
    for geometry, output_layer in itertools.product(GEOMETRIES, OUTPUT_LAYERS):
        chart = WeightChart(mlp, geometry, output_layer).fit(weights)
        points = random_points(chart).float()
        back = chart.to_point(chart.to_weights(points))
        assert back.dtype == torch.float32
        torch.testing.assert_close(back, points, atol=2e-5, rtol=2e-5)


def test_coordinates_of_one_network_by_hand():
    """First neuron (3, 4) with bias 10 has norm 5; its outputs (1, 2) become (5, 10)."""
    mlp = Architecture.mlp([2, 2, 2])
    weights = torch.tensor([[3.0, 4, 0, 2, 10, 6, 1, 0, 2, 0, 0, 2]], dtype=torch.float64)
    chart = WeightChart(mlp).fit(weights.repeat(2, 1))
    chart = WeightChart.from_state(
        mlp, chart.state | {"mean": torch.zeros(10), "scale": torch.ones(10)}
    )
    # Zero-sum coordinates are differences over sqrt(2): (5 - 10, 0) and (0 - 2).
    norm = 5 / math.sqrt(2)
    expected = [0.6, 0.8, 0, 1, 2, 3, -1, 0, math.log(norm), -2 / math.sqrt(2)]
    point = chart.to_point(weights)
    torch.testing.assert_close(point, torch.tensor([expected], dtype=torch.float64))


def test_order_of_blocks():
    chart = fitted((5, 7, 6, 3))
    assert chart.manifold.blocks == (
        SphereBlock(7, 5),
        EuclideanBlock(7),
        SphereBlock(6, 7),
        EuclideanBlock(6),
        SphereBlock(1, 2 * 6),
        EuclideanBlock(1),
        EuclideanBlock(2),
    )
    assert fitted(output_layer="sphere").manifold.blocks[-2:] == (
        SphereBlock(1, 12),
        EuclideanBlock(2),
    )
    assert fitted(output_layer="euclidean").manifold.blocks[-2:] == (
        EuclideanBlock(12),
        EuclideanBlock(2),
    )
    for geometry in ("normalized", "euclidean"):
        assert fitted(geometry=geometry).manifold.n_spheres == 0


def test_the_logit_shift_costs_one_dimension_per_column_and_one_for_the_bias():
    with_shift = fitted(geometry="euclidean", logit_shift=False).manifold.dimension
    assert with_shift - fitted(geometry="euclidean").manifold.dimension == 6 + 1


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_euclidean_coordinates_are_standardised_and_directions_are_not(geometry):
    mlp = Architecture.mlp([5, 7, 6, 3])
    weights = 3 * random_weights(mlp) + 1
    chart = WeightChart(mlp, geometry).fit(weights)
    points = chart.to_point(weights)
    directions = WeightChart(mlp).manifold.sphere_mask
    if geometry == "euclidean":
        directions = torch.zeros(points.shape[1], dtype=torch.bool)
    standardised = points[:, ~directions]
    torch.testing.assert_close(standardised.mean(0), torch.zeros(standardised.shape[1]).double())
    torch.testing.assert_close(
        standardised.std(0, correction=0), torch.ones(standardised.shape[1]).double()
    )
    lengths = {"product_sphere": 1.0, "normalized": math.sqrt(5)}
    if geometry in lengths:
        norms = points[:, :35].reshape(-1, 5).norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, lengths[geometry]))


def test_constant_coordinates_are_centred_and_keep_their_scale():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp, dtype=torch.float32)
    weights[:, 3], weights[:, 10] = 0.1, 0.0
    chart = WeightChart(mlp, "euclidean").fit(weights)
    points = chart.to_point(weights)
    assert points.isfinite().all()
    assert points[:, [3, 10]].abs().max() < 1e-6
    assert torch.equal(chart.state["scale"][[3, 10]], torch.ones(2).double())


def test_weights_that_all_but_vanish_are_not_blown_up():
    """One network in which a weight has not quite decayed would be 14 deviations away, of 200."""
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp, 200)
    weights[:, 3], weights[0, 3] = 0.0, 1e-9
    chart = WeightChart(mlp, "euclidean", logit_shift=False).fit(weights)
    points = chart.to_point(weights)
    others = torch.arange(mlp.n_weights) != 3
    deviations = weights[:, others].std(0, correction=0)
    torch.testing.assert_close(chart.state["scale"][others], deviations)
    largest = weights.std(0, correction=0).quantile(0.9).item()
    assert chart.state["scale"][3].item() == pytest.approx(1e-4 * largest)
    assert points[:, 3].abs().max() < 1e-4
    torch.testing.assert_close(chart.to_weights(points), weights)
    # Columns of an array are no weights: each may have units of its own.
    array = WeightChart(None, "euclidean").fit(weights).to_point(weights)
    assert array[0, 3] > 14


def test_a_single_network_can_be_fitted():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp, 1)
    chart = WeightChart(mlp).fit(weights)
    assert chart.to_point(weights).isfinite().all()
    assert (chart.state["scale"] == 1).all()


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
@pytest.mark.parametrize("output_layer", OUTPUT_LAYERS)
def test_project_restores_directions_and_keeps_the_function(geometry, output_layer):
    chart = fitted(geometry=geometry, output_layer=output_layer)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, chart.manifold.n_coordinates, generator=generator).double()
    projected = chart.project(points)
    torch.testing.assert_close(chart.project(projected), projected)
    before, after = chart.to_weights(points), chart.to_weights(projected)
    rows = after[:, :35].reshape(6, 7, 5)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(6, 7).double())
    X = random_inputs(chart.architecture)
    logits = [chart.architecture.apply(weights, X) for weights in (before, after)]
    if output_layer == "sphere":
        assert torch.equal(logits[0].argmax(-1), logits[1].argmax(-1))
    else:
        torch.testing.assert_close(logits[0].softmax(-1), logits[1].softmax(-1))


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
def test_project_is_differentiable(geometry):
    chart = fitted(geometry=geometry)
    point = torch.randn(2, chart.manifold.n_coordinates, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(chart.project, (point.double().requires_grad_(),))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moves_follow_geodesics_and_give_no_norm_to_other_layers(geometry):
    chart = fitted(geometry=geometry)
    points = random_points(chart)
    generator = torch.Generator().manual_seed(6)
    step = 0.1 * torch.randn(points.shape, generator=generator, dtype=points.dtype)
    moved = chart.move(points, step)
    torch.testing.assert_close(chart.project(moved), moved)  # still on the spheres
    on_sphere = chart.canonical_manifold.sphere_mask
    torch.testing.assert_close(moved[:, ~on_sphere], (points + step)[:, ~on_sphere])
    # To first order this is the tangent part of the step.
    short = chart.move(points, 1e-6 * step) - points
    scale = chart.fixed_scale.nan_to_num(1.0)  # of directions
    tangent = chart.canonical_manifold.proju(scale * points, scale * step) / scale
    expected = torch.where(on_sphere, tangent, step)
    torch.testing.assert_close(short / 1e-6, expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_projected_where_there_is_no_sphere():
    chart = fitted(geometry="euclidean")
    points = torch.randn(6, chart.manifold.n_coordinates, dtype=torch.float64)
    assert torch.equal(chart.project(points), points)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("output_layer", OUTPUT_LAYERS)
def test_to_weights_is_differentiable_and_does_not_project(geometry, output_layer):
    chart = fitted(geometry=geometry, output_layer=output_layer)
    point = random_points(chart, 1).requires_grad_()
    assert torch.autograd.gradcheck(chart.to_weights, (point,))
    if geometry != "euclidean":
        first_row = chart.to_weights(2 * point)[0, :5]
        torch.testing.assert_close(first_row, 2 * chart.to_weights(point)[0, :5])


def test_to_weights_runs_under_vmap():
    chart = fitted()
    points = random_points(chart)
    torch.testing.assert_close(torch.func.vmap(chart.to_weights)(points), chart.to_weights(points))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_log_abs_det_is_the_volume_of_the_standardisation(geometry):
    """Coordinates are read off with a chart of mean 0 and scale 1; the Jacobian is numerical."""
    chart = fitted((3, 4, 2), geometry=geometry, output_layer="euclidean")
    n = chart.manifold.n_coordinates
    plain_state = chart.state | {"mean": torch.zeros(n), "scale": torch.ones(n)}
    plain = WeightChart.from_state(chart.architecture, plain_state)
    basis = torch.eye(n, dtype=torch.float64)
    # to_weights is affine here, and injective: compare it with that of the plain chart.
    origin = torch.zeros(1, n, dtype=torch.float64)
    jacobian = (chart.to_weights(basis) - chart.to_weights(origin)).T
    plain_jacobian = (plain.to_weights(basis) - plain.to_weights(origin)).T
    change = torch.linalg.lstsq(plain_jacobian, jacobian).solution
    assert math.isclose(chart.log_abs_det(), torch.linalg.slogdet(change)[1].item(), rel_tol=1e-9)


def test_log_polar_jacobian_is_that_of_plane_polar_coordinates():
    """W = r (cos a, sin a): dW = r^2 d(log r) da."""
    mlp = Architecture.mlp([2, 1])
    chart = WeightChart(mlp, logit_shift=False).fit(random_weights(mlp))

    def matrix(log_r_and_angle):
        log_r, angle = log_r_and_angle
        return log_r.exp() * torch.stack([angle.cos(), angle.sin()])

    weights = random_weights(mlp, 1, seed=3)
    w = weights[0, :2]
    polar = torch.stack([w.norm().log(), torch.atan2(w[1], w[0])])
    expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(matrix, polar))[1]
    found = chart.log_polar_jacobian(chart.to_point(weights))
    torch.testing.assert_close(found, expected[None])


def test_log_polar_jacobian_uses_the_norm_of_the_output_matrix():
    for bias in (True, False):
        mlp = Architecture.mlp([5, 7, 3], bias=bias)
        weights = random_weights(mlp)
        chart = WeightChart(mlp).fit(weights)
        points = chart.to_point(weights)
        output = chart.to_weights(points)[:, mlp.layers[-1].weight]
        torch.testing.assert_close(
            chart.log_polar_jacobian(points), 2 * 7 * output.norm(dim=1).log()
        )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_log_polar_jacobian_is_zero_without_polar_coordinates(geometry):
    chart = fitted(geometry=geometry, output_layer="euclidean")
    assert torch.equal(chart.log_polar_jacobian(random_points(chart)), torch.zeros(10).double())


def test_state_rebuilds_the_chart():
    chart = fitted(geometry="normalized")
    assert {type(value) for value in chart.state.values()} <= {str, bool, torch.Tensor}
    points = random_points(chart)
    for copy in (
        WeightChart.from_state(chart.architecture, pickle.loads(pickle.dumps(chart.state))),
        pickle.loads(pickle.dumps(chart)),
    ):
        assert torch.equal(copy.to_weights(points), chart.to_weights(points))


def test_a_population_brings_its_weights():
    mlp = Architecture.mlp([5, 7, 3])
    population = WeightPopulation(random_weights(mlp), architecture=mlp)
    chart = WeightChart(mlp).fit(population)
    assert torch.equal(chart.to_point(population), chart.to_point(population.weights.numpy()))


def test_a_plain_array_is_standardised_per_column():
    array = np.random.default_rng(0).normal(3, [1, 5, 0], size=(200, 3))
    chart = WeightChart(None, geometry="euclidean").fit(array)
    points = chart.to_point(array)
    np.testing.assert_allclose(points.numpy(), (array - array.mean(0)) / [*array[:, :2].std(0), 1])
    np.testing.assert_allclose(chart.to_weights(points).numpy(), array)
    assert chart.manifold.blocks == (EuclideanBlock(3),)
    assert math.isclose(chart.log_abs_det(), np.log(array[:, :2].std(0)).sum())
    assert torch.equal(chart.log_polar_jacobian(points), torch.zeros(200).double())
    assert torch.equal(chart.project(points), points)
    copy = WeightChart.from_state(None, chart.state)
    assert torch.equal(copy.to_point(array), points)


def test_dead_neurons_are_encoded_with_a_warning():
    mlp = Architecture.mlp([5, 7, 3])
    weights, X = random_weights(mlp), random_inputs(mlp)
    weights[4, :5] = 0
    with pytest.warns(UserWarning, match=r"1 hidden neurons in 1 of 40 networks .* networks 4"):
        chart = WeightChart(mlp).fit(weights)
    with pytest.warns(UserWarning, match="dead"):
        back = chart.to_weights(chart.to_point(weights))
    torch.testing.assert_close(
        mlp.apply(back, X).softmax(-1), mlp.apply(weights, X).softmax(-1), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "sphere"}, r"geometry must be one of \['product_sphere', 'normalized'"),
        ({"output_layer": "cone"}, r"output_layer must be one of \['polar', 'sphere'"),
        ({"logit_shift": "auto"}, "logit_shift must be True or False, got 'auto'"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightChart(Architecture.mlp([5, 7, 3]), **options)


def test_architectures_without_such_a_chart_are_refused():
    with pytest.raises(TypeError, match="architecture must be an Architecture, got list"):
        WeightChart([5, 7, 3])
    with pytest.raises(ValueError, match="geometry must be 'euclidean' without an architecture"):
        WeightChart(None)
    tanh = Architecture.mlp([5, 7, 3], activation="tanh")
    for geometry in ("product_sphere", "normalized"):
        with pytest.raises(ValueError, match="got 'tanh'; use geometry='euclidean'"):
            WeightChart(tanh, geometry)
    assert WeightChart(tanh, "euclidean").geometry == "euclidean"
    with pytest.raises(ValueError, match="logit_shift must be False for a network with one output"):
        WeightChart(Architecture.mlp([5, 7, 1]))
    with pytest.raises(ValueError, match="rows hold a single weight; .* use geometry='euclidean'"):
        WeightChart(Architecture.mlp([1, 7, 3]))


def test_networks_without_an_output_direction_are_named():
    mlp = Architecture.mlp([5, 7, 3])
    weights = random_weights(mlp)
    weights[3, mlp.layers[-1].weight] = 0
    with pytest.raises(ValueError, match="networks 3 have a zero output layer"):
        WeightChart(mlp).fit(weights)


def test_it_must_be_fitted_first_and_refuses_wrong_lengths():
    chart = WeightChart(Architecture.mlp([5, 7, 3]))
    with pytest.raises(NotFittedError, match="this WeightChart is not fitted yet"):
        chart.to_weights(torch.zeros(1, 65))
    with pytest.raises(NotFittedError, match="this WeightChart is not fitted yet"):
        WeightChart(None, "euclidean").manifold  # noqa: B018
    with pytest.raises(ValueError, match=r"points must have shape \(\.\.\., 5\)"):
        WeightChart(None, "euclidean").fit(torch.zeros(2, 5)).to_point(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must have shape"):
        fitted((5, 7, 3)).to_weights(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"points must have shape \(\.\.\., 67\), .* got \(59,\)"):
        WeightChart.from_state(Architecture.mlp([5, 8, 3]), fitted((5, 7, 3)).state)
    with pytest.raises(ValueError, match="networks 1 are not finite"):
        WeightChart(None, "euclidean").fit([[0.0, 1.0], [math.nan, 1.0]])


def test_a_reduced_chart_keeps_the_density_of_all_coordinates():
    """A Gaussian law of the points and of what they leave out is one of the standardised rows."""
    rng = np.random.default_rng(0)
    rows = torch.as_tensor(rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)))
    chart = WeightChart(None, "euclidean", reducer=2).fit(rows)
    point = chart.to_point(rows)
    assert chart.manifold.n_coordinates == point.shape[1] == 2
    torch.testing.assert_close(chart.to_point(chart.to_weights(point)), point)
    log_prob = torch.distributions.Normal(0, 1).log_prob(point).sum(1)
    log_prob += chart.log_residual(rows) - chart.log_abs_det()
    scale = rows.std(0, correction=0)
    values, axes = torch.linalg.eigh((rows / scale).T.cov())
    left_out = values[:3].sum() * 299 / 300 / 3  # a mean over 300 rows
    values[:3] = left_out
    covariance = scale[:, None] * (axes * values) @ axes.T * scale
    law = torch.distributions.MultivariateNormal(rows.mean(0), covariance)
    torch.testing.assert_close(log_prob, law.log_prob(rows))


def test_a_reduced_chart_is_rebuilt_and_draws_what_it_left_out():
    rows = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).double()
    chart = WeightChart(None, "euclidean", reducer=2).fit(rows)
    copy = WeightChart.from_state(None, pickle.loads(pickle.dumps(chart.state)))
    point = chart.to_point(rows)
    torch.testing.assert_close(copy.to_point(rows), point)
    drawn = copy.draw_weights(point, torch.Generator().manual_seed(0))
    torch.testing.assert_close(chart.to_point(drawn), point)
    assert (drawn - chart.to_weights(point)).std(0).min() > 0.1
    plain = WeightChart(None, "euclidean").fit(rows)
    assert plain.log_residual(rows).abs().max() == 0
    assert torch.equal(plain.draw_weights(rows, torch.Generator()), plain.to_weights(rows))


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
def test_directions_have_no_principal_components(geometry):
    mlp = Architecture.mlp([5, 8, 3])
    with pytest.raises(ValueError, match=f"reducer must be None for geometry='{geometry}'"):
        WeightChart(mlp, geometry, reducer=2)
