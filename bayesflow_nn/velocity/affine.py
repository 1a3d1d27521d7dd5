"""The best affine prediction of the target, in closed form, in all coordinates.

It is what the posterior mean would be if networks were Gaussian. A learned network narrower than
its input cannot follow every coordinate and shrinks the samples; this path does not, and leaves to
the network what is beyond second moments. The eigenvalues of a sample covariance spread wider than
the true ones, so they are corrected by the variance of held-out networks along the sample
eigenvectors (cross-validated nonlinear shrinkage, Bartz 2016), as a ratio that is smooth in the
rank.
"""

import math

import torch
from scipy.ndimage import uniform_filter1d
from scipy.special import digamma
from torch import Tensor

from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule, Spectrum

_SMOOTHING_WINDOW = 25  # neighbouring axes over which the held-out ratio is averaged
_SMALLEST_VARIANCE = 1e-8


class AffineDenoiser(GaussianDenoiser):
    """Gaussian law with mean and covariance of the training points, whatever the condition.

    Parameters
    ----------
    x : Tensor of shape (n, n_coordinates)
        Training points in coordinates of about unit variance.
    held_out : Tensor of shape (m, n_coordinates) or None
        Points of other chains for the variance along the eigenvectors. None keeps the sample's.
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``: the weights of target and source in ``x_t``.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 3
    >>> denoiser = AffineDenoiser(x, None, lambda t: (t[:, None], 1 - t[:, None]))
    >>> denoiser(torch.ones(1), x[:1]).mean.allclose(x[:1])
    True
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest_variance: Tensor

    def __init__(self, x: Tensor, held_out: Tensor | None, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        mean = x.double().mean(0)
        basis, variances = _principal_axes(x.double() - mean)
        rest = x.new_zeros((), dtype=torch.float64)
        if held_out is not None and len(held_out) > 1:
            residual = held_out.double() - mean
            coefficients = residual @ basis
            variances = _shrink(variances, coefficients.square().mean(0), len(held_out))
            outside = residual.square().sum(1).mean() - coefficients.square().sum(1).mean()
            rest = outside.clamp_min(0) / max(x.shape[1] - basis.shape[1], 1)
        self.register_buffer("mean", mean.to(x.dtype))
        self.register_buffer("basis", basis.to(x.dtype).contiguous())
        self.register_buffer("variances", variances.clamp_min(_SMALLEST_VARIANCE).to(x.dtype))
        self.register_buffer("rest_variance", rest.clamp_min(_SMALLEST_VARIANCE).to(x.dtype))

    def centre(self, condition: Tensor | None = None) -> Tensor:
        """Mean of networks, ``(1, n_coordinates)``."""
        return self.mean[None]

    def multiply(
        self, spectrum: Spectrum, t: Tensor, v: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Multiply by the matrix with these eigenvalues on the principal axes and off them."""
        along_basis, rest = spectrum(t, self.variances), spectrum(t, self.rest_variance)
        return rest * v + (v @ self.basis * (along_basis - rest)) @ self.basis.T

    def average(self, spectrum: Spectrum, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Trace of the same matrix over the number of coordinates, ``(n, 1)``."""
        n_coordinates, n_axes = self.basis.shape
        along_basis, rest = spectrum(t, self.variances), spectrum(t, self.rest_variance)
        total = along_basis.sum(1, keepdim=True) + (n_coordinates - n_axes) * rest
        return total / n_coordinates


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes ``(n_coordinates, rank)`` and their variances ``(rank,)``, largest first.

    Axes along which the points do not vary are left out, but for one if they never do.
    """
    n, n_coordinates = centred.shape
    if n > n_coordinates:
        variances, vectors = torch.linalg.eigh(centred.T @ centred / (n - 1))
    else:  # the Gram matrix of the points has the same non-zero spectrum, and is smaller
        variances, vectors = torch.linalg.eigh(centred @ centred.T / (n - 1))
    rank = max(int((variances > _SMALLEST_VARIANCE).sum()), 1)
    variances, vectors = variances.flip(0)[:rank], vectors.flip(1)[:, :rank]
    if n > n_coordinates:
        return vectors, variances
    return torch.linalg.qr(centred.T @ vectors)[0], variances


def _shrink(sample: Tensor, held_out: Tensor, n_held_out: int) -> Tensor:
    """Variances along the axes: the sample's, times a smooth curve of their held-out ratio."""
    # The log of a variance estimated from m points is low by this much on average.
    bias = digamma(n_held_out / 2) - math.log(n_held_out / 2)
    window = max(1, min(_SMOOTHING_WINDOW, len(sample) // 4))
    sample = sample.clamp_min(_SMALLEST_VARIANCE)
    log_ratio = (held_out.clamp_min(_SMALLEST_VARIANCE) / sample).log().cpu().numpy()
    smooth = uniform_filter1d(log_ratio - bias, window, mode="nearest")
    return sample * torch.as_tensor(smooth, device=sample.device).exp()
