"""Generators without learning, which a flow over weights has to beat.

    resampling     x_i
    interpolation  (1 - s) x_i + s x_j,        s ~ U(0, 1)
    noise          x_i + scale z,              z ~ N(0, I)
    Gaussian       mean + tau N(0, sample covariance)

Over tau the last traces a frontier between quality (tau = 0, the mean network) and dispersion
(tau = 1, all second moments); a flow that lies on it has learned nothing beyond them. All work on
canonical points, where averaging networks means something, and return points of the same dtype.
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_points
from bayesflow_nn.diversity.neighbours import nearest_neighbours
from bayesflow_nn.weights.validation import check_integer, check_real


def resampling_baseline(
    training: ArrayLike | Tensor, n_samples: int, *, generator: torch.Generator
) -> Tensor:
    """Draw training networks with replacement: novelty 0, dispersion 1.

    Parameters
    ----------
    training : array or Tensor of shape (n_training, n_coordinates)
        Training networks.
    n_samples : int
        Networks to draw.
    generator : torch.Generator
        Source of randomness, on the device of `training`.

    Returns
    -------
    Tensor of shape (n_samples, n_coordinates)

    Raises
    ------
    ValueError
        If `training` is empty or not finite, or `n_samples` is no positive integer.

    Examples
    --------
    >>> resampling_baseline([[1.0], [2.0]], 3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1])
    """
    training = check_points("training", training)
    return training[_indices(training, check_integer("n_samples", n_samples), generator)]


def interpolation_baseline(
    training: ArrayLike | Tensor, n_samples: int, *, generator: torch.Generator
) -> Tensor:
    """Draw points on the segments between pairs of different training networks.

    Parameters, result and errors are those of `resampling_baseline`, with at least two training
    networks.
    """
    training = check_points("training", training, at_least=2)
    n_samples = check_integer("n_samples", n_samples)
    first = _indices(training, n_samples, generator)
    # 1, ..., n - 1 places further: never the same network.
    second = (first + 1 + _indices(training[1:], n_samples, generator)) % len(training)
    s = torch.rand(
        (n_samples, 1), generator=generator, dtype=training.dtype, device=training.device
    )
    return torch.lerp(training[first], training[second], s)


def gaussian_baseline(
    training: ArrayLike | Tensor, n_samples: int, *, tau: float = 1.0, generator: torch.Generator
) -> Tensor:
    """Draw from the Gaussian of the training networks, its deviations from the mean times `tau`.

    Random combinations of the centred networks, c / sqrt(n - 1) with c ~ N(0, I_n), have exactly
    the sample covariance, of any rank, and no covariance matrix is formed.

    Parameters
    ----------
    training, n_samples, generator
        As in `resampling_baseline`, with at least two training networks.
    tau : float
        Temperature: 0 gives the mean network, 1 the Gaussian itself.

    Returns
    -------
    Tensor of shape (n_samples, n_coordinates)

    Raises
    ------
    ValueError
        As `resampling_baseline`; also if `tau` is negative.

    Examples
    --------
    >>> gaussian_baseline([[1.0], [3.0]], 2, tau=0.0, generator=torch.Generator())
    tensor([[2.], [2.]], dtype=torch.float64)
    """
    training = check_points("training", training, at_least=2)
    n_samples = check_integer("n_samples", n_samples)
    tau = check_real("tau", tau, 0.0)
    mean = training.mean(0)
    c = _normal((n_samples, len(training)), training, generator)
    return torch.addmm(mean, c, training - mean, alpha=tau / (len(training) - 1) ** 0.5)


def noise_baseline(
    training: ArrayLike | Tensor,
    n_samples: int,
    *,
    nearest_distance: float,
    generator: torch.Generator,
    chunk_size: int = 1024,
) -> Tensor:
    """Draw training networks plus isotropic noise, at a given distance from the training networks.

    The scale of the noise is found by root search with the draws held fixed.

    Parameters
    ----------
    training, n_samples, generator
        As in `resampling_baseline`.
    nearest_distance : float
        Mean Euclidean distance of the samples to their nearest training networks: for the noise
        baseline of a flow, the mean of ``NoveltyReport.generated_distance``.
    chunk_size : int
        Training networks compared at once, which bounds the memory.

    Returns
    -------
    Tensor of shape (n_samples, n_coordinates)

    Raises
    ------
    ValueError
        As `resampling_baseline`; also if `nearest_distance` is not positive.

    Examples
    --------
    >>> training = torch.zeros(1, 3)
    >>> generator = torch.Generator().manual_seed(0)
    >>> samples = noise_baseline(training, 50, nearest_distance=2.0, generator=generator)
    >>> round(samples.norm(dim=1).mean().item(), 3)
    2.0
    """
    training = check_points("training", training)
    n_samples = check_integer("n_samples", n_samples)
    target = check_real("nearest_distance", nearest_distance, 0.0, strict=True)
    parents = training[_indices(training, n_samples, generator)]
    z = _normal(parents.shape, training, generator)

    def excess(scale: float) -> float:
        near = nearest_neighbours(parents + scale * z, training, chunk_size=chunk_size)
        return near.distances.mean().item() - target

    # Where the parent is nearest, the mean distance is about scale * sqrt(n_coordinates).
    upper = 1.01 * target / training.shape[1] ** 0.5
    while excess(upper) < 0:
        upper *= 1.5
    return parents + brentq(excess, 0.0, upper, rtol=1e-4) * z


def _indices(training: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    return torch.randint(len(training), (n_samples,), generator=generator, device=training.device)


def _normal(shape: tuple[int, ...], training: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=training.dtype, device=training.device)
