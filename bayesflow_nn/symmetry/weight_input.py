"""What the transformers accept: an array, a tensor or a population in, the same type out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.validation import name_rows


@dataclass(frozen=True)
class WeightInput:
    """Weights as a tensor, with the memory of what they came in.

    Parameters
    ----------
    tensor : Tensor of shape (n_networks, n_weights)
        Floating and finite.
    source : array, Tensor or WeightPopulation
        As given by the user.
    """

    tensor: Tensor
    source: ArrayLike | Tensor | WeightPopulation

    def like_source(self, weights: Tensor) -> np.ndarray | Tensor | WeightPopulation:
        """Put new weights of the same networks into the type of the source."""
        if isinstance(self.source, WeightPopulation):
            return self.source.replace(weights=weights)
        return weights if isinstance(self.source, Tensor) else weights.detach().cpu().numpy()


@dataclass(frozen=True)
class NetworkInput(WeightInput):
    """Weights whose architecture is known.

    Parameters
    ----------
    tensor, source
        As in `WeightInput`.
    architecture : Architecture
        The given one, or that of the population.
    """

    architecture: Architecture

    def state(self, names: Collection[str]) -> dict[str, Tensor]:
        """Named parameters of all networks, and of their buffers those with these names.

        Parameters
        ----------
        names : collection of str
            What a symmetry acts on. Buffers that a population does not bring are copies of the
            module's own; arrays have none.

        Returns
        -------
        dict of str to Tensor of shape (n_networks, *shape)
        """
        state = self.architecture.unflatten(self.tensor)
        if not isinstance(self.source, WeightPopulation):
            return state
        known = self.source.buffers or {}
        for name, own in self.architecture.module.named_buffers():
            if name in names:
                expanded = own.to(self.tensor).expand(len(self.tensor), *own.shape)
                state[name] = known.get(name, expanded)
        return state

    def like_state(self, state: Mapping[str, Tensor]) -> np.ndarray | Tensor | WeightPopulation:
        """Put a changed `state` of the same networks into the type of the source."""
        weights = self.architecture.flatten({name: state[name] for name in self.architecture.names})
        buffers = {name: state[name] for name in state.keys() - set(self.architecture.names)}
        if not buffers:
            return self.like_source(weights)
        return self.source.replace(weights, buffers=(self.source.buffers or {}) | buffers)

    @property
    def is_classification(self) -> bool:
        """Whether the source is a population of classifiers."""
        return isinstance(self.source, WeightPopulation) and self.source.task == "classification"


def read_weights(
    weights: ArrayLike | Tensor | WeightPopulation, architecture: Architecture | None
) -> WeightInput:
    """Read network weights and check them.

    Parameters
    ----------
    weights : array-like, Tensor or WeightPopulation of shape (n_networks, n_weights)
    architecture : Architecture, optional
        A population brings its own.

    Returns
    -------
    WeightInput

    Raises
    ------
    TypeError
        If `architecture` is no `Architecture`, or weights are complex or sparse.
    ValueError
        If the population has another architecture, the shape is wrong, or weights are not finite.
    """
    check_architecture(architecture)
    if isinstance(weights, WeightPopulation):
        architecture = _common_architecture(weights, architecture)
    tensor = _to_tensor(weights)
    _check_shape(tensor, architecture)
    finite = tensor.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(
            f"weights of networks {name_rows(~finite)} are not finite (NaN or inf); "
            f"drop these rows."
        )
    return WeightInput(tensor, weights)


def read_networks(
    weights: ArrayLike | Tensor | WeightPopulation, architecture: Architecture | None
) -> NetworkInput:
    """Read weights whose architecture must be known; see `read_weights`."""
    given = read_weights(weights, architecture)
    if isinstance(weights, WeightPopulation):
        architecture = weights.architecture
    if architecture is None:
        raise ValueError(
            "architecture must be given when weights are a plain array or tensor, got None; "
            "pass architecture=Architecture.mlp(...) or a WeightPopulation."
        )
    return NetworkInput(given.tensor, given.source, architecture)


def check_architecture(architecture: Architecture | None) -> None:
    """Raise unless this is an `Architecture` or None."""
    if architecture is not None and not isinstance(architecture, Architecture):
        raise TypeError(
            f"architecture must be an Architecture, got {type(architecture).__name__}; "
            f"wrap a module as Architecture(module)."
        )


def _common_architecture(
    population: WeightPopulation, architecture: Architecture | None
) -> Architecture:
    if architecture is not None and population.architecture != architecture:
        raise ValueError(
            f"weights must be networks of {architecture!r}, got a population of "
            f"{population.architecture!r}; fit anew for another architecture."
        )
    return population.architecture


def _to_tensor(weights: ArrayLike | Tensor | WeightPopulation) -> Tensor:
    if isinstance(weights, WeightPopulation):
        return weights.weights
    # A copy: torch has no read-only tensors, and NumPy arrays may be read-only.
    tensor = weights if isinstance(weights, Tensor) else torch.from_numpy(np.array(weights))
    if tensor.is_complex():
        raise TypeError(f"weights must be real, got {tensor.dtype}; pass weights.real.")
    if tensor.layout != torch.strided:
        raise TypeError(f"weights must be dense, got {tensor.layout}; pass weights.to_dense().")
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _check_shape(tensor: Tensor, architecture: Architecture | None) -> None:
    n_weights = "n_weights" if architecture is None else architecture.n_weights
    wrong_length = architecture is not None and tensor.shape[-1:] != (n_weights,)
    if tensor.ndim != 2 or wrong_length or tensor.numel() == 0:
        raise ValueError(
            f"weights must have shape (n_networks, {n_weights}) with at least one network, "
            f"got {tuple(tensor.shape)}."
        )
