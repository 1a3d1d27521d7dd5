"""What a closed-form prediction of the target under a Gaussian law of networks can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]


class Denoised(NamedTuple):
    """Posterior mean and mean posterior variance of the target under a Gaussian.

    Attributes
    ----------
    mean : Tensor of shape (n, n_coordinates)
    variance : Tensor of shape (n, 1)
        Averaged over coordinates.
    """

    mean: Tensor
    variance: Tensor


@runtime_checkable
class GaussianDenoiser(Protocol):
    r"""Posterior of the target given :math:`x_t = b x_1 + a x_0`, for a Gaussian law of x_1.

    The law may depend on a condition. All methods take times ``t (n,)``, points or vectors
    ``(n, n_coordinates)`` in coordinates of about unit variance, and features of conditions
    ``(n, n_features)`` or None.
    """

    def __call__(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance."""

    def transport(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Carry points to where the flow of the Gaussian ends."""

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance."""
