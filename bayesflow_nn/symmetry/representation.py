"""What of a network is compared with that of others: its weights, or its activations on data.

Both are named tensors on which the groups of the module act, so that one matching serves both.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesflow_nn.symmetry.dense_layers import ODD_ACTIVATIONS, join_layers
from bayesflow_nn.symmetry.discovery import discover
from bayesflow_nn.symmetry.groups import PermutationGroup, Slot
from bayesflow_nn.symmetry.matching_scale import matching_layers
from bayesflow_nn.weights import Architecture

_MOST_NUMBERS = 1024  # activations of one unit that are compared
_CHUNK_BYTES = 64 * 2**20


class Representation(Protocol):
    """Named tensors of networks, and the groups that act on them."""

    groups: tuple[PermutationGroup, ...]

    def of(self, weights: Tensor) -> dict[str, Tensor]:
        """Tensors ``(n_networks, *shape)`` of weights ``(n_networks, n_weights)``."""


def find_groups(
    architecture: Architecture, inputs: Tensor | None = None
) -> tuple[PermutationGroup, ...]:
    """Permutation groups of an architecture.

    Parameters
    ----------
    architecture : Architecture
    inputs : Tensor of shape (n_inputs, ...), optional
        A batch, for modules other than multilayer perceptrons; by default the example of the
        architecture.

    Raises
    ------
    ValueError
        If the module has to be run and there is nothing to run it on.
    """
    if architecture.is_mlp:
        return _mlp_groups(architecture)
    inputs = architecture.example_input if inputs is None else inputs
    if inputs is None:
        raise ValueError(
            f"the permutations of {architecture!r} are found by running it; pass inputs=X[:2], or "
            f"build it as Architecture(module, example_input=X[:2])."
        )
    return discover(architecture.module, inputs[:2])


def _mlp_groups(architecture: Architecture) -> tuple[PermutationGroup, ...]:
    """Rows and bias of every hidden layer with the columns of the next."""
    odd = architecture.activation in ODD_ACTIVATIONS
    names, layers = iter(architecture.names), []
    for layer in architecture.layers:
        layers.append((next(names), *([next(names)] if layer.bias is not None else [])))
    groups = []
    for layer, own, (following, *_) in zip(
        architecture.layers[:-1], layers, layers[1:], strict=False
    ):
        positions = np.arange(layer.n_out)[:, None]
        slots = [Slot(name, 0, positions) for name in own] + [Slot(following, 1, positions)]
        groups.append(PermutationGroup(own[0], layer.n_out, tuple(slots), odd=odd))
    return tuple(groups)


class WeightRepresentation:
    """The weights, of multilayer perceptrons on the scale of `matching_layers`.

    Parameters
    ----------
    architecture : Architecture
    groups : sequence of PermutationGroup
    logit_shift : bool
        Whether the mean over classes of an output layer is left out.
    """

    def __init__(
        self, architecture: Architecture, groups: Sequence[PermutationGroup], logit_shift: bool
    ) -> None:
        self.architecture, self.logit_shift = architecture, logit_shift
        self.groups = tuple(groups)

    def of(self, weights: Tensor) -> dict[str, Tensor]:
        """Named parameters ``(n_networks, *shape)``."""
        if self.architecture.is_mlp:
            layers = matching_layers(self.architecture, weights, logit_shift=self.logit_shift)
            weights = join_layers(layers)
        return self.architecture.unflatten(weights)


class ActivationRepresentation:
    """Activations of dense and convolutional layers on inputs, standardised ([A23], [E25] 4.2).

    The similarity of two units is then the correlation of their activations before the
    nonlinearity, over inputs and places. At most a thousand of these are compared, evenly spaced.
    Batch norm takes the statistics of the inputs.

    Parameters
    ----------
    architecture : Architecture
    groups : sequence of PermutationGroup
    inputs : Tensor of shape (n_inputs, ...)

    Raises
    ------
    ValueError
        If a group lies on no output of such a layer.
    """

    def __init__(
        self, architecture: Architecture, groups: Sequence[PermutationGroup], inputs: Tensor
    ) -> None:
        self.architecture, self.inputs = architecture, inputs
        self.module = copy.deepcopy(architecture.module)
        modules = dict(self.module.named_modules())
        for module in modules.values():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.track_running_stats = False
        self.layers = {
            f"{name}.weight": module
            for name, module in modules.items()
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        }
        self.groups = tuple(self._on_activations(group) for group in groups)

    def of(self, weights: Tensor) -> dict[str, Tensor]:
        """Activations ``(n_networks, n_units, n_numbers)`` of every layer."""
        run = torch.vmap(self._activations)
        with torch.no_grad():
            chunks = [run(part) for part in weights.split(self._chunk_size(weights))]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _activations(self, row: Tensor) -> dict[str, Tensor]:
        state = {name: tensor[0] for name, tensor in self.architecture.unflatten(row[None]).items()}
        seen: dict[str, Tensor] = {}
        handles = [
            layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
            for name, layer in self.layers.items()
        ]
        try:
            inputs = self.inputs
            inputs = inputs.to(row) if inputs.is_floating_point() else inputs.to(row.device)
            functional_call(self.module, state, (inputs,))
        finally:
            for handle in handles:
                handle.remove()
        return {
            name: _standardise(_units_first(self.layers[name], out)) for name, out in seen.items()
        }

    def _on_activations(self, group: PermutationGroup) -> PermutationGroup:
        slots = tuple(s for s in group.slots if s.axis == 0 and s.parameter in self.layers)
        if not slots:
            raise ValueError(
                f"activation matching cannot see the group of {group.name!r}, which lies on no "
                f"output of a dense or convolutional layer; use method='weight_matching'."
            )
        return dataclasses.replace(group, slots=slots)

    def _chunk_size(self, weights: Tensor) -> int:
        n_numbers = self.architecture.activations_per_input(self.inputs) * len(self.inputs)
        return max(1, _CHUNK_BYTES // (n_numbers * weights.element_size()))


def _units_first(layer: nn.Module, output: Tensor) -> Tensor:
    axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else output.ndim - 1
    numbers = output.movedim(axis, 0).flatten(1)
    return numbers[:, :: math.ceil(numbers.shape[1] / _MOST_NUMBERS)]


def _standardise(numbers: Tensor) -> Tensor:
    """Rows of mean zero and norm one; of a constant row nothing is left."""
    centred = numbers - numbers.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / torch.where(norm > 0, norm, 1)
