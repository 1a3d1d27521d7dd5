"""Sources: their densities are those of their samples; contraction towards the data."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import f, kstest, multivariate_t

from bayesflow_nn.flow import StandardSource, StudentSource, contract
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock


@pytest.fixture
def centre(product, draw_points):
    """Direction of the data: a point off the manifold, as a mean of points is."""
    return draw_points(product, 20).mean(0)


def test_the_density_on_euclidean_blocks_is_standard_normal(generator):
    x = 3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    log_prob = StandardSource(ProductManifold([EuclideanBlock(4)])).log_prob(x)
    torch.testing.assert_close(log_prob, expected)


@pytest.mark.parametrize(
    ("dim", "area"), [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)], ids=["1", "2", "3"]
)
def test_the_density_on_a_sphere_is_one_over_its_area(dim, area, draw_points):
    manifold = ProductManifold([SphereBlock(1, dim)])
    log_prob = StandardSource(manifold).log_prob(draw_points(manifold, 5))
    expected = torch.full((5,), -math.log(area), dtype=torch.float64)
    torch.testing.assert_close(log_prob, expected)


def test_the_log_density_of_a_product_adds_over_its_factors(product, draw_points):
    x = draw_points(product, 10)
    parts = [
        StandardSource(ProductManifold([block])).log_prob(x[:, part])
        for block, part in zip(product.blocks, product.slices, strict=True)
    ]
    torch.testing.assert_close(StandardSource(product).log_prob(x), sum(parts))


def test_samples_have_the_moments_of_the_source(product, generator):
    """Mean zero; covariance I on Euclidean blocks and I / dim on each sphere in R^dim."""
    n = 40_000
    x = StandardSource(product).sample(n, generator=generator, like=torch.zeros(0))
    variances = [
        torch.full((block.n_coordinates,), 1 / block.dim if isinstance(block, SphereBlock) else 1.0)
        for block in product.blocks
    ]
    # No entry has a standard error above sqrt(2 / n) = 0.007; five of them cover all 21 x 22.
    bound = 5 * math.sqrt(2 / n)
    covariance = torch.diag(torch.cat(variances))
    torch.testing.assert_close(x.mean(0), torch.zeros(21), atol=bound, rtol=0)
    torch.testing.assert_close(x.T @ x / n, covariance, atol=bound, rtol=0)


@pytest.mark.parametrize(
    "source", [StandardSource, functools.partial(StudentSource, dof=3.0)], ids=["normal", "t"]
)
def test_samples_follow_the_generator_and_the_dtype(product, source):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        like = torch.zeros(0, dtype=torch.float64)
        return source(product).sample(3, generator=generator, like=like)

    assert draw(1).dtype == torch.float64
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("dof", [1.0, 5.0])
def test_the_student_source_is_a_multivariate_student_law(dof, generator):
    x = 3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)
    expected = multivariate_t(loc=np.zeros(4), df=dof).logpdf(x.numpy())
    log_prob = StudentSource(ProductManifold([EuclideanBlock(4)]), dof).log_prob(x)
    np.testing.assert_allclose(log_prob, expected)


def test_students_of_many_degrees_of_freedom_are_normal(product, draw_points):
    x = draw_points(product, 10)
    expected = StandardSource(product).log_prob(x)
    # The difference is (|x|^4 - 2 n |x|^2 + n^2 - 2 n) / (4 dof): below 1e-6 for |x|^2 < 20, with
    # 1e-7 of rounding in the log gamma of dof.
    torch.testing.assert_close(StudentSource(product, 1e8).log_prob(x), expected, rtol=0, atol=1e-6)


def test_student_samples_follow_their_law(product, generator):
    x = StudentSource(product, 3.0).sample(4000, generator=generator, like=torch.zeros(0))
    torch.testing.assert_close(x, product.projx(x))  # on the spheres
    normal = x[:, product.euclidean_mask]
    n = normal.shape[1]
    # |x|^2 / n of a multivariate t has the F distribution.
    assert kstest((normal**2).sum(1) / n, f(n, 3).cdf).pvalue > 1e-3


def test_contraction_multiplies_every_distance_to_the_centre_by_the_temperature(
    product, draw_points, centre
):
    x_0 = draw_points(product, 30)
    base = product.projx(torch.where(product.sphere_mask, centre, 0.0))
    before = product.logmap(base.expand_as(x_0), x_0)
    after = product.logmap(base.expand_as(x_0), contract(product, x_0, centre, 0.3))
    # Log and exp near antipodes, as in test_path.
    torch.testing.assert_close(after, 0.3 * before, atol=1e-12, rtol=0)


def test_temperature_one_keeps_the_source_and_zero_is_the_centre(product, draw_points, centre):
    x_0 = draw_points(product, 30)
    base = product.projx(torch.where(product.sphere_mask, centre, 0.0))
    assert torch.equal(contract(product, x_0, centre, 1.0), x_0)
    torch.testing.assert_close(contract(product, x_0, centre, 0.0), base.expand_as(x_0))
