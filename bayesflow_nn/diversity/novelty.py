"""Whether a generator learned, copied or shrank.

A generator that memorises gives its training networks back; one that underfits contracts towards
the mean network. Both show against held-out networks, on the canonical chart:

    novelty     mean distance to the nearest training network, generated / held-out
    dispersion  mean distance to the set's own mean,           generated / held-out

A perfect generator has 1 and 1. Neither may be read alone: the mean network itself is new, and a
copy of the training set is well dispersed [Z25].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_points
from bayesflow_nn.diversity.neighbours import Distance, euclidean, nearest_neighbours

_LEAST_NOVELTY = 0.5
_LEAST_DISPERSION = 0.7


@dataclass(frozen=True, eq=False)
class NoveltyReport:
    """Distances of generated and held-out networks, and the ratios that summarise them.

    Attributes
    ----------
    generated_distance, held_out_distance : Tensor of shape (n,)
        Distance of each network to its nearest training network.
    generated_nearest, held_out_nearest : Tensor of shape (n,)
        Index of that training network.
    generated_spread, held_out_spread : Tensor of shape (n,)
        Distance of each network to the mean of its set, times sqrt(n / (n - 1)): a mean of n
        follows its own points, and the factor makes sets of different size comparable.
    log_density_gap : float or None
        Mean log density of training networks minus that of held-out ones, in nats: what the
        density gained by having seen them. None unless a density was given.
    """

    generated_distance: Tensor
    held_out_distance: Tensor
    generated_nearest: Tensor
    held_out_nearest: Tensor
    generated_spread: Tensor
    held_out_spread: Tensor
    log_density_gap: float | None = None

    @property
    def novelty(self) -> float:
        """0 for copies of training networks, 1 for networks as new as independent ones."""
        return (self.generated_distance.mean() / self.held_out_distance.mean()).item()

    @property
    def dispersion(self) -> float:
        """0 if all networks are the same, 1 if they are as spread out as held-out ones."""
        return (self.generated_spread.mean() / self.held_out_spread.mean()).item()

    @property
    def n_distinct_nearest(self) -> int:
        """Number of training networks that are nearest to some generated network."""
        return len(self.generated_nearest.unique())

    @property
    def n_distinct_nearest_held_out(self) -> int:
        """Number of training networks that are nearest to some held-out network."""
        return len(self.held_out_nearest.unique())

    def __str__(self) -> str:
        lines = [
            f"novelty     {self.novelty:.3f}   distance to the nearest training network: "
            f"generated {self.generated_distance.mean():.4g}, "
            f"held out {self.held_out_distance.mean():.4g}",
            f"dispersion  {self.dispersion:.3f}   distance to the set's own mean: "
            f"generated {self.generated_spread.mean():.4g}, "
            f"held out {self.held_out_spread.mean():.4g}",
            f"nearest     {self.n_distinct_nearest} distinct training networks for "
            f"{len(self.generated_nearest)} generated, {self.n_distinct_nearest_held_out} for "
            f"{len(self.held_out_nearest)} held out",
        ]
        if self.log_density_gap is not None:
            lines.append(f"log p gap   {self.log_density_gap:.3g} nats, training minus held out")
        return "\n".join(lines)


def novelty_report(
    generated: ArrayLike | Tensor,
    training: ArrayLike | Tensor,
    held_out: ArrayLike | Tensor,
    *,
    distance: Distance | None = None,
    centre: Callable[[Tensor], Tensor] | None = None,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    chunk_size: int = 1024,
) -> NoveltyReport:
    """Compare generated networks with training and with held-out networks.

    All three are points of the canonical chart, after alignment. On a product manifold they are
    ambient coordinates, and distances are Euclidean (chordal) unless `distance` is given.

    Parameters
    ----------
    generated : array or Tensor of shape (n_generated, n_coordinates)
        At least two generated networks.
    training : array or Tensor of shape (n_training, n_coordinates)
        Networks that the generator was fit to.
    held_out : array or Tensor of shape (n_held_out, n_coordinates)
        At least two networks of chains that the generator never saw.
    distance : callable, optional
        ``distance(x, y)`` with broadcasting, for example ``ProductManifold.dist``.
    centre : callable, optional
        Mean of a set, ``(n, n_coordinates) -> (n_coordinates,)``; give it with `distance` where
        the arithmetic mean is no point: ``lambda x: manifold.projx(x.mean(0))``.
    log_prob : callable, optional
        Log density of points in nats, ``(n, n_coordinates) -> (n,)``, for `log_density_gap`. It is
        asked about the held-out networks and at most as many training ones.
    chunk_size : int
        Training networks compared at once, which bounds the memory.

    Returns
    -------
    NoveltyReport

    Raises
    ------
    ValueError
        If points are too few, not finite or of different length, or if held-out networks are all
        equal or all copies of training networks, so that there is nothing to compare with.

    Warns
    -----
    UserWarning
        If novelty is below 0.5 (copies) or dispersion below 0.7 (shrinks).

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> training, held_out, generated = torch.randn(3, 500, 8, generator=generator)
    >>> print(novelty_report(generated, training, held_out))
    novelty     0.985   distance to the nearest training network: generated 1.512, held out 1.535
    dispersion  0.980   distance to the set's own mean: generated 2.729, held out 2.786
    nearest     294 distinct training networks for 500 generated, 291 for 500 held out
    """
    training = check_points("training", training)
    n_coordinates = training.shape[1]
    generated = check_points("generated", generated, n_coordinates=n_coordinates, at_least=2)
    held_out = check_points("held_out", held_out, n_coordinates=n_coordinates, at_least=2)
    near, far = (
        nearest_neighbours(points, training, distance=distance, chunk_size=chunk_size)
        for points in (generated, held_out)
    )
    report = NoveltyReport(
        generated_distance=near.distances,
        held_out_distance=far.distances,
        generated_nearest=near.indices,
        held_out_nearest=far.indices,
        generated_spread=spread(generated, distance, centre),
        held_out_spread=spread(held_out, distance, centre),
        log_density_gap=log_prob and _log_density_gap(log_prob, training, held_out),
    )
    _check_comparable(report)
    _warn(report)
    return report


def spread(
    points: ArrayLike | Tensor,
    distance: Distance | None = None,
    centre: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Distance of every point to the mean of its set, as if that were known.

    Parameters
    ----------
    points : array or Tensor of shape (n, n_coordinates)
        At least two.
    distance, centre : callable, optional
        As in `novelty_report`.

    Returns
    -------
    Tensor of shape (n,)
        Times the root of n / (n - 1), since the mean of n points lies nearer to them.

    Raises
    ------
    ValueError
        If points are fewer than two or not finite.

    Examples
    --------
    >>> spread(torch.tensor([[0.0], [2.0]]))
    tensor([1.4142, 1.4142], dtype=torch.float64)
    """
    points = check_points("points", points, at_least=2)
    middle = points.mean(0, dtype=torch.float64) if centre is None else centre(points)
    n = len(points)
    return (distance or euclidean)(points, middle) * (n / (n - 1)) ** 0.5


