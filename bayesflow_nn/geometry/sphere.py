r"""The unit sphere, accurate to rounding in float32 and float64.

With :math:`\theta = 2 \operatorname{atan2}(|x - y|, |x + y|)` the distance of two unit vectors,

.. math::
    \exp_x u = \cos|u| \, x + \frac{\sin|u|}{|u|} u, \qquad
    \log_x y = \frac{\theta}{\sin\theta} \, P_x y, \qquad P_x y = y - \langle x, y\rangle x .

``geoopt.Sphere`` takes the distance from an arc cosine clamped at 1 - 1e-4, which in float32 puts
a point 0.014 from itself and antipodes 0.008 short of pi. The formulas here have no cancellation:
differences are taken before they are squared, and the coefficients are smooth functions of
:math:`|u|^2` or :math:`|x - y|^2`, evaluated by their power series near zero, so that derivatives
of every order are finite there.
"""

import math
import warnings

import torch
from torch import Tensor

with warnings.catch_warnings():
    # geoopt still decorates with torch.jit.script, which torch reports as deprecated on import.
    warnings.simplefilter("ignore", DeprecationWarning)
    import geoopt

# Below these arguments the power series are used; the number of terms makes the remainder smaller
# than float64 rounding, and the closed forms above lose at most 1 / threshold in a derivative.
_EXP_THRESHOLD, _EXP_TERMS = 0.25, 9
_LOG_THRESHOLD, _LOG_TERMS = 0.05, 13
_COS_SERIES = [(-1) ** k / math.factorial(2 * k) for k in range(_EXP_TERMS)]
_SINC_SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in range(_EXP_TERMS)]
_LOG_SERIES = [4**k * math.factorial(k) ** 2 / math.factorial(2 * k + 1) for k in range(_LOG_TERMS)]


class Sphere(geoopt.Sphere):
    r"""Unit sphere :math:`S^{d-1}` in :math:`\mathbb{R}^d`, on the last axis of every tensor.

    All verbs broadcast over leading dimensions, run under ``torch.func.vmap`` and ``jvp``, and can
    be differentiated twice. Points are ``(..., d)`` unit vectors, tangent vectors ``(..., d)``,
    distances ``(...,)`` in radians.

    Choices where the sphere offers none:

    - ``projx(0)`` is the first basis vector.
    - ``logmap(x, -x)`` has length pi and points along the first coordinate axis, or along the
      second where ``x`` is smaller in magnitude on that one, projected to the tangent space. This
      also holds within a few rounding units of the antipode, where ``x + y`` is noise.
    - the gradient of ``dist(x, y)`` is zero at ``x = y`` and at ``x = -y``.

    Notes
    -----
    The verbs are those of ``geoopt.Sphere``; ``transp`` is parallel transport along the minimal
    geodesic (geoopt projects), and ``random_uniform`` takes a generator and returns a plain tensor.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.geometry import Sphere
    >>> sphere = Sphere()
    >>> x, y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0])
    >>> sphere.dist(x, y)
    tensor(3.1416)
    >>> sphere.logmap(x, y)
    tensor([0.0000, 3.1416, 0.0000])
    """

    def __init__(self) -> None:
        super().__init__()

    def projx(self, x: Tensor) -> Tensor:
        """Nearest unit vectors ``(..., d)`` of ``x (..., d)``."""
        norm_squared = (x * x).sum(-1, keepdim=True)
        zero = norm_squared == 0
        first_axis = (torch.arange(x.shape[-1], device=x.device) == 0).to(x.dtype)
        return torch.where(zero, first_axis, x / torch.where(zero, 1, norm_squared).sqrt())

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim=False) -> Tensor:
        """Inner products ``(...,)`` of tangent vectors ``u`` and ``v`` (default ``u``) at ``x``."""
        product = u * (u if v is None else v)
        return product.broadcast_to(torch.broadcast_shapes(x.shape, product.shape)).sum(
            -1, keepdim=keepdim
        )

    def dist(self, x: Tensor, y: Tensor, *, keepdim=False) -> Tensor:
        """Great-circle distances ``(...,)`` in radians, within [0, pi]."""
        chord, antipodal_chord = _norm(x - y), _norm(x + y)
        distance = 2 * torch.atan2(chord, antipodal_chord)
        return distance if keepdim else distance.squeeze(-1)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Points ``(..., d)`` reached from ``x`` along ``u`` after unit time.

        The result is normalised, so that thousands of steps do not drift off the sphere.
        """
        cos, sinc = _cos_and_sinc((u * u).sum(-1, keepdim=True))
        return self.projx(cos * x + sinc * u)

    def end_velocity(self, x: Tensor, u: Tensor) -> Tensor:
        """Velocities ``(..., d)`` at ``expmap(x, u)`` of the geodesics that left ``x`` with ``u``.

        Of the same length as ``u``, and tangent there.
        """
        square = (u * u).sum(-1, keepdim=True)
        cos, sinc = _cos_and_sinc(square)
        return cos * u - square * sinc * x

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent vectors ``(..., d)`` at ``x`` with ``expmap(x, logmap(x, y)) == y``."""
        difference, total = y - x, y + x
        chord_squared = (difference * difference).sum(-1, keepdim=True)
        antipodal_chord_squared = (total * total).sum(-1, keepdim=True)
        near = chord_squared <= antipodal_chord_squared
        # P_x y = P_x (y - x) = P_x (y + x); the shorter of the two loses no digits.
        v = self.proju(x, torch.where(near, difference, total))
        sine = _norm(v)
        antipodal = ~near & (sine <= 4 * torch.finfo(v.dtype).eps)
        angle = 2 * torch.atan2(safe_sqrt(chord_squared), safe_sqrt(antipodal_chord_squared))
        near_factor = _angle_over_sine(torch.where(near, chord_squared / 4, 0))
        far_factor = torch.where(antipodal, 0, angle / torch.where(near | antipodal, 1, sine))
        chosen = torch.where(antipodal, math.pi, 0) * _chosen_direction(x)
        return torch.where(near, near_factor, far_factor) * v + chosen

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport ``(..., d)`` of ``v`` from ``x`` to ``y`` along ``logmap(x, y)``."""
        u = self.logmap(x, y)
        angle_squared = (u * u).sum(-1, keepdim=True)
        _, sinc = _cos_and_sinc(angle_squared)
        _, half_sinc = _cos_and_sinc(angle_squared / 4)
        along = (u * v).sum(-1, keepdim=True)
        return v - along * (half_sinc**2 / 2 * u + sinc * x)

    def random_uniform(
        self,
        *size: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Points of shape ``size``, uniform on the sphere of the last axis."""
        noise = torch.randn(*size, generator=generator, dtype=dtype, device=device)
        return self.projx(noise)

    random = random_uniform


