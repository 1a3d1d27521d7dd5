"""Pooled charts: orbits found by moving neurons, statistics of orbits, charts of other widths."""

import itertools

import pytest
import torch
from permuted_neurons import permute_neurons, random_orders
from torch import nn

from bayesflow_nn.symmetry import WeightChart, carry, transfer_chart
from bayesflow_nn.weights import Architecture

GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
OUTPUT_LAYERS = ["polar", "sphere", "euclidean"]
CHARTS = [*itertools.product(GEOMETRIES, OUTPUT_LAYERS)]
OWN = Architecture.mlp([4, 5, 6, 3])
WIDE = Architecture.mlp([4, 9, 7, 3])


def random_weights(mlp, n=30):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, mlp.n_weights, generator=generator, dtype=torch.float64)


def fitted(mlp=OWN, geometry="product_sphere", output_layer="polar", logit_shift=True):
    chart = WeightChart(mlp, geometry, output_layer, logit_shift, pooled=True)
    return chart.fit(random_weights(mlp))


def deviation(values):
    return values.std(correction=0)


def found_orbits(chart):
    """What swaps of two neighbouring neurons exchange, as a set of sets of coordinates."""
    mlp, coordinates = chart.architecture, chart._coordinates
    weights = random_weights(mlp, 1)
    own = coordinates.encode(weights)[0]
    orbit = {place: {place} for place in range(len(own))}
    for layer, size in enumerate(mlp.sizes[1:-1]):
        for first in range(size - 1):
            orders = [torch.arange(n) for n in mlp.sizes[1:-1]]
            orders[layer][[first, first + 1]] = torch.tensor([first + 1, first])
            moved = coordinates.encode(permute_neurons(mlp, weights, orders))[0]
            # All values differ, so that each is found where it went, up to rounding of norms.
            for place, went in enumerate((own[:, None] - moved).abs().argmin(1).tolist()):
                union = orbit[place] | orbit[went]
                orbit |= dict.fromkeys(union, union)
    return {frozenset(members) for members in orbit.values()}


@pytest.mark.parametrize("sizes", [[4, 3], [4, 5, 3], [4, 3, 5, 3]], ids=len)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("geometry", "output_layer"), CHARTS)
def test_orbits_are_what_swaps_of_neurons_exchange(sizes, bias, geometry, output_layer):
    chart = fitted(Architecture.mlp(sizes, bias=bias), geometry, output_layer)
    orbits = chart.orbits
    assert torch.equal(orbits.unique(), torch.arange(orbits.max() + 1))
    listed = {frozenset((orbits == orbit).nonzero().flatten().tolist()) for orbit in orbits}
    assert listed == found_orbits(chart)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_statistics_are_those_of_all_values_of_an_orbit(geometry):
    chart = fitted(geometry=geometry)
    coordinates, state = chart._coordinates.encode(random_weights(OWN)), chart.state
    standardised = chart.fixed_scale.isnan()
    for orbit in chart.orbits[standardised].unique():
        members = (chart.orbits == orbit) & standardised
        values = coordinates[:, members]
        torch.testing.assert_close(state["mean"][members], values.mean().expand(members.sum()))
        expected = deviation(values).expand(members.sum())
        torch.testing.assert_close(state["scale"][members], expected)


def test_an_orbit_that_is_constant_has_scale_one():
    mlp = Architecture.mlp([2, 3, 2])
    weights = random_weights(mlp)
    weights[:, mlp.layers[0].bias] = 0.7
    chart = WeightChart(mlp, "euclidean", pooled=True).fit(weights)
    assert (chart.state["scale"][mlp.layers[0].bias] == 1).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_points_of_permuted_networks_hold_the_same_values_in_every_orbit(geometry):
    chart, weights = fitted(geometry=geometry), random_weights(OWN, 3)
    orders = random_orders(OWN, torch.Generator().manual_seed(3))
    own, moved = (chart.to_point(rows) for rows in (weights, permute_neurons(OWN, weights, orders)))
    assert (own - moved).abs().max() > 0.1
    for orbit in chart.orbits.unique():
        members = chart.orbits == orbit
        torch.testing.assert_close(own[:, members].sort(1)[0], moved[:, members].sort(1)[0])
    X = random_weights(Architecture.mlp([1, 4], bias=False), 9)
    torch.testing.assert_close(
        OWN.apply(chart.to_weights(moved), X), OWN.apply(chart.to_weights(own), X)
    )


@pytest.mark.parametrize(("geometry", "output_layer"), CHARTS)
def test_a_chart_transferred_to_its_own_architecture_is_itself(geometry, output_layer):
    chart = fitted(geometry=geometry, output_layer=output_layer)
    again = transfer_chart(chart, OWN)
    for name in ("mean", "scale"):
        assert torch.equal(again.state[name], chart.state[name])
    assert again.manifold == chart.manifold


