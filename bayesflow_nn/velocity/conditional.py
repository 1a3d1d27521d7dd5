r"""The affine prediction when networks come with a condition.

Given the features f of a condition, targets are taken to be Gaussian around :math:`B f`, with one
covariance for all conditions; without a condition they are Gaussian around their mean, with the
larger covariance of the mixture. The first feature is 1 where the condition is known; a row of
zeros means that it is not.
"""

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.gaussian import Denoised, Schedule

_ROUNDING = 1e-5  # of the largest singular value: features are single-precision, some redundant


class ConditionalDenoiser(nn.Module):
    """Gaussian posterior mean of the target with a mean that depends on a condition.

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

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance given ``x (n, n_coordinates)`` at times ``t (n,)``."""
        if condition is None:
            return self.overall(t, x)
        signal, _ = self.schedule(t)
        centre = condition @ self.coefficients
        mean, variance = self.around_condition(t, x - signal * centre)
        known = condition[:, :1] > 0
        if known.all():
            return Denoised(mean + centre, variance)
        overall = self.overall(t, x)
        return Denoised(
            torch.where(known, mean + centre, overall.mean),
            torch.where(known, variance, overall.variance),
        )

    def transport(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Carry points to where the Gaussian flow ends; see :class:`AffineDenoiser`."""
        if condition is None:
            return self.overall.transport(t, x)
        signal, _ = self.schedule(t)
        centre = condition @ self.coefficients
        end = self.around_condition.transport(t, x - signal * centre) + centre
        known = condition[:, :1] > 0
        return end if known.all() else torch.where(known, end, self.overall.transport(t, x))

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance; see :class:`AffineDenoiser`."""
        if condition is None:
            return self.overall.apply_covariance(t, v, power=power)
        around = self.around_condition.apply_covariance(t, v, power=power)
        known = condition[:, :1] > 0
        if known.all():
            return around
        return torch.where(known, around, self.overall.apply_covariance(t, v, power=power))
