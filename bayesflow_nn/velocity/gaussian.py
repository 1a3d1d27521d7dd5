r"""Closed forms of a flow whose networks follow a Gaussian law.

Let :math:`x_1 \sim N(m, C)` and :math:`x_t = b x_1 + a x_0` with standard normal :math:`x_0`. Then

.. math::
    E[x_1 | x_t] = m + b C (b^2 C + a^2 I)^{-1} (x_t - b m), \qquad
    \operatorname{Cov}[x_1 | x_t] = a^2 C (b^2 C + a^2 I)^{-1},

and all else that the flow needs is a function of C as well: it has the eigenvectors of C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
Spectrum = Callable[[Tensor, Tensor], Tensor]
"""Times ``(n,)`` and eigenvalues of C, ``(n_axes,)`` or ``()``, to eigenvalues of a function of C,
``(n, n_axes)`` or ``(n, 1)``."""


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


class GaussianDenoiser(nn.Module, ABC):
    r"""Posterior of the target given :math:`x_t = b x_1 + a x_0`, for a Gaussian law of x_1.

    The law may depend on a condition. All methods take times ``t (n,)``, points or vectors
    ``(n, n_coordinates)`` in coordinates of about unit variance, and features of conditions
    ``(n, n_features)`` or None.

    Attributes
    ----------
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``: the weights b and a.
    """

    schedule: Schedule

    @property
    def n_coordinates(self) -> int:
        """Number of coordinates of a point."""
        return self.centre().shape[1]

    @abstractmethod
    def centre(self, condition: Tensor | None = None) -> Tensor:
        """Mean of networks, ``(n, n_coordinates)``, or ``(1, n_coordinates)`` if all have one."""

    @abstractmethod
    def multiply(
        self, spectrum: Spectrum, t: Tensor, v: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Multiply by the function of the covariance that has these eigenvalues."""

    @abstractmethod
    def average(self, spectrum: Spectrum, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Trace of the function of the covariance over the number of coordinates, ``(n, 1)``."""

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance."""
        signal, _ = self.schedule(t)
        centre = self.centre(condition)
        mean = centre + self.multiply(self._gain, t, x - signal * centre, condition)
        return Denoised(mean, self.average(self._posterior_variance, t, condition))

    def transport(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        r"""Carry points to where the flow of the Gaussian ends.

        .. math::
            x_t \to m + C^{1/2} (b^2 C + a^2 I)^{-1/2} (x_t - b m),

        the monotone map between two Gaussians with the same axes, and the solution of the flow's
        equation.
        """
        signal, _ = self.schedule(t)
        centre = self.centre(condition)

        def scaling(t: Tensor, variance: Tensor) -> Tensor:
            return (variance / self._evidence(t, variance)).sqrt()

        return centre + self.multiply(scaling, t, x - signal * centre, condition)

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance, at t = 0 that of the networks.

        A power of 1/2 is its symmetric root.
        """

        def spectrum(t: Tensor, variance: Tensor) -> Tensor:
            return self._posterior_variance(t, variance) ** power

        return self.multiply(spectrum, t, v, condition)

    def _evidence(self, t: Tensor, variance: Tensor) -> Tensor:
        signal, noise = self.schedule(t)
        return signal.square() * variance + noise.square()

    def _gain(self, t: Tensor, variance: Tensor) -> Tensor:
        return self.schedule(t)[0] * variance / self._evidence(t, variance)

    def _posterior_variance(self, t: Tensor, variance: Tensor) -> Tensor:
        return self.schedule(t)[1].square() * variance / self._evidence(t, variance)
