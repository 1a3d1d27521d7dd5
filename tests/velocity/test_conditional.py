"""ConditionalDenoiser against the affine denoisers of the parts it is made of."""

import pytest
import torch

from bayesflow_nn.velocity import AffineDenoiser, ConditionalDenoiser


def schedule(t):
    return t[:, None], 1 - 0.999 * t[:, None]


@pytest.fixture
def groups(generator):
    """Two groups of points with means 0 and 4, and indicator features."""
    noise = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    label = torch.arange(300) % 2
    features = torch.stack([torch.ones(300), label == 0, label == 1], dim=1).double()
    return noise + 4 * label[:, None], features


def test_a_known_condition_is_the_gaussian_of_its_group(groups):
    x, features = groups
    denoiser = ConditionalDenoiser(x, None, features, None, schedule)
    t = torch.linspace(0, 1, 300, dtype=torch.float64)
    means = torch.stack([x[::2].mean(0), x[1::2].mean(0)])[torch.arange(300) % 2]
    within = AffineDenoiser(x - means, None, schedule)
    expected = within(t, x - t[:, None] * means)
    result = denoiser(t, x, features)
    torch.testing.assert_close(result.mean, expected.mean + means)
    torch.testing.assert_close(result.variance, expected.variance)


def test_an_unknown_condition_is_the_gaussian_of_all(groups):
    x, features = groups
    denoiser, overall = (
        ConditionalDenoiser(x, None, features, None, schedule),
        AffineDenoiser(x, None, schedule),
    )
    t = torch.full((300,), 0.3, dtype=torch.float64)
    known = denoiser(t, x, features)
    features[:10] = 0
    mixed = denoiser(t, x, features)
    assert torch.equal(denoiser(t, x).mean, overall(t, x).mean)
    assert torch.equal(mixed.mean[:10], overall(t, x).mean[:10])
    assert torch.equal(mixed.mean[10:], known.mean[10:])


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_covariance_is_applied(groups, power):
    """At t = 0 it is the sample covariance, and its root applied twice is the same."""
    x, features = groups
    overall, v = AffineDenoiser(x, None, schedule), x[:5]
    start = torch.zeros(5, dtype=torch.float64)
    for _ in range(round(1 / power)):
        v = overall.apply_covariance(start, v, power=power)
    torch.testing.assert_close(v, x[:5] @ x.T.cov())
    denoiser = ConditionalDenoiser(x, None, features, None, schedule)
    within = denoiser.apply_covariance(start, x[:5], features[:5])
    # Between the groups lies a variance of 4 along (1, 1, 1), which a condition removes.
    ones = torch.ones(5, 3, dtype=torch.float64)
    direct = denoiser.apply_covariance(start, ones, features[:5]).sum(1) / 3
    assert within.shape == (5, 3)
    assert (direct < 1.5).all()
    assert (denoiser.apply_covariance(start, ones).sum(1) / 3 > 10).all()


def test_points_are_transported_within_their_group(groups):
    x, features = groups
    features[:10] = 0
    denoiser = ConditionalDenoiser(x, None, features, None, schedule)
    t = torch.linspace(0, 0.9, 300, dtype=torch.float64)
    ends = denoiser.transport(t, x, features)
    overall = AffineDenoiser(x, None, schedule)
    assert torch.equal(denoiser.transport(t, x), overall.transport(t, x))
    assert torch.equal(ends[:10], overall.transport(t, x)[:10])
    # From the source, where points of both groups are alike, they end around 0 and around 4.
    source = torch.randn(300, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = denoiser.transport(torch.zeros(300, dtype=torch.float64), source, features)[10:]
    low, high = ends[::2], ends[1::2]
    # Standard error of a mean of 145: .08.
    torch.testing.assert_close(low.mean(0), torch.zeros(3).double(), atol=0.35, rtol=0)
    torch.testing.assert_close(high.mean(0), torch.full((3,), 4.0).double(), atol=0.35, rtol=0)


@pytest.mark.parametrize("n_rare", [50, 5])
def test_axes_that_group_means_take_up_do_not_spoil_the_others(generator, n_rare):
    """Residuals of two groups do not vary along two axes of the points, which are left out.

    Other axes share the ratio of held-out to sample variance with their neighbours.
    """
    x = torch.randn(150, 1000, generator=generator, dtype=torch.float64)
    rare = torch.arange(150) % 100 < n_rare
    x += 3 * rare[:, None]
    features = torch.stack([torch.ones(150), rare, ~rare], dim=1).double()
    denoiser = ConditionalDenoiser(x[:100], x[100:], features[:100], features[100:], schedule)
    start = torch.zeros(1000, dtype=torch.float64)
    condition = features[:1].expand(1000, -1)
    covariance = denoiser.apply_covariance(start, torch.eye(1000).double(), condition)
    # True: 1, and held-out points are off the mean of a rare group by 1 / 5 more. A ratio of 25
    # axes by 50 points has a standard error of 4 %, and sample variances of 100 points in 1,000
    # dimensions lie within 20 % of those of their neighbours.
    values = torch.linalg.eigvalsh(covariance)
    assert values.min() > 0.6
    assert values.max() < 1.6


def test_a_row_without_condition_has_the_covariance_of_all(groups):
    x, features = groups
    denoiser = ConditionalDenoiser(x, None, features, None, schedule)
    v, t = x[:6], torch.linspace(0, 0.9, 6, dtype=torch.float64)
    features = features[:6].clone()
    known = denoiser.apply_covariance(t, v, features)
    features[:2] = 0
    mixed = denoiser.apply_covariance(t, v, features)
    assert torch.equal(mixed[:2], AffineDenoiser(x, None, schedule).apply_covariance(t, v)[:2])
    assert torch.equal(mixed[2:], known[2:])
