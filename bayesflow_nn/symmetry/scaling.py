"""`ScaleCanonicalizer`: one representative of all networks that differ by neuron scales."""

from __future__ import annotations

import copy
import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from torch import Tensor

from bayesflow_nn.symmetry.dense_layers import (
    HOMOGENEOUS_ACTIVATIONS,
    DenseWeights,
    check_mlp,
    hidden_activation,
    join_layers,
    split_layers,
)
from bayesflow_nn.symmetry.logit_shift import remove_logit_shift, resolve_logit_shift
from bayesflow_nn.symmetry.module_scaling import ModuleScaleCanonicalizer
from bayesflow_nn.symmetry.row_scale import normalise_rows
from bayesflow_nn.symmetry.weight_transformer import WeightTransformerMixin
from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.validation import name_rows


class ScaleCanonicalizer(WeightTransformerMixin, BaseEstimator):
    """Remove neuron scales, and the shift of the logits, without changing the function.

    Every hidden neuron gets incoming weights of norm 1; its scale moves to the next layer, and so
    on to the output layer ([Pi22], [E25] 4.4). Dead neurons (zero incoming weights) put out a
    constant, which moves exactly to the next bias. Of modules other than perceptrons the scales are
    found by `discover_scales`: of channels and heads, through residual streams, of filters in front
    of batch norm, and the signs of odd units; see :mod:`bayesflow_nn.symmetry.module_scaling`.

    Parameters
    ----------
    architecture : Architecture, optional
        A multilayer perceptron with activation "relu", "leaky_relu" or "identity", or any other
        module. A `WeightPopulation` brings its own.
    logit_shift : {"auto", True, False}
        Whether to subtract the mean over classes from the last weights and bias, which changes
        logits but no probability. "auto": for perceptrons with ``task="classification"``.
    inputs : array or Tensor of shape (n_inputs, ...), optional
        Inputs on two of which discovery runs a module that is no perceptron. By default those of
        the population or the architecture.

    Attributes
    ----------
    architecture_ : Architecture
        Architecture that `fit` saw.
    logit_shift_ : bool
    n_features_in_ : int
        Number of weights.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import ScaleCanonicalizer
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([4, 8, 3])
    >>> weights = torch.randn(10, mlp.n_weights, dtype=torch.float64)
    >>> canonical = ScaleCanonicalizer(mlp).fit_transform(weights)
    >>> round(canonical[0, :4].norm().item(), 12)
    1.0
    >>> X = torch.randn(5, 4, dtype=torch.float64)
    >>> torch.allclose(mlp.apply(canonical, X), mlp.apply(weights, X))
    True
    """

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        logit_shift: str | bool = "auto",
        inputs: ArrayLike | Tensor | None = None,
    ) -> None:
        self.architecture = architecture
        self.logit_shift = logit_shift
        self.inputs = inputs

    def fit(
        self, weights: ArrayLike | Tensor | WeightPopulation, y: None = None
    ) -> ScaleCanonicalizer:
        """Find the architecture and its scales; nothing is learned from the weights.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
        y : None
            Ignored.

        Returns
        -------
        ScaleCanonicalizer
            This object.

        Raises
        ------
        TypeError
            If `architecture` is no `Architecture`, or weights are complex or sparse.
        ValueError
            If the architecture is unknown or has no neuron scales, or weights have a wrong shape
            or are not finite.
        """
        given = self._read(weights, reset=True)
        self._module = None
        if given.architecture.is_mlp:
            check_scalable(given.architecture)
        else:
            module = ModuleScaleCanonicalizer(given.architecture, inputs=self.inputs)
            # Arrays stay arrays inside; what comes out of here is put into the frame.
            self._module = module.set_output(transform="default").fit(given.source)
        self.logit_shift_ = resolve_logit_shift(self.logit_shift, given)
        return self

    def transform(
        self, weights: ArrayLike | Tensor | WeightPopulation
    ) -> np.ndarray | Tensor | WeightPopulation:
        """Canonical weights of the same networks, without a fit those of `fit_transform`.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Same type as `weights`.

        Raises
        ------
        TypeError, ValueError
            As in `fit`; and if weights have another architecture than those of `fit`.

        Warns
        -----
        UserWarning
            If there are dead neurons; names their number and the first networks.
        """
        if not hasattr(self, "logit_shift_"):
            return copy.copy(self).fit_transform(weights)
        given = self._read(weights, reset=False)
        if self._module is not None:
            return self._module.transform(given.source)
        layers = canonical_layers(given.architecture, given.tensor)
        if self.logit_shift_:
            layers[-1] = remove_logit_shift(layers[-1])
        return given.like_source(join_layers(layers))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def check_scalable(architecture: Architecture) -> None:
    """Raise unless the hidden neurons of a multilayer perceptron have a scale symmetry."""
    check_mlp(architecture, "scale canonicalization")
    has_hidden_layer = len(architecture.layers) > 1
    if has_hidden_layer and architecture.activation not in HOMOGENEOUS_ACTIVATIONS:
        raise ValueError(
            f"architecture must have one of the activations {list(HOMOGENEOUS_ACTIVATIONS)}, "
            f"whose neurons can be rescaled, got {architecture.activation!r}; "
            f"use geometry='euclidean', which needs no rescaling."
        )


def canonical_layers(architecture: Architecture, weights: Tensor) -> list[DenseWeights]:
    """Layers with incoming rows of norm 1, the same function; warns of dead neurons.

    Parameters
    ----------
    architecture : Architecture
        One that `check_scalable` accepts.
    weights : Tensor of shape (n_networks, n_weights)

    Returns
    -------
    list of DenseWeights
        Input side first.
    """
    layers, n_dead = normalise_rows(
        split_layers(architecture, weights), hidden_activation(architecture)
    )
    if n_dead.any():
        warnings.warn(_describe_dead(n_dead), stacklevel=3)
    return layers


def _describe_dead(n_dead: Tensor) -> str:
    networks = n_dead > 0
    return (
        f"{int(n_dead.sum())} hidden neurons in {int(networks.sum())} of {len(n_dead)} networks "
        f"are dead (zero incoming weights): networks {name_rows(networks)}. Their constant output "
        f"was moved to the next bias and their outgoing weights set to zero; the function is the "
        f"same."
    )
