r"""Stochastic sampling: fresh noise on the way from the source to the networks.

Both kinds are applied between the steps of a solver, are tangent to the manifold, and follow
geodesics. Noise is given in coordinates of unit variance, so that one number fits all factors: on a
sphere in :math:`R^d` it is divided by :math:`\sqrt d`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.flow.field import FlowField
from bayesflow_nn.flow.guided import Setting
from bayesflow_nn.geometry import ProductManifold


@dataclass(frozen=True)
class StepNoise:
    r"""White noise before every step ([E25] 6.5), :math:`\epsilon \sqrt h \, \xi`.

    It widens what the flow generates, whatever the number of steps, and does not preserve the
    distribution of the networks; :class:`Refresh` does.

    Parameters
    ----------
    scale : float
        :math:`\epsilon`, standard deviation gathered over unit time, in unit-variance coordinates.
    start, end : float
        Part of the trajectory that gets noise.

    Examples
    --------
    >>> StepNoise(0.05, end=0.8)
    StepNoise(scale=0.05, start=0.0, end=0.8)
    """

    scale: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("StepNoise: scale", self.scale)
        _check_interval("StepNoise", self.start, self.end)

    def perturb(
        self, field: FlowField, t: Tensor, h: Tensor, x: Tensor, setting: Setting
    ) -> Tensor:
        """Move points ``(n, n_coordinates)`` by the noise of a step `h` that starts at `t`."""
        if not self.start <= t < self.end:
            return x
        step = self.scale * h.abs().sqrt() * _white_noise(x, setting) / setting.scale
        return _walk(field.path.manifold, x, step)


@dataclass(frozen=True)
class Refresh:
    r"""Forget the source noise and draw it anew on the way, keeping all marginals.

    Where the velocity errs, so does every trajectory of the flow from there on; a point that is
    drawn anew around what the model predicts from it forgets the error. Between the steps of the
    solver, at :math:`x_t = b x_1 + a x_0`, a target is drawn given the point, then a part of the
    noise given the target,

    .. math::
        x_1 &\sim p(x_1 | x_t) \approx N(\hat x_1, \Sigma_t), \\
        x_t &\leftarrow b x_1 + \rho (x_t - b x_1) + a \sqrt{1 - \rho^2} \, \xi, \qquad
        \rho = \left(\frac{a' / b'}{a / b}\right)^\eta

    with the model's prediction, the covariance of the Gaussian approximation, a' and b' at the end
    of the step, and the rate :math:`\eta`. Both draws keep the law of :math:`x_t`, for Gaussian
    targets at any :math:`\rho`, for others up to :math:`(1 - \rho)^2`; in the limit of small steps
    this is the stochastic equation with the marginals of the flow (Song et al. 2021, section 4),

    .. math::
        dx = \left(u + \tfrac12 g^2 \nabla \log p_t(x)\right) dt + g \, dW, \qquad
        \nabla \log p_t(x) = \frac{b \, E[x_1 | x_t] - x}{a^2}, \qquad
        g^2 = 2 \eta a^2 \frac{d}{dt} \log \frac{b}{a},

    and for :math:`\eta = 1` the reverse of a diffusion. On a sphere in :math:`R^d`, at the angle
    :math:`\psi` from the target, the score is :math:`(d - 2)
    (\cot(\psi / \kappa) / \kappa - \cot \psi)` away from it; averaged over angles it is about
    (d - 1) / d times what the flat formula gives, and so is the drift here.

    Parameters
    ----------
    rate : float
        :math:`\eta`: of the noise the share :math:`r^\eta` survives a step in which the ratio of
        noise to signal falls to the share r.
    start, end : float
        Part of the trajectory on which noise is drawn anew, before every step that begins there:
        of fewer than three equal steps none does. Fresh noise leads to where the prediction says
        that networks lie, which it tells best when little noise is left: from t = 0 on, logits of
        networks of breast cancer come out 3 % too large, from 0.6 on 1 to 2 %.
    temperature : float
        Factor on what is drawn; `FlowPosterior.sample` sets it to that of the source points.

    Examples
    --------
    >>> Refresh(0.5, end=0.9)
    Refresh(rate=0.5, start=0.6, end=0.9, temperature=1.0)
    """

    rate: float = 2.0
    start: float = 0.6
    end: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("Refresh: rate", self.rate)
        _check_interval("Refresh", self.start, self.end)
        if not 0 <= self.temperature <= 1:
            raise ValueError(
                f"Refresh: temperature must be a number in [0, 1], got {self.temperature!r}."
            )

    def perturb(
        self, field: FlowField, t: Tensor, h: Tensor, x: Tensor, setting: Setting
    ) -> Tensor:
        """Refresh the noise in points ``(n, n_coordinates)`` as much as belongs to a step `h`."""
        if not self.start <= t < self.end or t == 0:  # at 0 there is nothing but noise
            return x
        times, manifold = t.expand(len(x)), field.path.manifold
        signal, width = field.path.schedule(times)
        next_signal, next_width = field.path.schedule(times + h)
        kept = (next_width * signal / (next_signal * width)) ** self.rate
        on_sphere = manifold.sphere_mask.to(x.device)
        curvature = torch.where(on_sphere, 1 - setting.scale**-2, 1.0)
        drift = (1 - kept) * (signal * field.predict(times, x) - x) * curvature
        spread, noise = (_white_noise(x, setting) for _ in range(2))
        spread = setting.gaussian.apply_covariance(
            times, spread, field.gaussian_condition, power=0.5
        )
        drawn = (1 - kept) * signal * spread + width * (1 - kept.square()).sqrt() * noise
        return _walk(manifold, x, drift + self.temperature * drawn / setting.scale)


Noise = StepNoise | Refresh


def _white_noise(x: Tensor, setting: Setting) -> Tensor:
    return torch.randn(x.shape, generator=setting.generator, dtype=x.dtype, device=x.device)


def _walk(manifold: ProductManifold, x: Tensor, step: Tensor) -> Tensor:
    """Follow the geodesic of the tangent part of a step."""
    return manifold.expmap(x, manifold.proju(x, step))


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}; noise=0 is none.")


def _check_interval(owner: str, start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"{owner}: start and end must satisfy 0 <= start < end <= 1, got {start!r} and {end!r}"
        )
