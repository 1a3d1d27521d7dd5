"""Sets of networks side by side: how good they are, and how they differ ([DWF] Table 17).

Quality alone cannot tell new networks from copies, nor distance alone good ones from noise. Every
row judges one set by the same data and against the same reference networks, those of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.disagreement import disagreement, q_statistic
from bayesflow_nn.diversity.functional import max_iou, pairwise_jsd
from bayesflow_nn.diversity.inputs import check_points, check_probabilities
from bayesflow_nn.diversity.output_density import output_density_jsd
from bayesflow_nn.diversity.set_distances import set_distances
from bayesflow_nn.weights.training_data import spread_rows
from bayesflow_nn.weights.validation import as_tensor, check_integer

CLOUD_SIZE = 500  # inputs that make an output cloud: its divergence takes time with their square


class NetworkSet(NamedTuple):
    """Networks of one kind.

    Attributes
    ----------
    points : array or Tensor of shape (n_networks, n_coordinates)
        In weight space, modulo symmetry.
    proba : array or Tensor of shape (n_networks, n_inputs, n_classes)
        What they predict.
    """

    points: ArrayLike | Tensor
    proba: ArrayLike | Tensor


class DiversityRow(NamedTuple):
    """Means over the networks of a set; None for what needs labels or another set.

    Attributes
    ----------
    accuracy, nll : float or None
        Of single networks; nats.
    jsd : float
        Jensen-Shannon divergence of two networks, input by input, in nats.
    output_jsd : float
        That of their output clouds, in nats: [E25] eq. 7.1 without the pairs of a network with
        itself, from at most 500 inputs.
    disagreement : float
        Share of inputs to which two networks give different classes.
    q_statistic : float or None
        Yule's Q of their errors; NaN if too few err.
    iou_within, iou_reference : float or None
        Largest overlap of a network's errors with those of another of the set, and of the reference
        ([DWF] 5.3).
    nearest, wasserstein, l2, cosine : float or None
        Distances to the reference set in weight space.
    """

    accuracy: float | None
    nll: float | None
    jsd: float
    output_jsd: float
    disagreement: float
    q_statistic: float | None
    iou_within: float | None
    iou_reference: float | None
    nearest: float | None
    wasserstein: float | None
    l2: float | None
    cosine: float | None


class Frontier(NamedTuple):
    """Quality of networks of a set against how much they resemble others of the reference.

    Attributes
    ----------
    max_iou : ndarray of shape (n_networks,)
        1: errs on the same inputs as a reference network.
    accuracy : ndarray of shape (n_networks,)
    """

    max_iou: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True, eq=False)
class DiversityReport:
    """What `diversity_report` found; ``str`` of it is a table.

    Attributes
    ----------
    rows : dict from name to DiversityRow
    frontier : dict from name to Frontier
        Empty without labels.
    """

    rows: dict[str, DiversityRow]
    frontier: dict[str, Frontier]

    def __str__(self) -> str:
        width = max(12, *(len(name) + 2 for name in self.rows))  # -1.234e-05 and a gap
        lines = [" " * 20 + "".join(f"{name:>{width}}" for name in self.rows)]
        for column in DiversityRow._fields:
            values = [getattr(row, column) for row in self.rows.values()]
            if any(value is not None for value in values):
                texts = ["-" if value is None else f"{value:.4g}" for value in values]
                lines.append(f"{column:20}" + "".join(f"{text:>{width}}" for text in texts))
        return "\n".join(lines)


def diversity_report(
    sets: Mapping[str, NetworkSet],
    y: ArrayLike | Tensor | None = None,
    *,
    reference: str = "training",
    most: int = 100,
) -> DiversityReport:
    """Compare sets of networks with each other and with a reference.

    Parameters
    ----------
    sets : mapping from name to NetworkSet
        Of at least two networks each, about the same inputs. Pass the whole reference: a copy of a
        network that was left out of it would look new.
    y : integer array or Tensor of shape (n_inputs,), optional
        Labels; without them there is nothing about errors.
    reference : str
        Name of the set that the others are compared with.
    most : int
        Networks of a set in its frontier and in the measures of its pairs (jsd, output_jsd,
        disagreement, q_statistic, iou_within), whose time and memory grow with the square; larger
        sets are thinned evenly. Those of the reference are all searched for the nearest network
        and for the largest overlap.

    Returns
    -------
    DiversityReport

    Raises
    ------
    ValueError
        If `reference` is no name of a set, points, probabilities or labels do not fit, or `most`
        is no integer from 2 on.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def draw():
    ...     return NetworkSet(rng.normal(size=(5, 2)), rng.dirichlet([1.0, 1.0], (5, 9)))
    >>> report = diversity_report({"training": draw(), "generated": draw()}, np.zeros(9, int))
    >>> report.rows["generated"].iou_reference <= 1, len(report.frontier["training"].accuracy)
    (True, 5)
    """
    if reference not in sets:
        raise ValueError(f"reference must be one of {list(sets)}, got {reference!r}.")
    most = check_integer("most", most, low=2)
    read = {name: _read(name, networks) for name, networks in sets.items()}
    for name, networks in read.items():
        _check_comparable(name, networks, reference, read[reference])
    labels = None if y is None else _check_labels(y, read[reference].proba)
    rows, frontier = {}, {}
    for name, networks in read.items():
        other = None if name == reference else read[reference]
        errors = {} if labels is None else _about_errors(networks, other, labels, most)
        if errors:
            frontier[name] = errors.pop("frontier")
        rows[name] = _row(networks, other, errors, most)
    return DiversityReport(rows, frontier)


def _row(
    networks: NetworkSet,
    reference: NetworkSet | None,
    errors: Mapping[str, float | None],
    most: int,
) -> DiversityRow:
    values: dict[str, float | None] = dict.fromkeys(DiversityRow._fields)
    proba = spread_rows(networks.proba, most)
    clouds = spread_rows(proba.swapaxes(0, 1), CLOUD_SIZE).swapaxes(0, 1)
    values |= {
        "jsd": _mean_of_pairs(pairwise_jsd(proba)),
        "output_jsd": _mean_of_pairs(output_density_jsd(clouds)),
        "disagreement": _mean_of_pairs(disagreement(proba.argmax(-1))),
    }
    if reference is not None:
        values |= set_distances(networks.points, reference.points)._asdict()
    return DiversityRow(**values | dict(errors))


def _about_errors(
    networks: NetworkSet, reference: NetworkSet | None, y: Tensor, most: int
) -> dict[str, float | Frontier | None]:
    wrong = networks.proba.argmax(-1) != y
    accuracy = (~wrong).double().mean(1)
    of_label = networks.proba[:, torch.arange(len(y)), y].double()
    others = None if reference is None else reference.proba.argmax(-1) != y
    overlap = max_iou(wrong, others)
    few = spread_rows(wrong, most)
    shown = (spread_rows(values, most).numpy(force=True) for values in (overlap, accuracy))
    return {
        "accuracy": accuracy.mean().item(),
        "nll": -of_label.log().mean().item(),
        "q_statistic": _mean_of_pairs(q_statistic(few)),
        "iou_within": max_iou(few).mean().item(),
        "iou_reference": None if others is None else overlap.mean().item(),
        "frontier": Frontier(*shown),
    }


def _mean_of_pairs(values: Tensor) -> float:
    """Mean over pairs of different networks; those that are not defined are left out."""
    different = ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    return values[different].nanmean().item()


def _read(name: str, networks: NetworkSet) -> NetworkSet:
    points = check_points(f"points of {name!r}", networks.points, at_least=2)
    proba = check_probabilities(f"proba of {name!r}", networks.proba)
    if len(points) != len(proba):
        raise ValueError(
            f"points and proba of {name!r} must be of the same networks, got {len(points)} and "
            f"{len(proba)}."
        )
    return NetworkSet(points, proba)


def _check_comparable(
    name: str, networks: NetworkSet, reference: str, of_reference: NetworkSet
) -> None:
    for what, a, b in zip(NetworkSet._fields, networks, of_reference, strict=True):
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"{what} of {name!r} must have shape (n_networks, "
                f"{', '.join(map(str, b.shape[1:]))}) like those of {reference!r}, got "
                f"{tuple(a.shape)}."
            )


def _check_labels(y: ArrayLike | Tensor, proba: Tensor) -> Tensor:
    labels = as_tensor(y).to(proba.device)
    n_inputs, n_classes = proba.shape[1:]
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape != (n_inputs,) or not whole or labels.min() < 0 or labels.max() >= n_classes:
        span = f", from {labels.min()} to {labels.max()}" if labels.numel() else ""
        raise ValueError(
            f"y must hold one class 0, ..., {n_classes - 1} per input, shape ({n_inputs},), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}{span}."
        )
    return labels.long()
