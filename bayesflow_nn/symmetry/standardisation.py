"""Standardisation of coordinates, one by one or pooled over orbits; some keep a fixed scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    def fit(
        cls, coordinates: Tensor, fixed_scale: Tensor, orbits: Tensor, least_scale: float = 0.0
    ) -> Standardisation:
        """Mean and standard deviation of each column, or of all columns of an orbit together.

        An orbit that is constant up to the resolution of its dtype gets scale 1.

        Parameters
        ----------
        coordinates : Tensor of shape (n, n_coordinates)
        fixed_scale : Tensor of shape (n_coordinates,)
            Scale of the coordinates that are not standardised (their mean stays zero), NaN for
            the others.
        orbits : Tensor of int64, shape (n_coordinates,)
            Index of the orbit of every coordinate, from 0 without a gap; those of one orbit share
            mean and scale.
        least_scale : float
            Relative to the deviation that nine tenths of those that vary do not exceed. Weights
            that decay to nothing have deviations far below it, which a single network can make.

        Returns
        -------
        Standardisation
        """
        fixed = ~fixed_scale.isnan()
        values = coordinates.detach().double().cpu()
        own_mean = values.mean(0)
        mean = orbit_means(own_mean, orbits)[orbits]
        square = values.var(0, correction=0) + (own_mean - mean).square()
        deviation = orbit_means(square, orbits)[orbits].sqrt()
        largest = values.abs().amax(0)
        largest = torch.zeros_like(largest).scatter_reduce(0, orbits, largest, "amax")[orbits]
        resolution = 10 * torch.finfo(coordinates.dtype).eps * largest
        varies = ~fixed & (deviation > resolution)
        if varies.any():
            # Neither many vanishing weights nor a few that explode move this quantile.
            deviation = deviation.clamp_min(least_scale * np.quantile(deviation[varies], 0.9))
        deviation = torch.where(varies, deviation, 1)
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


def orbit_means(values: Tensor, orbits: Tensor) -> Tensor:
    """Average values over the coordinates of every orbit.

    Parameters
    ----------
    values : Tensor of shape (n_coordinates,)
    orbits : Tensor of int64, shape (n_coordinates,)
        Index of the orbit of every coordinate, from 0 without a gap.

    Returns
    -------
    Tensor of shape (n_orbits,)

    Examples
    --------
    >>> orbit_means(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]))
    tensor([1., 3.])
    """
    orbits = orbits.to(values.device)
    counts = orbits.bincount()
    return values.new_zeros(len(counts)).index_add(0, orbits, values) / counts
