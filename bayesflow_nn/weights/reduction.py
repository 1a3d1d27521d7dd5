r"""Principal components of many networks, with the Gaussian law of what they leave out.

A row is :math:`x = \mu + V \operatorname{diag}(s) z + r`: a latent z of unit variance along d
orthonormal directions V, and a residual r in their complement, of the law N(0, sigma^2 I) that
probabilistic PCA gives it (Tipping & Bishop 1999, eq. 5-9). A density of z so becomes one of x.

Principal components of few rows in many dimensions fit these rows better than others, which lie
closer to the mean within the subspace and farther from it beside. Held-out rows, where there are
any, therefore measure both the scales s and the width sigma.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

Reducer = int | float | Any
"""Number of components, fraction of the variance, or an estimator such as scikit-learn's PCA."""

_FEW = 10  # held-out rows that know a scale to about a fifth


@dataclass(frozen=True)
class PrincipalSubspace:
    """The affine map between rows and latents, and the width of what it leaves out.

    Parameters
    ----------
    mean : Tensor of shape (n_features,)
    components : Tensor of shape (n_components, n_features)
        Orthonormal rows.
    scale : Tensor of shape (n_components,)
        Standard deviation of rows along each component.
    width : float
        Standard deviation of the residual along any direction of the complement.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.weights.reduction import PrincipalSubspace
    >>> generator = torch.Generator().manual_seed(0)
    >>> rows = torch.randn(500, 3, generator=generator) * torch.tensor([5.0, 2.0, 0.1])
    >>> subspace = PrincipalSubspace.fit(rows, 2)
    >>> subspace.scale.round(), round(subspace.width, 1)
    (tensor([5., 2.]), 0.1)
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    width: float

    @classmethod
    def fit(
        cls,
        rows: Tensor,
        reducer: Reducer,
        held_out: Tensor | None = None,
        random_state: int | None = None,
    ) -> PrincipalSubspace:
        """Principal components of `rows`.

        Parameters
        ----------
        rows : Tensor of shape (n, n_features)
        reducer : int, float or estimator
            Number of components; fraction of the variance that they shall explain; or an estimator
            with the attributes of ``sklearn.decomposition.PCA``, which is cloned and fitted
            (``IncrementalPCA`` works through rows in batches).
        held_out : Tensor of shape (m, n_features), optional
            Rows that measure the width and, if there are at least ten, the scales. Those that the
            components were found in have latents of a larger variance then.
        random_state : int, optional
            For components of large arrays, which scikit-learn finds by random projections.

        Returns
        -------
        PrincipalSubspace

        Raises
        ------
        ValueError
            If there are more components than rows or features can have, or nothing measures the
            width.
        """
        estimator = _make_estimator(reducer, rows, random_state)
        estimator.fit(rows.detach().cpu().numpy())
        _check_attributes(estimator)
        attributes = estimator.mean_, estimator.components_, estimator.explained_variance_
        mean, components, variance = (torch.as_tensor(values).to(rows) for values in attributes)
        if variance.min() <= _resolution(rows) ** 2:
            raise ValueError(
                f"reducer must ask for components in which the networks differ, got "
                f"{len(variance)} of which {(variance <= _resolution(rows) ** 2).sum()} have no "
                f"variance; take fewer."
            )
        subspace = cls(mean, components, variance.sqrt(), math.nan)
        if held_out is not None and len(held_out) >= _FEW:
            subspace = replace(subspace, scale=subspace._measure_scale(held_out))
        return replace(
            subspace, width=subspace._measure_width(rows if held_out is None else held_out)
        )

    @property
    def n_components(self) -> int:
        """Dimension of the latents."""
        return len(self.components)

    @property
    def n_left_out(self) -> int:
        """Dimension of the complement."""
        return self.components.shape[1] - len(self.components)

    def encode(self, rows: Tensor) -> Tensor:
        """Latents ``(..., n_components)`` of rows ``(..., n_features)``."""
        return (rows - self.mean.to(rows)) @ self.components.T.to(rows) / self.scale.to(rows)

    def decode(self, latent: Tensor) -> Tensor:
        """Rows ``(..., n_features)`` of latents, without a residual."""
        return self.mean.to(latent) + latent * self.scale.to(latent) @ self.components.to(latent)

    def log_abs_det(self) -> float:
        """Log volume in the subspace per volume of latents, in nats."""
        return self.scale.double().log().sum().item()

    def log_residual(self, rows: Tensor) -> Tensor:
        """Log density ``(n,)`` of the residuals of rows ``(n, n_features)``, in nats."""
        if self.n_left_out == 0:
            return rows.new_zeros(len(rows))
        square = (rows - self.decode(self.encode(rows))).square().sum(1)
        log_norm = self.n_left_out * math.log(self.width * math.sqrt(2 * math.pi))
        return -square / (2 * self.width**2) - log_norm

    def draw(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Rows ``(n, n_features)`` of latents, each with a draw of its residual."""
        rows = self.decode(latent)
        noise = torch.randn(rows.shape, generator=generator, device=rows.device).to(rows)
        basis = self.components.to(rows)
        return rows + self.width * (noise - noise @ basis.T @ basis)

    def _measure_scale(self, rows: Tensor) -> Tensor:
        """Scale by rows of which few suffice: its ratio to `scale` falls from one component on."""
        ratios = self.encode(rows).square().mean(0).cpu().numpy()
        falling = IsotonicRegression(y_max=1, increasing=False)
        ratios = falling.fit_transform(np.arange(len(ratios)), ratios)
        return self.scale * torch.as_tensor(ratios).to(self.scale).sqrt()

    def _measure_width(self, rows: Tensor) -> float:
        if self.n_left_out == 0:
            return 0.0
        rows = rows.double()
        residual = rows - self.decode(self.encode(rows))
        width = math.sqrt(residual.square().sum(1).mean().item() / self.n_left_out)
        if width <= _resolution(rows.to(self.mean.dtype)):
            raise ValueError(
                f"reducer must leave out a part whose width can be measured, but its "
                f"{self.n_components} components hold all of the {len(rows)} rows; take fewer, or "
                f"hold out chains (validation_fraction)."
            )
        return width


