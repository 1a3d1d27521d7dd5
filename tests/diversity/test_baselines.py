"""Moments and distances that define each baseline."""

import pytest
import torch

from bayesflow_nn.diversity import (
    gaussian_baseline,
    interpolation_baseline,
    nearest_neighbours,
    noise_baseline,
    resampling_baseline,
)


def _noise(training, n_samples, *, generator):
    return noise_baseline(training, n_samples, nearest_distance=0.5, generator=generator)


BASELINES = [resampling_baseline, interpolation_baseline, gaussian_baseline, _noise]


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def training():
    scale = torch.tensor([1.0, 0.1, 5.0, 2.0], dtype=torch.float64)
    return 2 + scale * torch.randn(60, 4, generator=_generator(), dtype=torch.float64)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_dtype_and_repeat_with_the_seed(training, baseline, dtype):
    training = training.to(dtype)
    samples = baseline(training, 9, generator=_generator())
    assert samples.shape == (9, 4)
    assert samples.dtype == dtype
    assert torch.equal(samples, baseline(training, 9, generator=_generator()))
    assert not torch.equal(samples, baseline(training, 9, generator=_generator(1)))


def test_resampled_networks_are_training_networks(training):
    samples = resampling_baseline(training, 200, generator=_generator())
    distance, index = nearest_neighbours(samples, training)
    assert distance.max() == 0
    # 200 draws miss a given network of 60 with probability 3.5 %: two on average.
    assert len(index.unique()) > 50


def test_interpolations_lie_on_segments_between_different_networks():
    corners = torch.eye(3, dtype=torch.float64)
    samples = interpolation_baseline(corners, 300, generator=_generator())
    torch.testing.assert_close(samples.sum(1), torch.ones(300, dtype=torch.float64))
    assert torch.equal((samples > 0).sum(1), torch.full((300,), 2))


def test_a_gaussian_combination_has_exactly_the_sample_covariance(training, monkeypatch):
    # With the identity in place of its normal coefficients, the samples are the matrix A of
    # N(0, I) @ A, whose covariance A'A is known without any sampling error.
    monkeypatch.setattr(torch, "randn", lambda shape, **kwargs: torch.eye(shape[0]).double())
    A = gaussian_baseline(training, 60, tau=0.7, generator=_generator()) - training.mean(0)
    torch.testing.assert_close(A.T @ A, 0.49 * torch.cov(training.T))


def test_gaussian_samples_have_the_moments_of_the_training_networks(training):
    n = 20_000
    samples = gaussian_baseline(training, n, generator=_generator())
    error = (samples.mean(0) - training.mean(0)).abs()
    # Five standard errors of a mean, and of a standard deviation (1 / sqrt(2 n), relative).
    assert (error < 5 * training.std(0) / n**0.5).all()
    torch.testing.assert_close(samples.std(0), training.std(0), rtol=5 / (2 * n) ** 0.5, atol=0)


def test_temperature_zero_gives_the_mean_network(training):
    samples = gaussian_baseline(training, 3, tau=0.0, generator=_generator())
    torch.testing.assert_close(samples, training.mean(0).expand(3, -1))


def test_fewer_networks_than_coordinates_give_a_gaussian_on_their_affine_hull():
    line = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    samples = gaussian_baseline(line, 10, generator=_generator())
    torch.testing.assert_close(samples, samples[:, :1] * line[1])


@pytest.mark.parametrize("nearest_distance", [1e-3, 0.3, 3.0, 100.0])
def test_noise_lies_at_the_requested_distance(training, nearest_distance):
    # In four coordinates the parent is often not the nearest network, so the scale is no formula.
    samples = noise_baseline(
        training, 50, nearest_distance=nearest_distance, generator=_generator()
    )
    mean = nearest_neighbours(samples, training).distances.mean()
    assert mean.item() == pytest.approx(nearest_distance, rel=1e-3)


@pytest.mark.parametrize("baseline", BASELINES)
def test_bad_input_is_named(training, baseline):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        baseline(training, 0, generator=_generator())
    with pytest.raises(ValueError, match="training must have shape"):
        baseline(training[:0], 3, generator=_generator())
    training[2] = torch.nan
    with pytest.raises(ValueError, match="training must be finite.*rows 2"):
        baseline(training, 3, generator=_generator())


@pytest.mark.parametrize("baseline", [interpolation_baseline, gaussian_baseline])
def test_one_network_is_too_few(training, baseline):
    with pytest.raises(ValueError, match="training .* at least 2 points"):
        baseline(training[:1], 3, generator=_generator())


def test_bad_scales_are_named(training):
    with pytest.raises(ValueError, match="tau must be finite and >= 0"):
        gaussian_baseline(training, 3, tau=-1.0, generator=_generator())
    with pytest.raises(ValueError, match="nearest_distance must be finite and > 0"):
        noise_baseline(training, 3, nearest_distance=0.0, generator=_generator())
