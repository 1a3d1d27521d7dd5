r"""`ModuleScaleCanonicalizer`: one representative of all networks that differ by scales of units.

Groups are made canonical one after the other, input side first:

.. math:: (w_i, b_i, v_i) \to (c_i w_i, c_i b_i, v_i / c_i), \qquad c_i = 1 / |w_i|,

of odd units with c = sign(sum w) ([Pi22], [E25] 4.4). What is measured on a group, its settled
weights, no later group changes; so one pass is enough, and a second one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.symmetry.groups import Slot
from bayesflow_nn.symmetry.row_scale import row_norms
from bayesflow_nn.symmetry.scale_discovery import discover_scales
from bayesflow_nn.symmetry.scale_groups import ScaleGroup, settled_weights
from bayesflow_nn.symmetry.weight_transformer import WeightTransformerMixin
from bayesflow_nn.weights import Architecture, WeightPopulation


class ModuleScaleCanonicalizer(WeightTransformerMixin, BaseEstimator):
    """Remove the scales of the units of any module without changing the function.

    The incoming weights of every homogeneous unit get norm 1; the scale moves to what reads it. Of
    odd units the sum of the incoming weights becomes positive. Filters in front of batch norm get
    norm 1, and the statistics follow. Where many layers write to one residual stream, the norm is
    that of all of them together, without those whose own inputs a later group scales (see
    `settled_weights`). Units whose norm is zero, or not above rounding beside their bias, stay as
    they are.

    Parameters
    ----------
    architecture : Architecture, optional
        A `WeightPopulation` brings its own.
    groups : sequence of ScaleGroup, optional
        What may be scaled, input side first, instead of what `discover_scales` finds.
    inputs : array or Tensor of shape (n_inputs, ...), optional
        Inputs of the networks, on two of which discovery runs the module. By default those of the
        population or the architecture.

    Attributes
    ----------
    groups_ : tuple of ScaleGroup
    architecture_ : Architecture
    n_features_in_ : int
        Number of weights.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bayesflow_nn.symmetry.module_scaling import ModuleScaleCanonicalizer
    >>> from bayesflow_nn.weights import Architecture
    >>> cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    >>> X = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    >>> architecture = Architecture(cnn, example_input=X.float())
    >>> weights = torch.randn(10, architecture.n_weights, dtype=torch.float64)
    >>> canonical = ModuleScaleCanonicalizer(architecture).fit_transform(weights)
    >>> round(canonical[0, :9].norm().item(), 12)
    1.0
    >>> torch.allclose(architecture.apply(canonical, X), architecture.apply(weights, X))
    True
    """

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        groups: Sequence[ScaleGroup] | None = None,
        inputs: ArrayLike | Tensor | None = None,
    ) -> None:
        self.architecture = architecture
        self.groups = groups
        self.inputs = inputs

    def fit(
        self, weights: ArrayLike | Tensor | WeightPopulation, y: None = None
    ) -> ModuleScaleCanonicalizer:
        """Find the groups; nothing is learned from the weights.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
        y : None
            Ignored.

        Returns
        -------
        ModuleScaleCanonicalizer
            This object.

        Raises
        ------
        TypeError
            If `architecture` is no `Architecture`, or weights are complex or sparse.
        ValueError
            If the architecture is unknown, the module has to be run and there is nothing to run it
            on, it cannot be traced, or weights have a wrong shape or are not finite.
        """
        given = self._read(weights, reset=True)
        own = given.source.inputs if isinstance(given.source, WeightPopulation) else None
        inputs = own if self.inputs is None else torch.as_tensor(self.inputs)
        groups = self.groups
        self.groups_ = find_scales(given.architecture, inputs) if groups is None else tuple(groups)
        return self

    def transform(
        self, weights: ArrayLike | Tensor | WeightPopulation
    ) -> np.ndarray | Tensor | WeightPopulation:
        """Canonical weights of the same networks.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Same type as `weights`. The statistics of a population move with their channels; an
            array has none, and batch norm then needs new statistics.

        Raises
        ------
        ValueError
            If weights have a wrong shape or architecture, or are not finite.
        """
        check_is_fitted(self, "groups_")
        given = self._read(weights, reset=False)
        state = given.state({s.slot.parameter for group in self.groups_ for s in group.statistics})
        for group, measured in zip(self.groups_, settled_weights(self.groups_), strict=True):
            if measured:
                state |= group.scale(state, _canonical_factors(group, measured, state))
        return given.like_state(state)


def find_scales(architecture: Architecture, inputs: Tensor | None = None) -> tuple[ScaleGroup, ...]:
    """Scale groups of an architecture; see `bayesflow_nn.symmetry.representation.find_groups`."""
    if architecture.is_mlp:
        return discover_scales(architecture.module, torch.zeros(2, architecture.sizes[0]))
    inputs = architecture.example_input if inputs is None else inputs
    if inputs is None:
        raise ValueError(
            f"the scales of {architecture!r} are found by running it; pass inputs=X[:2], or build "
            f"it as Architecture(module, example_input=X[:2])."
        )
    return discover_scales(architecture.module, inputs[:2])


def _canonical_factors(
    group: ScaleGroup, measured: Sequence[Slot], state: dict[str, Tensor]
) -> Tensor:
    """Factors ``(n_networks, size)`` that make the measured weights of a group canonical."""
    weights = torch.cat([unit_rows(state[slot.parameter], slot) for slot in measured], dim=-1)
    if group.kind == "odd":
        return torch.where(weights.sum(-1) < 0, -1, 1).to(weights)
    norm = row_norms(weights)
    return 1 / torch.where(norm > _least_norm(group, norm, state), norm, 1)


def _least_norm(group: ScaleGroup, norm: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Norm below which a unit is dead: no input moves it, or the factor would overflow."""
    limits = torch.finfo(norm.dtype)
    exponent = max((s.exponent for s in group.statistics if s.slot.parameter in state), default=1)
    least = torch.full_like(norm, limits.tiny ** (1 / exponent)).detach()
    if group.biases:
        biases = torch.cat([unit_rows(state[s.parameter], s) for s in group.biases], dim=-1)
        least = torch.maximum(least, limits.eps**2 * biases.detach().abs().amax(-1))
    return least


def unit_rows(tensor: Tensor, slot: Slot) -> Tensor:
    """All entries ``(n_networks, size, n_entries)`` that belong to the units of a slot."""
    positions = torch.as_tensor(slot.positions, device=tensor.device)
    rows = tensor.movedim(slot.axis + 1, 1).index_select(1, positions.flatten())
    return rows.unflatten(1, positions.shape).flatten(2)
