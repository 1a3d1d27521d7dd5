r"""The affine prediction when networks come with a condition.

Given the features f of a condition, targets are taken to be Gaussian around :math:`B f`, with one
covariance for all conditions; without a condition they are Gaussian around their mean, with the
larger covariance of the mixture. The first feature is 1 where the condition is known; a row of
zeros means that it is not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule, Spectrum

_ROUNDING = 1e-5  # of the largest singular value: features are single-precision, some redundant


class ConditionalDenoiser(GaussianDenoiser):
    """Gaussian law with a mean that depends on a condition.

    Parameters
    ----------
    x : Tensor of shape (n, n_coordinates)
        Training points in coordinates of about unit variance.
    held_out : Tensor of shape (m, n_coordinates) or None
        Points of other chains.
    condition, held_out_condition : Tensor of shape (n, n_features) and (m, n_features) or None
        Features of their conditions.
    schedule : callable
        As in :class:`AffineDenoiser`.
    """

    coefficients: Tensor

    def __init__(
        self,
        x: Tensor,
        held_out: Tensor | None,
        condition: Tensor,
        held_out_condition: Tensor | None,
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        coefficients = torch.linalg.pinv(condition.double(), rtol=_ROUNDING) @ x.double()

        def around(points: Tensor, given: Tensor) -> Tensor:
            return (points.double() - given.double() @ coefficients).to(points.dtype)

        rest = None if held_out is None else around(held_out, held_out_condition)
        self.register_buffer("coefficients", coefficients.to(x.dtype))
        self.around_condition = AffineDenoiser(around(x, condition), rest, schedule)
        self.overall = AffineDenoiser(x, held_out, schedule)

    def centre(self, condition: Tensor | None = None) -> Tensor:
        """Mean of networks, ``(n, n_coordinates)``, or ``(1, n_coordinates)`` if all have one."""
        if condition is None:
            return self.overall.centre()
        known = condition[:, :1] > 0
        own = condition @ self.coefficients + self.around_condition.centre()
        return torch.where(known, own, self.overall.centre())

    def multiply(
        self, spectrum: Spectrum, t: Tensor, v: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Multiply by the function of the covariance that has these eigenvalues."""
        return self._choose(condition, lambda law: law.multiply(spectrum, t, v))

    def average(self, spectrum: Spectrum, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Trace of the function of the covariance over the number of coordinates, ``(n, 1)``."""
        return self._choose(condition, lambda law: law.average(spectrum, t))

    def _choose(
        self, condition: Tensor | None, function: Callable[[AffineDenoiser], Tensor]
    ) -> Tensor:
        """Values ``(n, ...)`` of the law around known conditions, and of the overall law."""
        if condition is None:
            return function(self.overall)
        known, own = condition[:, :1] > 0, function(self.around_condition)
        return own if known.all() else torch.where(known, own, function(self.overall))
