"""`WeightTransformerMixin`: scikit-learn's contract, as all transformers of weights keep it.

Columns out are the columns in: a transformer changes what stands at a place of the network, never
the place. So columns keep their names, and `set_output` puts arrays into frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data
from torch import Tensor

from bayesflow_nn.symmetry.weight_input import NetworkInput, read_networks
from bayesflow_nn.weights import Architecture, WeightPopulation


class WeightTransformerMixin(OneToOneFeatureMixin, TransformerMixin, auto_wrap_output_keys=None):
    """Mixin of transformers from networks to networks: an array, tensor or population in and out.

    Only arrays and frames are rows of a table. Tensors and populations come out as what they are
    under every `set_output` and every ``sklearn.set_config(transform_output=...)``, since a frame
    holds neither gradients nor an architecture.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        own = vars(cls).get("transform")
        super().__init_subclass__(**options)  # puts every output into the frame of `set_output`
        if own is not None:
            cls.transform = _frame_arrays_only(own, cls.transform)

    def fit_transform(
        self, weights: ArrayLike | Tensor | WeightPopulation, y: None = None
    ) -> np.ndarray | Tensor | WeightPopulation:
        """Fit to networks and transform them.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
        y : None
            Ignored.

        Returns
        -------
        array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Same type as `weights`.
        """
        return self.fit(weights, y).transform(weights)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _read(self, weights: ArrayLike | Tensor | WeightPopulation, *, reset: bool) -> NetworkInput:
        """Check networks; `reset`, in `fit`, remembers columns, names and architecture."""
        is_array = not isinstance(weights, Tensor | WeightPopulation)
        if is_array:
            weights = validate_data(self, weights, reset=reset, ensure_all_finite=False)
        given = read_networks(weights, self._plain_architecture() if reset else self.architecture_)
        if reset:
            self.architecture_ = given.architecture
            if not is_array:
                validate_data(self, given.tensor, skip_check_array=True)
        return given

    def _plain_architecture(self) -> Architecture | None:
        """Architecture of rows that bring none; called when `n_features_in_` is known."""
        return self.architecture


def _frame_arrays_only(
    transform: Callable[..., Any], framed: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(transform)
    def chosen(self, weights):
        is_array = not isinstance(weights, Tensor | WeightPopulation)
        return (framed if is_array else transform)(self, weights)

    return chosen
