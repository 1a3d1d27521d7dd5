"""`PermutationAligner`: hidden neurons of all networks in the order of one reference."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.symmetry.barycentre import Barycentre, find_barycentre
from bayesflow_nn.symmetry.dense_layers import DenseWeights, check_mlp, join_layers, split_layers
from bayesflow_nn.symmetry.logit_shift import resolve_logit_shift
from bayesflow_nn.symmetry.weight_input import NetworkInput, read_networks
from bayesflow_nn.symmetry.weight_matching import match_weights, matching_layers, permute_neurons
from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_option, check_real


class PermutationAligner(TransformerMixin, BaseEstimator):
    """Reorder the hidden neurons of every network towards a common reference.

    Reordering hidden neurons leaves the function as it is, so that every network stands for
    n! others. Weight matching [A23] picks the order in which its weights have the largest inner
    product with the reference, on canonical scale (see `ScaleCanonicalizer`); the permutations
    are applied to the weights as given. The reference is the barycentre of the aligned networks:
    align to one network, take the mean, align to the mean, until the distances to it settle.

    Parameters
    ----------
    architecture : Architecture, optional
        A multilayer perceptron. A `WeightPopulation` brings its own.
    method : {"weight_matching"}
        How neurons are matched.
    reference : "barycentre" or array of shape (n_weights,)
        What to align to; an array is a network.
    logit_shift : {"auto", True, False}
        Whether the mean over classes of the output layer is left out of the comparison. "auto":
        for populations with ``task="classification"``.
    max_iter : int
        Bound on the number of times the barycentre is refined.
    tol : float
        Refinement ends when the mean squared distance falls by less than this fraction.
    max_reference_networks : int
        The barycentre is computed from at most so many networks, drawn at random; all are aligned
        to it. Twice as many lower the mean squared distance by about 0.1 %.
    random_state : int, generator or None
        Draws these networks and the one to start from.

    Attributes
    ----------
    reference_ : Tensor of shape (n_weights,)
        Reference on the scale on which networks are compared.
    architecture_ : Architecture
    logit_shift_ : bool
    n_iter_ : int
        Number of refinements of the barycentre; 0 when the reference was given.
    distances_ : list of float
        Mean squared distance to the barycentre after each refinement.
    n_features_in_ : int
        Number of weights.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import PermutationAligner
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([4, 8, 3])
    >>> weights = torch.randn(50, mlp.n_weights, dtype=torch.float64)
    >>> aligner = PermutationAligner(mlp, random_state=0).fit(weights)
    >>> aligned = aligner.transform(weights)
    >>> aligned.var(dim=0).sum() < weights.var(dim=0).sum()
    tensor(True)
    >>> X = torch.randn(5, 4, dtype=torch.float64)
    >>> torch.allclose(mlp.apply(aligned, X), mlp.apply(weights, X))
    True
    """

    def __init__(
        self,
        architecture: Architecture | None = None,
        method: str = "weight_matching",
        *,
        reference: str | ArrayLike | Tensor = "barycentre",
        logit_shift: str | bool = "auto",
        max_iter: int = 30,
        tol: float = 1e-4,
        max_reference_networks: int = 1000,
        random_state: RandomState = None,
    ) -> None:
        self.architecture = architecture
        self.method = method
        self.reference = reference
        self.logit_shift = logit_shift
        self.max_iter = max_iter
        self.tol = tol
        self.max_reference_networks = max_reference_networks
        self.random_state = random_state

    def fit(
        self, weights: ArrayLike | Tensor | WeightPopulation, y: None = None
    ) -> PermutationAligner:
        """Find the reference.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
        y : None
            Ignored.

        Returns
        -------
        PermutationAligner
            This object.

        Raises
        ------
        TypeError
            If `architecture` is no `Architecture`.
        ValueError
            If a parameter is out of range, the architecture is unknown or no multilayer
            perceptron, or weights have a wrong shape or are not finite.
        """
        given = read_networks(weights, self.architecture)
        self._check_parameters(given)
        self.architecture_ = given.architecture
        self.n_features_in_ = given.architecture.n_weights
        self.logit_shift_ = resolve_logit_shift(self.logit_shift, given)
        if isinstance(self.reference, str):
            reference, self.distances_ = self._fit_barycentre(given.tensor)
        else:
            reference, self.distances_ = self._comparable(self._given_reference()), []
        self.reference_ = join_layers(reference).flatten()
        self.n_iter_ = len(self.distances_)
        return self

    def transform(
        self, weights: ArrayLike | Tensor | WeightPopulation
    ) -> np.ndarray | Tensor | WeightPopulation:
        """Networks with their hidden neurons in the order of the reference.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Same type as `weights`.

        Raises
        ------
        ValueError
            If weights have a wrong shape or architecture, or are not finite.
        """
        given = self._read(weights)
        layers = split_layers(given.architecture, given.tensor)
        return given.like_source(join_layers(permute_neurons(layers, self._match(given.tensor))))

    def permutations(self, weights: ArrayLike | Tensor | WeightPopulation) -> list[Tensor]:
        """Orders of the hidden neurons that `transform` applies.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        list of Tensor of shape (n_networks, n_hidden)
            One per hidden layer; neuron ``i`` of the result is neuron ``permutation[:, i]`` of the
            given network.
        """
        return self._match(self._read(weights).tensor)

    def _read(self, weights: ArrayLike | Tensor | WeightPopulation) -> NetworkInput:
        check_is_fitted(self)
        return read_networks(weights, self.architecture_)

    def _check_parameters(self, given: NetworkInput) -> None:
        check_option("method", self.method, ("weight_matching",))
        check_mlp(given.architecture, "weight matching")
        check_integer("max_iter", self.max_iter)
        check_integer("max_reference_networks", self.max_reference_networks)
        check_real("tol", self.tol, 0)
        if isinstance(self.reference, str):
            check_option("reference", self.reference, ("barycentre",))

    def _given_reference(self) -> Tensor:
        reference = torch.as_tensor(self.reference)
        if reference.shape != (self.n_features_in_,):
            raise ValueError(
                f"reference must have shape ({self.n_features_in_},), got "
                f"{tuple(reference.shape)}; pass one network, for example weights[0]."
            )
        return read_networks(reference[None], self.architecture_).tensor

    def _fit_barycentre(self, weights: Tensor) -> Barycentre:
        generator = np.random.default_rng(draw_seed(self.random_state))
        rows = generator.permutation(len(weights))[: self.max_reference_networks]
        networks = self._comparable(weights[torch.from_numpy(rows).to(weights.device)])
        return find_barycentre(networks, max_iter=self.max_iter, tol=self.tol)

    def _comparable(self, weights: Tensor) -> list[DenseWeights]:
        return matching_layers(self.architecture_, weights.detach(), logit_shift=self.logit_shift_)

    def _match(self, weights: Tensor) -> list[Tensor]:
        reference = split_layers(self.architecture_, self.reference_.to(weights))
        return match_weights(self._comparable(weights), reference)
