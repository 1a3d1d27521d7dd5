"""Gaussian laws of their own for the networks of labels that differ in more than their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule, Spectrum
from bayesflow_nn.velocity.neural_graph import NeuralGraph

_FEWEST_OF_A_LABEL = 20  # networks for a law of their own
_FEWEST_HELD_OUT = 10  # networks of a label to judge its law by
_LEAST_ADVANTAGE = 2.0  # of an own law, in standard errors
_COMPARED_AT = (0.1, 0.3, 0.5, 0.7, 0.9)  # later points say all of a network by themselves


class LabelledDenoiser(GaussianDenoiser):
    """Gaussian laws of networks, each under that of its label.

    Networks of two tasks differ in more than their mean: where the inputs of a task do not vary,
    weights stay as they began. Under other conditions, and without one, the law is the shared one.

    Parameters
    ----------
    labels : Tensor of shape (n_labels, n_features)
        Features of the labels, all different.
    laws : list of n_labels GaussianDenoiser
    shared : GaussianDenoiser
        Law that takes any condition.
    """

    labels: Tensor

    def __init__(
        self, labels: Tensor, laws: list[GaussianDenoiser], shared: GaussianDenoiser
    ) -> None:
        super().__init__()
        self.register_buffer("labels", labels)
        self.laws = nn.ModuleList(laws)
        self.shared = shared

    @property
    def has_every_label(self) -> bool:
        """Whether each condition that can be asked for, if any, is a label with its own law.

        It is where conditions are one column of labels, and no rare label shares the common law.
        """
        indicators = self.labels[:, 1:]
        is_binary = ((indicators == 0) | (indicators == 1)).all()
        is_square = indicators.shape[0] == indicators.shape[1]
        return bool(is_square and is_binary and (indicators.sum(1) == 1).all())

    @property
    def schedule(self) -> Schedule:
        """Weights of target and source, those of all laws."""
        return self.shared.schedule

    def centre(self, condition: Tensor | None = None) -> Tensor:
        """Mean of networks, ``(n, n_coordinates)``, or ``(1, n_coordinates)`` if all have one."""
        if condition is None:
            return self.shared.centre()
        return self._call(
            lambda law, rows, given: law.centre(given).expand(len(rows), -1), condition, condition
        )

    def multiply(
        self, spectrum: Spectrum, t: Tensor, v: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Multiply by the function of the covariance that has these eigenvalues."""
        return self._call(lambda law, *rows: law.multiply(spectrum, *rows), condition, t, v)

    def average(self, spectrum: Spectrum, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Trace of the function of the covariance over the number of coordinates, ``(n, 1)``."""
        return self._call(lambda law, *rows: law.average(spectrum, *rows), condition, t)

    def on(self, graph: NeuralGraph) -> LabelledDenoiser:
        """The same laws, where they are exchangeable, over networks of other widths."""
        laws = [law.on(graph) for law in self.laws]
        return LabelledDenoiser(self.labels, laws, self.shared.on(graph))

    def _call(
        self, function: Callable[..., Tensor], condition: Tensor | None, *rows: Tensor
    ) -> Tensor:
        """Values of a function of a law, rows and their condition, each row under its law."""
        if condition is None:
            return function(self.shared, *rows, None)
        own = [lambda *given, law=law: (function(law, *given[:-1], None),) for law in self.laws]

        def shared(*given: Tensor) -> tuple[Tensor]:
            return (function(self.shared, *given),)

        return call_by_label(self.labels, own, shared, condition, (*rows, condition))[0]


def call_by_label(
    labels: Tensor,
    functions: list[Callable[..., tuple[Tensor, ...]]],
    other: Callable[..., tuple[Tensor, ...]],
    condition: Tensor,
    rows: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Give every function the rows of its label, and all others to another function.

    Parameters
    ----------
    labels : Tensor of shape (n_labels, n_features)
    functions : list of n_labels callables
        Take rows of the tensors in `rows`, and return tensors with as many. Only those that have
        rows are called.
    other : callable
        Takes rows whose condition is not in `labels`.
    condition : Tensor of shape (n, n_features)
        Of one row at least.
    rows : tuple of Tensor of shape (n, ...)

    Returns
    -------
    tuple of Tensor of shape (n, ...)
    """
    has_label = (condition[:, None] == labels).all(-1)
    place = torch.where(has_label.any(1), has_label.int().argmax(1), len(labels))
    order, counts = place.argsort(stable=True), place.bincount(minlength=len(labels) + 1).tolist()
    parts = zip(*(row[order].split(counts) for row in rows), strict=True)
    called = zip([*functions, other], counts, parts, strict=True)
    values = [function(*part) for function, count, part in called if count]
    back = order.argsort()
    return tuple(torch.cat(each)[back] for each in zip(*values, strict=True))


class ConditionedPoints(NamedTuple):
    """Points ``(n, n_coordinates)`` with the features of their conditions ``(n, n_features)``."""

    x: Tensor
    condition: Tensor

    def having(self, label: Tensor) -> ConditionedPoints:
        """Those whose condition has these features."""
        rows = (self.condition == label).all(1)
        return ConditionedPoints(self.x[rows], self.condition[rows])


def with_laws_of_labels(
    shared: GaussianDenoiser,
    fit: Callable[[Tensor, Tensor], GaussianDenoiser],
    schedule: Schedule,
    training: ConditionedPoints,
    held_out: ConditionedPoints | None,
) -> GaussianDenoiser:
    """Give labels laws of their own where these predict held-out networks better.

    The law of a label describes its networks more closely than one that all conditions share, but
    is estimated from them alone. Labels have laws of their own if that of one predicts its held-out
    networks better by two standard errors: all then whose law predicts theirs better at all, since
    what the others share is a mixture. Networks count as independent, those of one chain too, and
    correct the variances of the law that they judge.

    Parameters
    ----------
    shared : GaussianDenoiser
        Fitted to all training points, with their conditions.
    fit : callable
        Law of training and held-out points, ``(n, n_coordinates)`` and ``(m, n_coordinates)``.
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``: the weights of target and source in ``x_t``.
    training, held_out : ConditionedPoints
        A label is a condition that at least 20 training and 10 held-out points have in common;
        without held-out points there is none.

    Returns
    -------
    GaussianDenoiser
        `shared` itself if no label has a law of its own.
    """
    if held_out is None:
        return shared
    features, counts = training.condition.unique(dim=0, return_counts=True)
    candidates = []
    for label in features[counts >= _FEWEST_OF_A_LABEL]:
        others = held_out.having(label)
        if len(others.x) >= _FEWEST_HELD_OUT:
            law = fit(training.having(label).x, others.x)
            candidates.append((_advantage(law, shared, schedule, others), label, law))
    if max((advantage for advantage, *_ in candidates), default=0.0) <= _LEAST_ADVANTAGE:
        return shared
    labels, laws = zip(*(own for advantage, *own in candidates if advantage > 0), strict=True)
    return LabelledDenoiser(torch.stack(labels), list(laws), shared)


def _advantage(
    law: GaussianDenoiser,
    other: GaussianDenoiser,
    schedule: Schedule,
    held_out: ConditionedPoints,
) -> float:
    """Mean by which a law predicts networks better than another, in its standard errors."""
    gain = _errors(other, schedule, held_out) - _errors(law, schedule, held_out)
    standard_error = gain.std() / len(gain) ** 0.5
    return (gain.mean() / standard_error.clamp_min(torch.finfo(gain.dtype).tiny)).item()


def _errors(law: GaussianDenoiser, schedule: Schedule, points: ConditionedPoints) -> Tensor:
    """Squared error of the velocity that is predicted for every network, at the same noise."""
    x, condition = points
    generator, errors = torch.Generator().manual_seed(0), []
    for time in _COMPARED_AT:
        t = torch.full((len(x),), time).to(x)
        signal, width = schedule(t)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        predicted = law(t, signal * x + width * noise, condition).mean
        errors.append(((predicted - x) / width).square().mean(1))
    return torch.stack(errors).mean(0)
