"""Standardisation of coordinates, one by one; some keep a fixed scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardisation:
    """The affine map ``coordinate = mean + scale * point``.

    Parameters
    ----------
    mean, scale : Tensor of shape (n_coordinates,)
        Float64; they take the dtype and device of what they are applied to.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, coordinates: Tensor, fixed_scale: Tensor) -> Standardisation:
        """Mean and standard deviation of each column.

        A column that is constant up to the resolution of its dtype gets scale 1.

        Parameters
        ----------
        coordinates : Tensor of shape (n, n_coordinates)
        fixed_scale : Tensor of shape (n_coordinates,)
            Scale of the coordinates that are not standardised (their mean stays zero), NaN for
            the others.

        Returns
        -------
        Standardisation
        """
        fixed = ~fixed_scale.isnan()
        values = coordinates.detach().double().cpu()
        mean, deviation = values.mean(0), values.std(0, correction=0)
        resolution = 10 * torch.finfo(coordinates.dtype).eps * values.abs().amax(0)
        deviation = torch.where(deviation <= resolution, 1, deviation)
        return cls(torch.where(fixed, 0, mean), torch.where(fixed, fixed_scale, deviation))

    def to_point(self, coordinates: Tensor) -> Tensor:
        """Standardise ``(..., n_coordinates)``."""
        return (coordinates - self.mean.to(coordinates)) / self.scale.to(coordinates)

    def to_coordinates(self, point: Tensor) -> Tensor:
        """Undo `to_point`."""
        return self.mean.to(point) + self.scale.to(point) * point

    def log_abs_det(self) -> float:
        """Log volume of coordinates per volume of points, in nats."""
        return self.scale.log().sum().item()
