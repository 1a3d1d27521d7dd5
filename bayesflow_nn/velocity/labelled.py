"""Gaussian laws of their own for the networks of labels that differ in more than their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.gaussian import Denoised, GaussianDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph

_FEWEST_OF_A_LABEL = 20  # networks for a law of their own
_FEWEST_HELD_OUT = 5  # networks of a label to judge its law by
_LEAST_ADVANTAGE = 2.0  # of its own law, in standard errors
_COMPARED_AT = (0.1, 0.3, 0.5, 0.7, 0.9)  # later points say all of a network by themselves


class LabelledDenoiser(nn.Module):
    """Gaussian posterior mean of the target, under the law of the label that a network has.

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

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance given ``x (n, n_coordinates)`` at times ``t (n,)``."""
        return Denoised(*self._choose(lambda law, given: law(t, x, given), condition))

    def transport(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Carry points to where the Gaussian flow ends; see :class:`AffineDenoiser`."""
        return self._choose(lambda law, given: (law.transport(t, x, given),), condition)[0]

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance; see :class:`AffineDenoiser`."""

        def apply(law: GaussianDenoiser, given: Tensor | None) -> tuple[Tensor]:
            return (law.apply_covariance(t, v, given, power=power),)

        return self._choose(apply, condition)[0]

    def on(self, graph: NeuralGraph) -> LabelledDenoiser:
        """The same laws, where they are exchangeable, over networks of other widths."""
        laws = [law.on(graph) for law in self.laws]
        return LabelledDenoiser(self.labels, laws, self.shared.on(graph))

    def _choose(
        self,
        function: Callable[[GaussianDenoiser, Tensor | None], tuple[Tensor, ...]],
        condition: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Values of a function of a law, each row under its own; only laws in use are called."""
        if condition is None:
            return function(self.shared, None)
        has_label = (condition[:, None] == self.labels).all(-1)
        values = None if has_label.any(1).all() else function(self.shared, condition)
        for law, rows in zip(self.laws, has_label.T, strict=True):
            if not rows.any():
                continue
            own = function(law, None)
            if values is not None:
                pairs = zip(own, values, strict=True)
                own = tuple(torch.where(rows[:, None], new, old) for new, old in pairs)
            values = own
        return values


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
    training: ConditionedPoints,
    held_out: ConditionedPoints | None,
) -> GaussianDenoiser:
    """Give labels laws of their own where these predict held-out networks better.

    The law of a label describes its networks more closely than one that all conditions share, but
    is estimated from them alone. It is used where its advantage on held-out networks of the label
    is more than chance; the same networks correct its variances.

    Parameters
    ----------
    shared : GaussianDenoiser
        Fitted to all training points, with their conditions.
    fit : callable
        Law of training and held-out points, ``(n, n_coordinates)`` and ``(m, n_coordinates)``.
    training, held_out : ConditionedPoints
        Without held-out points no label has a law of its own.

    Returns
    -------
    GaussianDenoiser
        `shared` itself if no label has a law of its own.
    """
    if held_out is None:
        return shared
    features, counts = training.condition.unique(dim=0, return_counts=True)
    labels, laws = [], []
    for label in features[counts >= _FEWEST_OF_A_LABEL]:
        others = held_out.having(label)
        if len(others.x) < _FEWEST_HELD_OUT:
            continue
        law = fit(training.having(label).x, others.x)
        if _advantage(law, shared, others) > _LEAST_ADVANTAGE:
            labels.append(label)
            laws.append(law)
    return LabelledDenoiser(torch.stack(labels), laws, shared) if laws else shared


def _advantage(
    law: GaussianDenoiser, other: GaussianDenoiser, held_out: ConditionedPoints
) -> float:
    """Mean by which a law predicts networks better than another, in its standard errors."""
    gain = _errors(other, held_out) - _errors(law, held_out)
    return (gain.mean() / (gain.std() / len(gain) ** 0.5)).item()


def _errors(law: GaussianDenoiser, points: ConditionedPoints) -> Tensor:
    """Squared error of the velocity that is predicted for every network, at the same noise."""
    x, condition = points
    generator, errors = torch.Generator().manual_seed(0), []
    for time in _COMPARED_AT:
        t = torch.full((len(x),), time).to(x)
        signal, width = law.schedule(t)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        predicted = law(t, signal * x + width * noise, condition).mean
        errors.append(((predicted - x) / width).square().mean(1))
    return torch.stack(errors).mean(0)
