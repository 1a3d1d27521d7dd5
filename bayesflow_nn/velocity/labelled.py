"""A Gaussian law of its own for the networks of every label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.gaussian import Denoised, GaussianDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph


class LabelledDenoiser(nn.Module):
    """Gaussian posterior mean of the target, under the law of the label that a network has.

    Networks of two tasks differ in more than their mean: where the inputs of a task do not vary,
    weights stay as they began. Without a label, or with one that was not fitted, the law is that of
    all networks.

    Parameters
    ----------
    labels : Tensor of shape (n_labels, n_features)
        Features of the labels, all different.
    laws : list of n_labels GaussianDenoiser
    overall : GaussianDenoiser
    """

    labels: Tensor

    def __init__(
        self,
        labels: Tensor,
        laws: list[GaussianDenoiser],
        overall: GaussianDenoiser,
    ) -> None:
        super().__init__()
        self.register_buffer("labels", labels)
        self.laws = nn.ModuleList(laws)
        self.overall = overall

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance given ``x (n, n_coordinates)`` at times ``t (n,)``."""
        return Denoised(*self._choose(lambda law: law(t, x), condition))

    def transport(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Carry points to where the Gaussian flow ends; see :class:`AffineDenoiser`."""
        return self._choose(lambda law: (law.transport(t, x),), condition)[0]

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance; see :class:`AffineDenoiser`."""
        return self._choose(lambda law: (law.apply_covariance(t, v, power=power),), condition)[0]

    def on(self, graph: NeuralGraph) -> LabelledDenoiser:
        """The same laws, where they are exchangeable, over networks of other widths."""
        laws = [law.on(graph) for law in self.laws]
        return LabelledDenoiser(self.labels, laws, self.overall.on(graph))

    def _choose(
        self,
        function: Callable[[GaussianDenoiser], tuple[Tensor, ...]],
        condition: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Values of a function of a law, each row under its own; only laws in use are called."""
        if condition is None:
            return function(self.overall)
        has_label = (condition[:, None] == self.labels).all(-1)
        values = None if has_label.any(1).all() else function(self.overall)
        for law, rows in zip(self.laws, has_label.T, strict=True):
            if not rows.any():
                continue
            own = function(law)
            if values is not None:
                pairs = zip(own, values, strict=True)
                own = tuple(torch.where(rows[:, None], new, old) for new, old in pairs)
            values = own
        return values