def _log_density_gap(
    log_prob: Callable[[Tensor], Tensor], training: Tensor, held_out: Tensor
) -> float:
    # Evenly spaced rows, so that populations stored chain by chain are seen whole.
    n = min(len(training), len(held_out))
    rows = torch.linspace(0, len(training) - 1, n).round().long()
    return (log_prob(training[rows]).mean() - log_prob(held_out).mean()).item()


def _check_comparable(report: NoveltyReport) -> None:
    if report.held_out_distance.mean() == 0:
        raise ValueError(
            "held_out must not consist of training networks: all are at distance 0 from one; "
            "split the population by chain before the fit."
        )
    if report.held_out_spread.mean() == 0:
        raise ValueError("held_out must hold different networks, got copies of one network.")


def _warn(report: NoveltyReport) -> None:
    if report.novelty < _LEAST_NOVELTY:
        warnings.warn(
            f"novelty is {report.novelty:.2f}, below {_LEAST_NOVELTY}: generated networks are "
            "nearly copies of training networks; fit to more networks or regularise the velocity.",
            UserWarning,
            stacklevel=3,
        )
    if report.dispersion < _LEAST_DISPERSION:
        warnings.warn(
            f"dispersion is {report.dispersion:.2f}, below {_LEAST_DISPERSION}: generated networks "
            "shrink towards the mean network; train longer or widen the velocity.",
            UserWarning,
            stacklevel=3,
        )
