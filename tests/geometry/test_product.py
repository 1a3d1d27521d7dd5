"""ProductManifold: blocks, distances against factors one by one, volumes, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, Sphere, SphereBlock

BLOCKS = st.one_of(
    st.builds(SphereBlock, st.integers(1, 4), st.integers(2, 5)),
    st.builds(EuclideanBlock, st.integers(1, 4)),
)


@settings(max_examples=40, deadline=None)
@given(blocks=st.lists(BLOCKS, min_size=1, max_size=5), seed=st.integers(0, 100))
def test_distance_is_the_root_of_summed_squares_over_factors(blocks, seed):
    manifold = ProductManifold(blocks)
    generator = torch.Generator().manual_seed(seed)
    x, y = manifold.random_source(2, generator=generator, dtype=torch.float64)
    total = 0.0
    for block, part in zip(manifold.blocks, manifold.slices, strict=True):
        if isinstance(block, EuclideanBlock):
            total += ((x[part] - y[part]) ** 2).sum().item()
            continue
        for k in range(block.n_spheres):
            factor = slice(part.start + k * block.dim, part.start + (k + 1) * block.dim)
            total += Sphere().dist(x[factor], y[factor]).item() ** 2
    assert math.isclose(manifold.dist(x, y).item(), math.sqrt(total), rel_tol=1e-12)


@settings(max_examples=40, deadline=None)
@given(blocks=st.lists(BLOCKS, min_size=1, max_size=5))
def test_counts_and_masks_follow_the_blocks(blocks):
    manifold = ProductManifold(blocks)
    assert manifold.slices[-1].stop == manifold.n_coordinates == len(manifold.sphere_mask)
    assert manifold.dimension == manifold.n_coordinates - manifold.n_spheres
    assert torch.equal(manifold.sphere_mask, ~manifold.euclidean_mask)


def test_source_is_uniform_on_spheres_and_standard_normal_elsewhere():
    """Second moments 1/d and 1, 20,000 draws; 6 standard errors (at most sqrt(2 / n) each)."""
    manifold = ProductManifold([SphereBlock(2, 4), EuclideanBlock(3)])
    x = manifold.random_source(20_000, generator=torch.Generator().manual_seed(0))
    expected = torch.where(manifold.sphere_mask, 1 / 4, 1.0)
    assert ((x**2).mean(0) - expected).abs().max() < 6 * math.sqrt(2 / 20_000)
    torch.testing.assert_close(x[:, :4].norm(dim=1), torch.ones(20_000))


def test_source_is_reproducible_and_takes_the_dtype():
    manifold = ProductManifold([SphereBlock(2, 4), EuclideanBlock(3)])
    first, second = (
        manifold.random_source(5, torch.Generator().manual_seed(1), dtype=torch.float64)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.dtype == torch.float64


def test_log_volume_adds_the_areas_of_the_spheres():
    manifold = ProductManifold([SphereBlock(2, 2), SphereBlock(1, 3), EuclideanBlock(5)])
    assert math.isclose(manifold.log_volume(), 2 * math.log(2 * math.pi) + math.log(4 * math.pi))
    assert ProductManifold([EuclideanBlock(5)]).log_volume() == 0


def test_equality_and_repr():
    manifold = ProductManifold([SphereBlock(2, 3)])
    assert manifold == ProductManifold([SphereBlock(2, 3)])
    assert manifold != ProductManifold([SphereBlock(3, 2)])
    assert hash(manifold) == hash(ProductManifold([SphereBlock(2, 3)]))
    assert repr(manifold) == "ProductManifold([SphereBlock(n_spheres=2, dim=3)])"


def test_bad_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks must hold at least one block"):
        ProductManifold([])
    with pytest.raises(TypeError, match=r"SphereBlock or EuclideanBlock instances, got tuple"):
        ProductManifold([(2, 3)])
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        SphereBlock(3, 1)
    with pytest.raises(ValueError, match="n_spheres must be at least 1, got 0"):
        SphereBlock(0, 3)
    with pytest.raises(TypeError, match=r"dim must be an integer, got 2\.0"):
        EuclideanBlock(2.0)


@pytest.mark.parametrize("shape", [(), (4,), (2, 6)])
def test_points_of_the_wrong_length_are_refused(shape):
    manifold = ProductManifold([SphereBlock(1, 3), EuclideanBlock(2)])
    with pytest.raises(ValueError, match=r"points must have shape \(\.\.\., 5\)"):
        manifold.projx(torch.zeros(shape))
