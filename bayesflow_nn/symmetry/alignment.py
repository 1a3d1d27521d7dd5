"""`PermutationAligner`: hidden neurons of all networks in the order of one reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.symmetry.barycentre import find_barycentre
from bayesflow_nn.symmetry.groups import PermutationGroup, permute_all
from bayesflow_nn.symmetry.logit_shift import resolve_logit_shift
from bayesflow_nn.symmetry.representation import (
    ActivationRepresentation,
    Representation,
    WeightRepresentation,
    find_groups,
)
from bayesflow_nn.symmetry.sinkhorn import match_sinkhorn
from bayesflow_nn.symmetry.weight_input import NetworkInput, read_networks
from bayesflow_nn.symmetry.weight_matching import match_weights
from bayesflow_nn.symmetry.weight_transformer import WeightTransformerMixin
from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

METHODS = ("weight_matching", "transfusion", "activation_matching", "sinkhorn")


class PermutationAligner(WeightTransformerMixin, BaseEstimator):
    """Reorder the neurons, channels and heads of every network towards a common reference.

    Reordering hidden neurons leaves the function as it is, so that every network stands for n!
    others; with tanh, an odd function, the sign of a neuron may change as well. Weight matching
    [A23] picks the order, and the signs, in which its weights have the largest inner product with
    the reference, those of perceptrons on canonical scale (see `ScaleCanonicalizer`); they are
    applied to the weights as given. The reference is the barycentre of the aligned networks: align
    to one network, take the mean, align to the mean, until the distances to
    it settle. The permutations of a module are found by `discover`.

    Parameters
    ----------
    architecture : Architecture, optional
        A `WeightPopulation` brings its own.
    method : {"weight_matching", "transfusion", "activation_matching", "sinkhorn"}
        What is compared: weights, or the activations on `inputs`, by their correlations.
        "transfusion" matches heads once by singular values, all else as weight matching, which has
        heads and their features matched together. "sinkhorn" goes on from weight matching by
        gradient descent on relaxed permutations of all groups together ([P23]); for losses instead
        of distances see `match_sinkhorn`.
    reference : {"barycentre", "medoid"} or array of shape (n_weights,)
        What to align to; an array is a network, the medoid the one nearest to the barycentre.
    groups : sequence of PermutationGroup, optional
        What may be permuted, instead of what `discover` finds.
    inputs : array or Tensor of shape (n_inputs, ...), optional
        Inputs of the networks: activation matching compares on all, discovery runs the module on
        two. By default those of the population or the architecture.
    n_restarts : int
        Further descents of weight matching from random orders, of which the best is kept.
    n_exact : int
        If all groups together have at most so many orders, all of them are tried.
    logit_shift : {"auto", True, False}
        Whether the mean over classes of the output layer is left out of the comparison. "auto":
        for perceptrons with ``task="classification"``.
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
    groups_ : tuple of PermutationGroup
    reference_ : dict of str to Tensor
        What networks are compared with: named weights on the scale of comparison, or activations.
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
        groups: Sequence[PermutationGroup] | None = None,
        inputs: ArrayLike | Tensor | None = None,
        n_restarts: int = 0,
        n_exact: int = 0,
        logit_shift: str | bool = "auto",
        max_iter: int = 30,
        tol: float = 1e-4,
        max_reference_networks: int = 1000,
        random_state: RandomState = None,
    ) -> None:
        self.architecture = architecture
        self.method = method
        self.reference = reference
        self.groups = groups
        self.inputs = inputs
        self.n_restarts = n_restarts
        self.n_exact = n_exact
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
            If `architecture` is no `Architecture`, or weights are complex or sparse.
        ValueError
            If a parameter is out of range, the architecture is unknown or cannot be traced, there
            are no inputs to run it on, or weights have a wrong shape or are not finite.
        """
        self._check_parameters()
        given = self._read(weights, reset=True)
        self.logit_shift_ = resolve_logit_shift(self.logit_shift, given)
        inputs = self._find_inputs(given)
        groups = self.groups
        self.groups_ = find_groups(given.architecture, inputs) if groups is None else tuple(groups)
        if self.method == "transfusion" and all(group.parent is None for group in self.groups_):
            raise ValueError(
                f"method='transfusion' needs an architecture with heads, got "
                f"{given.architecture!r}; use method='weight_matching'."
            )
        self._representation = self._make_representation(inputs)
        self.reference_, self.distances_ = self._find_reference(given.tensor.detach())
        self.n_iter_ = len(self.distances_)
        return self

    def transform(
        self, weights: ArrayLike | Tensor | WeightPopulation
    ) -> np.ndarray | Tensor | WeightPopulation:
        """Networks with their neurons in the order of the reference.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Same type as `weights`. The buffers of a population move with their channels; an array
            has none, and batch norm then needs new statistics.

        Raises
        ------
        ValueError
            If weights have a wrong shape or architecture, or are not finite.
        """
        check_is_fitted(self, "reference_")
        given = self._read(weights, reset=False)
        state = given.state({slot.parameter for group in self.groups_ for slot in group.slots})
        return given.like_state(permute_all(self.groups_, state, self._match(given.tensor)))

    def permutations(self, weights: ArrayLike | Tensor | WeightPopulation) -> list[Tensor]:
        """Orders of the neurons that `transform` applies.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        list of Tensor of shape (n_networks, size)
            One per group of `groups_`; element ``i`` of the result is element
            ``permutation[:, i]`` of the given network, or, where that is written ``~k``, element
            ``k`` with its sign changed, which odd groups allow.
        """
        check_is_fitted(self, "reference_")
        return self._match(self._read(weights, reset=False).tensor)

    def _check_parameters(self) -> None:
        check_option("method", self.method, METHODS)
        check_integer("max_iter", self.max_iter)
        check_integer("max_reference_networks", self.max_reference_networks)
        check_integer("n_restarts", self.n_restarts, low=0)
        check_integer("n_exact", self.n_exact, low=0)
        check_real("tol", self.tol, 0)
        if isinstance(self.reference, str):
            check_option("reference", self.reference, ("barycentre", "medoid"))

    def _find_inputs(self, given: NetworkInput) -> Tensor | None:
        if self.inputs is not None:
            return torch.as_tensor(self.inputs, device=given.tensor.device)
        source = given.source
        own = source.inputs if isinstance(source, WeightPopulation) else None
        return given.architecture.example_input if own is None else own

    def _make_representation(self, inputs: Tensor | None) -> Representation:
        if self.method != "activation_matching":
            return WeightRepresentation(self.architecture_, self.groups_, self.logit_shift_)
        if inputs is None:
            raise ValueError(
                "inputs must be given for method='activation_matching', got None, and neither the "
                "population nor the architecture has any; pass inputs=X."
            )
        return ActivationRepresentation(self.architecture_, self.groups_, inputs)

    def _given_reference(self) -> Tensor:
        reference = torch.as_tensor(self.reference)
        if reference.shape != (self.n_features_in_,):
            raise ValueError(
                f"reference must have shape ({self.n_features_in_},), got "
                f"{tuple(reference.shape)}; pass one network, for example weights[0]."
            )
        return read_networks(reference[None], self.architecture_).tensor

    def _find_reference(self, weights: Tensor) -> tuple[dict[str, Tensor], list[float]]:
        """Reference, and distances to the barycentre if it is one."""
        if not isinstance(self.reference, str):
            given = self._representation.of(self._given_reference())
            return {name: tensor[0] for name, tensor in given.items()}, []
        generator = np.random.default_rng(draw_seed(self.random_state))
        rows = generator.permutation(len(weights))[: self.max_reference_networks]
        networks = self._representation.of(weights[torch.from_numpy(rows).to(weights.device)])
        groups = self._representation.groups
        barycentre = find_barycentre(
            groups, networks, max_iter=self.max_iter, tol=self.tol, heads=self._heads
        )
        if self.reference == "medoid":
            nearest = {name: tensor[barycentre.nearest] for name, tensor in networks.items()}
            return nearest, barycentre.distances
        return barycentre.network, barycentre.distances

    @property
    def _heads(self) -> str:
        return "spectra" if self.method == "transfusion" else "assignment"

    def _match(self, weights: Tensor) -> list[Tensor]:
        networks, groups = self._representation.of(weights.detach()), self._representation.groups
        reference = {name: tensor.to(weights) for name, tensor in self.reference_.items()}
        generator = torch.Generator(weights.device).manual_seed(0)
        matched = match_weights(
            groups,
            networks,
            reference,
            heads=self._heads,
            n_restarts=self.n_restarts,
            n_exact=self.n_exact,
            generator=generator,
        )
        if self.method != "sinkhorn":
            return matched
        return match_sinkhorn(groups, networks, reference, start=matched)
