r"""The best affine prediction that no permutation of hidden neurons changes, in closed form.

Among Gaussian laws of the coordinates of a multilayer perceptron those that no permutation of
hidden neurons changes have, by Schur's lemma, one covariance on the symmetric part of the space
(:mod:`bayesflow_nn.velocity.orbit_means`), one for the deviations of the neurons of every layer,
the same for all neurons of it, and one variance for the interactions of two layers. Statistics of
neurons are averages over networks and neurons. The law is that of the population with the neurons
of every network in random order, and has the same parameters for layers of any width.
"""

from __future__ import annotations

import copy
import itertools
import math

from torch import Tensor, nn

from bayesflow_nn.velocity.affine import AffineDenoiser
from bayesflow_nn.velocity.conditional import ConditionalDenoiser
from bayesflow_nn.velocity.gaussian import GaussianDenoiser, Schedule, Spectrum
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.orbit_means import Parts, compose, decompose


class ExchangeableDenoiser(GaussianDenoiser):
    """Gaussian law of networks whose neurons are in no order.

    Parameters
    ----------
    graph : NeuralGraph
    x : Tensor of shape (n, n_coordinates)
        Training points in coordinates of about unit variance.
    held_out : Tensor of shape (m, n_coordinates) or None
        Points of other chains for the variances; see :class:`AffineDenoiser`.
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``: the weights of target and source in ``x_t``.
    condition, held_out_condition : Tensor of shape (n, n_features) and (m, n_features), optional
        Features of the conditions of the points, on which the symmetric part of the mean depends:
        all of it that neurons in no order can have.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import WeightChart
    >>> from bayesflow_nn.weights import Architecture
    >>> graph = NeuralGraph(WeightChart(Architecture.mlp([4, 5, 3]), "euclidean"))
    >>> x = torch.randn(60, graph.n_coordinates)
    >>> denoiser = ExchangeableDenoiser(graph, x, None, lambda t: (t[:, None], 1 - t[:, None]))
    >>> denoiser(torch.ones(60), x).mean.allclose(x, atol=1e-4)
    True
    """

    def __init__(
        self,
        graph: NeuralGraph,
        x: Tensor,
        held_out: Tensor | None,
        schedule: Schedule,
        condition: Tensor | None = None,
        held_out_condition: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.graph, self.schedule = graph, schedule
        rows, others = _parts_of_rows(graph, x), None
        if held_out is not None:
            others = _parts_of_rows(graph, held_out)
        laws = [
            AffineDenoiser(own, others and others[place], schedule)
            for place, own in enumerate(rows)
        ]
        if condition is not None:
            laws[0] = ConditionalDenoiser(
                rows[0], others and others[0], condition, held_out_condition, schedule
            )
        self.laws = nn.ModuleList(laws)

    def centre(self, condition: Tensor | None = None) -> Tensor:
        """Mean of networks, ``(n, n_coordinates)``, or ``(1, n_coordinates)`` if all have one."""
        symmetric = self.laws[0].centre(condition)
        # Deviations from the mean of neurons, and interactions, are zero on average.
        sizes = self.graph.layout.sizes[1:-1]
        deviations = [
            symmetric.new_zeros(1, n, law.mean.shape[0])
            for n, law in zip(sizes, self.laws[1:], strict=False)
        ]
        interactions = [
            symmetric.new_zeros(1, n_out, n_in) for n_in, n_out in itertools.pairwise(sizes)
        ]
        return compose(self.graph, Parts(symmetric, deviations, interactions))

    def multiply(
        self, spectrum: Spectrum, t: Tensor, v: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Multiply by the function of the covariance that has these eigenvalues."""
        parts = decompose(self.graph, v)
        symmetric, *laws = self.laws
        others = iter(laws)

        def multiply(block: Tensor, n_features: int) -> Tensor:
            rows = block.reshape(-1, n_features)
            times = t.repeat_interleave(len(rows) // len(block))
            return next(others).multiply(spectrum, times, rows).reshape(block.shape)

        return compose(
            self.graph,
            Parts(
                symmetric.multiply(spectrum, t, parts.symmetric, condition),
                [multiply(block, block.shape[2]) for block in parts.deviations],
                [multiply(block, 1) for block in parts.interactions],
            ),
        )

    def average(self, spectrum: Spectrum, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Trace of the function of the covariance over the number of coordinates, ``(n, 1)``."""
        conditions = [condition, *[None] * (len(self.laws) - 1)]
        total = sum(
            law.average(spectrum, t, given) * law.n_coordinates * n
            for law, given, n in zip(self.laws, conditions, _n_independent(self.graph), strict=True)
        )
        return total / self.graph.n_coordinates

    def on(self, graph: NeuralGraph) -> ExchangeableDenoiser:
        """The same law, with the parameters of this one, over networks of other widths."""
        other = copy.copy(self)
        other.graph = graph
        return other


def _parts_of_rows(graph: NeuralGraph, x: Tensor) -> list[Tensor]:
    """Rows that laws are fitted to: points, then neurons of the layers, then weights between.

    Deviations from the mean of n neurons have (n - 1) / n of the variance.
    """
    parts = decompose(graph, x)
    rows = [parts.symmetric]
    for block in parts.deviations:
        rows.append(block.flatten(0, 1) * _unbiased(block.shape[1]))
    for block in parts.interactions:
        factor = _unbiased(block.shape[1]) * _unbiased(block.shape[2])
        rows.append(block.reshape(-1, 1) * factor)
    return rows


def _unbiased(n: int) -> float:
    return math.sqrt(n / max(n - 1, 1))


def _n_independent(graph: NeuralGraph) -> list[int]:
    """How many independent rows a point has in every part, in the order of the laws."""
    hidden = [n - 1 for n in graph.layout.sizes[1:-1]]
    between = [n_in * n_out for n_in, n_out in itertools.pairwise(hidden)]
    return [1, *hidden, *between]