def safe_sqrt(s: Tensor) -> Tensor:
    """Square root of ``s >= 0`` whose derivatives of every order are zero, not nan, at ``s = 0``.

    Parameters
    ----------
    s : Tensor
        Non-negative, any shape.

    Returns
    -------
    Tensor
        Same shape as ``s``.
    """
    zero = s == 0
    return torch.where(zero, 0, torch.where(zero, 1, s).sqrt())


def _norm(v: Tensor) -> Tensor:
    return safe_sqrt((v * v).sum(-1, keepdim=True))


def _chosen_direction(x: Tensor) -> Tensor:
    """Unit tangents at x towards the first or second axis, whichever is further from x."""
    second = x[..., 1:2].abs() < x[..., :1].abs()
    smaller = torch.where(second, x[..., 1:2], x[..., :1])
    axis = (torch.arange(x.shape[-1], device=x.device) == second.long()).to(x.dtype)
    return (axis - smaller * x) / torch.where(smaller.abs() < 1, 1 - smaller**2, 1).sqrt()


def _cos_and_sinc(s: Tensor) -> tuple[Tensor, Tensor]:
    """cos(r) and sin(r) / r at r = sqrt(s), as smooth functions of s."""
    small = s < _EXP_THRESHOLD
    series_argument = torch.where(small, s, 0)
    r = torch.where(small, 1, s).sqrt()
    cos = torch.where(small, _polynomial(_COS_SERIES, series_argument), r.cos())
    sinc = torch.where(small, _polynomial(_SINC_SERIES, series_argument), r.sin() / r)
    return cos, sinc


def _angle_over_sine(q: Tensor) -> Tensor:
    """theta / sin(theta) as a smooth function of q = sin(theta / 2)^2, for theta <= pi / 2."""
    small = q < _LOG_THRESHOLD
    series_argument = torch.where(small, q, 0)
    large = torch.where(small, 0.5, q)
    closed_form = large.sqrt().asin() / (large * (1 - large)).sqrt()
    return torch.where(small, _polynomial(_LOG_SERIES, series_argument), closed_form)


def _polynomial(coefficients: list[float], s: Tensor) -> Tensor:
    value = torch.zeros_like(s)
    for coefficient in reversed(coefficients):
        value = value * s + coefficient
    return value