def test_statistics_of_wider_layers_are_those_of_their_roles():
    """In the geometry of weights as they are, they can be read from the weights."""
    chart = fitted(geometry="euclidean", logit_shift=False)
    wide = transfer_chart(chart, WIDE)
    own = OWN.unflatten(random_weights(OWN))
    for statistic, of, power in (("mean", torch.mean, 1), ("scale", deviation, 0.5)):
        found = {name: t[0] for name, t in WIDE.unflatten(wide.state[statistic][None]).items()}
        for place in range(4):  # an input
            expected = of(own["0.weight"][:, :, place]).expand(9)
            torch.testing.assert_close(found["0.weight"][:, place], expected)
        for place in range(3):  # an output; there are 7 weights to it instead of 6
            expected = (6 / 7) ** power * of(own["4.weight"][:, place]).expand(7)
            torch.testing.assert_close(found["4.weight"][place], expected)
            torch.testing.assert_close(found["4.bias"][place], of(own["4.bias"][:, place]))
        expected = (5 / 9) ** power * of(own["2.weight"]).expand(7, 9)
        torch.testing.assert_close(found["2.weight"], expected)
        for name, n in (("0.bias", 9), ("2.bias", 7)):
            torch.testing.assert_close(found[name], of(own[name]).expand(n))


@pytest.mark.parametrize(("geometry", "output_layer"), CHARTS)
def test_sums_over_hidden_neurons_keep_their_moments(geometry, output_layer):
    """The outputs on constant hidden features, of standard points, at 6 and at 600 neurons."""
    chart = fitted(Architecture.mlp([4, 6, 2]), geometry, output_layer, logit_shift=False)
    wide = transfer_chart(chart, Architecture.mlp([4, 600, 2]))
    generator, sums = torch.Generator().manual_seed(2), []
    for own in (chart, wide):
        points = own.manifold.random_source(4000, generator, torch.float64)
        weights = own.architecture.unflatten(own.to_weights(own.project(points)))
        sums.append(weights["2.weight"].sum(2))
    # Of 4,000 values a mean strays by 0.016 deviations, a deviation by 1.1 %; the bounds are five
    # times that.
    own, of_wide = sums
    spread = own.std(0)
    assert ((of_wide.mean(0) - own.mean(0)).abs() < 0.12 * spread).all()
    assert ((of_wide.std(0) / spread - 1).abs() < 0.08).all()


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
def test_directions_keep_unit_length_whatever_their_dimension(geometry):
    wide = transfer_chart(fitted(geometry=geometry), WIDE)
    points = wide.project(torch.randn(2, wide.manifold.n_coordinates, dtype=torch.float64))
    weights = WIDE.unflatten(wide.to_weights(points))
    for name in ("0.weight", "2.weight"):
        norm = weights[name].norm(dim=-1)
        torch.testing.assert_close(norm, torch.ones_like(norm))


def test_values_are_carried_to_their_orbits():
    chart = fitted(Architecture.mlp([2, 1, 2]), "euclidean", logit_shift=False)
    wide = transfer_chart(chart, Architecture.mlp([2, 3, 2]))
    # Two inputs, a hidden bias, two outputs, their biases.
    carried = carry(torch.arange(7.0), chart, wide)
    assert carried.tolist() == [0, 1, 0, 1, 0, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6]


def test_a_pooled_chart_comes_back_from_its_state():
    chart = fitted()
    again = WeightChart.from_state(OWN, chart.state)
    assert again.pooled
    weights = random_weights(OWN, 2)
    assert torch.equal(again.to_point(weights), chart.to_point(weights))


OTHERS = [
    (Architecture.mlp([4, 5, 3]), "depth"),
    (Architecture.mlp([3, 5, 6, 3]), "number of inputs"),
    (Architecture.mlp([4, 5, 6, 2]), "number of outputs"),
    (Architecture.mlp([4, 5, 6, 3], activation="leaky_relu"), "activation"),
    (Architecture.mlp([4, 5, 6, 3], bias=False), "set of biases"),
    (Architecture(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))), "kind"),
]


@pytest.mark.parametrize(("other", "difference"), OTHERS, ids=[name for _, name in OTHERS])
def test_architectures_that_differ_in_more_than_widths_are_refused(other, difference):
    with pytest.raises(ValueError, match=f"has another {difference}; fit a flow to networks"):
        transfer_chart(fitted(), other)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"chart must be pooled, .* WeightChart\(pooled=True\)"):
        transfer_chart(WeightChart(OWN).fit(random_weights(OWN)), WIDE)
    with pytest.raises(ValueError, match="pooled must be True or False, got 1"):
        WeightChart(OWN, pooled=1)
    with pytest.raises(ValueError, match="pooled must be False unless .* got None"):
        WeightChart(None, "euclidean", pooled=True)
    with pytest.raises(ValueError, match="pooled must be False unless .* reducer=2"):
        WeightChart(OWN, "euclidean", reducer=2, pooled=True)
