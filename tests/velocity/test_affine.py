"""AffineDenoiser against Gaussian conditioning by explicit inverses."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import loggamma

from bayesflow_nn.velocity import AffineDenoiser

SIGMA = 0.1

# Inverses of matrices with condition numbers up to about 10^3, in float64.
ROUNDING = 1e-11


def straight(t):
    """Weights of x_t = t x_1 + kappa x_0."""
    return t[:, None], 1 - (1 - SIGMA) * t[:, None]


def condition(mean, covariance, signal, noise, x):
    """Mean and covariance of x_1 ~ N(mean, covariance) given x = signal * x_1 + noise * x_0."""
    evidence = signal**2 * covariance + noise**2 * torch.eye(len(mean), dtype=mean.dtype)
    gain = signal * covariance @ torch.linalg.inv(evidence)
    return mean + gain @ (x - signal * mean), covariance - signal * gain @ covariance


def check_denoiser(denoiser, mean, covariance, t, x):
    """Compare with conditioning row by row."""
    result, (signal, noise) = denoiser(t, x), denoiser.schedule(t)
    for row in range(len(t)):
        expected, remaining = condition(mean, covariance, signal[row], noise[row], x[row])
        torch.testing.assert_close(result.mean[row], expected, atol=ROUNDING, rtol=0)
        variance = remaining.diagonal().mean()
        torch.testing.assert_close(result.variance[row, 0], variance, atol=ROUNDING, rtol=0)


@pytest.fixture
def noisy(generator):
    """Draw times in [0, 1], both ends among them, and points."""

    def draw(n_coordinates, n=6):
        x = 2 * torch.randn(n, n_coordinates, generator=generator, dtype=torch.float64)
        return torch.linspace(0, 1, n, dtype=torch.float64), x

    return draw


def correlated(generator, n, n_coordinates):
    mixing = torch.randn(n_coordinates, n_coordinates, generator=generator, dtype=torch.float64)
    return 3 + torch.randn(n, n_coordinates, generator=generator, dtype=torch.float64) @ mixing


def test_many_points_give_the_conditional_of_their_gaussian(generator, noisy):
    x = correlated(generator, 200, 5)
    denoiser = AffineDenoiser(x, None, straight)
    check_denoiser(denoiser, x.mean(0), x.T.cov(), *noisy(5))


def test_fewer_points_than_coordinates_leave_the_rest_certain(generator, noisy):
    x = correlated(generator, 4, 7)
    denoiser = AffineDenoiser(x, None, straight)
    # What the points do not span has the smallest variance that is allowed.
    values, vectors = torch.linalg.eigh(x.T.cov())
    covariance = vectors @ torch.diag(values.clamp_min(1e-8)) @ vectors.T
    check_denoiser(denoiser, x.mean(0), covariance, *noisy(7))


def test_held_out_points_give_the_rest_an_isotropic_variance(generator, noisy):
    x, held_out = correlated(generator, 13, 16), correlated(generator, 30, 16)
    denoiser = AffineDenoiser(x, held_out, straight)
    centred = held_out - x.mean(0)
    # The span of the centred points, by a singular value decomposition.
    _, lengths, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    lengths, axes = lengths[:12], axes[:12]
    outside = torch.eye(16, dtype=torch.float64) - axes.T @ axes
    rest = (centred @ outside).square().sum(1).mean() / 4
    # Held-out over sample variance. Of twelve axes a quarter share a window of smoothing: the
    # geometric mean of three neighbours, those at the ends counted once more.
    sample = lengths**2 / 12
    ratio = (centred @ axes.T).square().mean(0) / sample
    # A variance estimated from m points is chi-squared_m / m, whose log has a negative mean.
    m = len(held_out)
    bias = loggamma(m / 2).mean() + math.log(2 / m)
    repeated = ratio[[0, *range(12), 11]]
    smooth = repeated.unfold(0, 3, 1).prod(1) ** (1 / 3) / math.exp(bias)
    covariance = axes.T @ torch.diag(smooth * sample) @ axes + rest * outside
    check_denoiser(denoiser, x.mean(0), covariance, *noisy(16))


@pytest.fixture
def few_networks(generator):
    """60 training and 60 held-out points of N(0, I) in 40 dimensions, and 2,000 new ones."""
    x = torch.randn(2120, 40, generator=generator, dtype=torch.float64)
    return x[:60], x[60:120], x[120:]


def prediction_error(denoiser, x_1, t, generator):
    """Mean square error per coordinate, and the posterior variance that is claimed for it."""
    x_0 = torch.randn(x_1.shape, generator=generator, dtype=torch.float64)
    times = torch.full((len(x_1),), t, dtype=torch.float64)
    signal, noise = straight(times)
    result = denoiser(times, signal * x_1 + noise * x_0)
    return (result.mean - x_1).square().mean().item(), result.variance.mean().item()


@pytest.mark.parametrize("t", [0.3, 0.5, 0.7])
def test_held_out_variances_predict_better_than_sample_eigenvalues(few_networks, generator, t):
    x, held_out, new = few_networks
    raw, _ = prediction_error(AffineDenoiser(x, None, straight), new, t, generator)
    shrunk, _ = prediction_error(AffineDenoiser(x, held_out, straight), new, t, generator)
    signal, noise = t, 1 - (1 - SIGMA) * t
    best = noise**2 / (signal**2 + noise**2)  # of the true covariance I
    # 80,000 squared errors: known to 0.5 %, and both predictors see like noise.
    assert best < shrunk * 1.02
    assert shrunk - best < 0.7 * (raw - best)


def test_held_out_variances_make_the_claimed_error_true(few_networks, generator):
    x, held_out, new = few_networks
    denoiser = AffineDenoiser(x, held_out, straight)
    error, claimed = prediction_error(denoiser, new, 0.5, generator)
    # Errors: 0.5 %; 2,400 held-out squares: sqrt(2 / 2,400) = 3 %; mean of 60 points: 2 %.
    assert claimed == pytest.approx(error, rel=0.1)


def test_one_held_out_point_is_too_few_to_be_used(generator, noisy):
    x, (t, noise) = correlated(generator, 50, 4), noisy(4)
    without = AffineDenoiser(x, None, straight)(t, noise)
    one = AffineDenoiser(x, x[:1] + 5, straight)(t, noise)
    assert torch.equal(one.mean, without.mean)


def test_a_constant_coordinate_is_predicted_to_be_its_constant(generator, noisy):
    x = correlated(generator, 50, 4)
    x[:, 2] = 7.0
    t, noise = noisy(4)
    mean, variance = AffineDenoiser(x, None, straight)(t[:-1], noise[:-1])
    # The smallest variance 1e-8 lets it move by 1e-8 / kappa^2 of the noise, kappa >= 0.2.
    expected = torch.full((5,), 7.0, dtype=torch.float64)
    torch.testing.assert_close(mean[:, 2], expected, atol=1e-5, rtol=0)
    assert variance.isfinite().all()


def test_the_denoiser_is_saved_with_its_module(generator, noisy):
    x, (t, noise) = correlated(generator, 50, 4), noisy(4)
    denoiser = AffineDenoiser(x, x + 1, straight)
    other = AffineDenoiser(3 * x.flip(1), x, straight)
    other.load_state_dict(denoiser.state_dict())
    assert torch.equal(other(t, noise).mean, denoiser(t, noise).mean)


def test_points_are_transported_along_the_flow_of_the_gaussian(generator):
    """Against the flow's equation, solved numerically from every time to the end."""
    x = correlated(generator, 30, 3)
    denoiser = AffineDenoiser(x, None, straight)

    def velocity(t, flat):
        point = torch.as_tensor(flat)[None]
        times = torch.tensor([t], dtype=torch.float64)
        mean, noise = denoiser(times, point).mean, straight(times)[1]
        # d/dt of x_t = t x_1 + kappa x_0 at the expected x_1, and the x_0 that goes with it.
        return (mean - (1 - SIGMA) * (point - t * mean) / noise)[0].numpy()

    start = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)
    ends = denoiser.transport(t, start)
    for row in range(4):
        way = solve_ivp(velocity, (t[row].item(), 1.0), start[row].numpy(), rtol=1e-10, atol=1e-10)
        at_one = torch.as_tensor(way.y[:, -1])
        # At t = 1 the width SIGMA is left, which the transport takes away as well.
        expected = denoiser.transport(torch.ones(1, dtype=torch.float64), at_one[None])[0]
        torch.testing.assert_close(ends[row], expected, atol=1e-7, rtol=0)


def test_transport_from_the_source_gives_the_moments_of_the_points(generator):
    x = correlated(generator, 30, 3)
    denoiser = AffineDenoiser(x, None, straight)
    zero = torch.zeros(4, dtype=torch.float64)
    start = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    ends = denoiser.transport(zero, start)
    root = ends[1:] - ends[0]  # the map is linear: rows are images of the axes
    torch.testing.assert_close(ends[0], x.mean(0))
    torch.testing.assert_close(root.T @ root, x.T.cov())
