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

import torch
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

    def advance(
        self, t: Tensor, h: Tensor, x: Tensor, prediction: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        r"""Follow the flow of a prediction that differs from the Gaussian one.

        The flow of a prediction :math:`\hat x_1` is

        .. math::
            \frac{dx}{dt} = a \frac{d\lambda}{dt} \hat x_1 + \frac{d \log a}{dt} x, \qquad
            \lambda = \frac b a.

        If the prediction is off by a constant number e of posterior standard deviations,
        :math:`\hat x_1 = E[x_1 | x_t] + \operatorname{Cov}[x_1 | x_t]^{1/2} e`, it leads from t to
        s, with :math:`V_t = b_t^2 C + a_t^2 I`, as

        .. math::
            x_s = b_s m + V_s^{1/2} \left( V_t^{-1/2} (x_t - b_t m) +
            (\arctan \lambda_s C^{1/2} - \arctan \lambda_t C^{1/2}) \, e \right).

        Parameters
        ----------
        t : Tensor of shape (n,)
            Where some noise is left.
        h : Tensor of shape ()
            The time from t to s; a negative one leads back.
        x : Tensor of shape (n, n_coordinates)
        prediction : Tensor of shape (n, n_coordinates)
            At time t, whence e.
        condition : Tensor of shape (n, n_features), optional

        Returns
        -------
        Tensor of shape (n, n_coordinates)
        """
        centre = self.centre(condition)

        def of_prediction(t: Tensor, variance: Tensor) -> Tensor:
            (b, a), (b_next, a_next) = self.schedule(t), self.schedule(t + h)
            # The difference of two arcs, which are both about pi / 2 at the end.
            angle = torch.atan2(
                variance.sqrt() * (b_next * a - b * a_next), a_next * a + b_next * b * variance
            )
            scaling = self._evidence(t + h, variance) / self._posterior_variance(t, variance)
            return scaling.sqrt() * angle

        def of_point(t: Tensor, variance: Tensor) -> Tensor:
            scaling = self._evidence(t + h, variance) / self._evidence(t, variance)
            return scaling.sqrt() - of_prediction(t, variance) * self._gain(t, variance)

        moved = self.multiply(of_point, t, x - self.schedule(t)[0] * centre, condition)
        drawn = self.multiply(of_prediction, t, prediction - centre, condition)
        return self.schedule(t + h)[0] * centre + moved + drawn

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