def check_reducer(reducer: Reducer | None) -> None:
    """Raise unless `reducer` is None, a count, a fraction, or an estimator of components."""
    is_number = isinstance(reducer, numbers.Real) and not isinstance(reducer, bool)
    is_number = is_number and math.isfinite(reducer)
    is_count = is_number and reducer >= 1 and reducer == int(reducer)
    is_estimator = hasattr(reducer, "fit") and hasattr(reducer, "inverse_transform")
    if reducer is None or is_count or is_estimator or (is_number and 0 < reducer < 1):
        return
    raise ValueError(
        f"reducer must be None, a number of components, a fraction of the variance in (0, 1), or "
        f"an estimator such as sklearn.decomposition.PCA(100), got {reducer!r}."
    )


def _check_attributes(estimator: Any) -> None:
    missing = [
        name
        for name in ("mean_", "components_", "explained_variance_")
        if not hasattr(estimator, name)
    ]
    if missing:
        raise ValueError(
            f"reducer must have the attributes of sklearn.decomposition.PCA after fit, got "
            f"{estimator!r} without {missing}; use PCA or IncrementalPCA."
        )


def _resolution(rows: Tensor) -> float:
    """Standard deviation that rounding alone can give a sum over coordinates."""
    return 100 * torch.finfo(rows.dtype).eps * rows.double().square().mean().sqrt().item()


def _make_estimator(reducer: Reducer, rows: Tensor, random_state: int | None) -> Any:
    if hasattr(reducer, "fit"):
        return clone(reducer)
    most = min(len(rows) - 1, rows.shape[1])
    if reducer > most:
        raise ValueError(
            f"reducer must ask for at most {most} components of {len(rows)} networks with "
            f"{rows.shape[1]} coordinates, got {reducer}."
        )
    # 1.0 would be all of the variance for scikit-learn.
    n_components = int(reducer) if reducer >= 1 else reducer
    return PCA(n_components, random_state=random_state)
