r"""What a Gaussian misses in single neurons.

The weights of a neuron answer each other beyond second moments: where it matters more than in other
networks, or less, all of them are larger or smaller, and where its direction was divided by its
norm, bias and outgoing weights carry that. A small network per layer sees all that belongs to one
of its neurons, is told which one it is, and corrects the mean of the Gaussian posterior,

.. math::
    \hat\mu_t \leftarrow \hat\mu_t + \bar s_t^2 f_\phi(t, \hat\mu_t),

as the score of the law's ratio to the Gaussian would (Tweedie's formula). It vanishes where nothing
is uncertain. Coordinates on spheres are seen and not corrected: corrected, directions have more of
their variance, and networks compute worse functions.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.mlp import initialise
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.problem import VelocityProblem

_WIDTH = 64
_INITIAL_IDENTITY = 0.3
_INITIAL_CORRECTION = 0.05


class NeuronCorrection(nn.Module):
    """Correction of predictions, neuron by neuron.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron. Where the chart is pooled the neurons of
        a layer have no identity, and of their weights only those of inputs and outputs count, so
        that the correction is equivariant and suits any widths.

    Notes
    -----
    Called with features of time and condition ``(n, n_features)`` and predictions
    ``(n, n_coordinates)``; returns what to add per unit of variance.
    """

    def __init__(self, problem: VelocityProblem) -> None:
        super().__init__()
        self.places = _places(problem.chart)
        self.layers = nn.ModuleList(_Layer(place, problem) for place in self.places)

    def on(self, chart: WeightChart) -> NeuronCorrection:
        """The same correction on networks of other widths, whose chart is pooled as well."""
        other = copy.copy(self)
        other.places = _places(chart)
        return other

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Correct predictions ``x (n, n_coordinates)``, per unit of variance."""
        correction = torch.zeros_like(x)
        for place, layer in zip(self.places, self.layers, strict=True):
            seen, moved = (index.flatten().to(x.device) for index in place)
            own = layer(features, x.index_select(1, seen).unflatten(1, place.seen.shape))
            correction = correction.index_add(1, moved, own.flatten(1))
        return correction


class _Place(NamedTuple):
    """Coordinates of a layer, ``(n_neurons, n_seen)`` and ``(n_neurons, n_moved)``."""

    seen: Tensor
    moved: Tensor


class _Layer(nn.Module):
    """The network for the neurons of one layer."""

    def __init__(self, place: _Place, problem: VelocityProblem) -> None:
        super().__init__()
        n_neurons, n_seen = place.seen.shape
        self.read_in = nn.Linear(n_seen, _WIDTH)
        self.shift = nn.Linear(problem.n_features, _WIDTH)
        self.hidden = nn.Linear(_WIDTH, _WIDTH)
        self.read_out = nn.Linear(_WIDTH, place.moved.shape[1])
        initialise(self, problem.generator)
        identity = torch.zeros(1, _WIDTH)
        if not problem.chart.pooled:
            drawn = torch.randn(n_neurons, _WIDTH, generator=problem.generator)
            identity = _INITIAL_IDENTITY * drawn
        self.identity = nn.Parameter(identity)
        with torch.no_grad():
            self.read_out.weight.mul_(_INITIAL_CORRECTION)

    def forward(self, features: Tensor, own: Tensor) -> Tensor:
        hidden = torch.relu(self.read_in(own) + self.identity + self.shift(features)[:, None])
        return self.read_out(torch.relu(self.hidden(hidden)))


def _places(chart: WeightChart) -> list[_Place]:
    """Places of all layers whose neurons have coordinates to move; components are of no neuron."""
    if chart.reducer is not None:
        return []
    graph, on_sphere, places = NeuralGraph(chart), chart.manifold.sphere_mask, []
    for number, nodes in enumerate(graph.node_sets):
        own = [nodes.index]
        if not nodes.is_named:
            for block in graph.blocks:
                into = block.target, block.source, block.index
                out_of = block.source, block.target, block.index.transpose(0, 1)
                for here, there, index in (into, out_of):
                    if here == number and (not chart.pooled or graph.node_sets[there].is_named):
                        own.append(index.flatten(1))
        seen = torch.cat(own, dim=1)
        moved = seen[:, ~on_sphere[seen[0]]]  # the same columns for every neuron of a layer
        if moved.shape[1]:
            places.append(_Place(seen, moved))
    return places
