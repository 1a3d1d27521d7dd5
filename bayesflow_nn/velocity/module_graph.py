"""Coordinates of a module as a graph: channels are nodes, filters are edges.

Every group of units that may be permuted (:func:`bayesflow_nn.symmetry.discover`) is a set of
nodes. A weight with an output axis and an input axis holds the edges between two sets: for every
pair of units all entries that belong to it, the flattened filter, or behind a flattening one weight
for each place of a channel. Biases and what normalises channels are features of nodes. What no
group moves, inputs and outputs, are named nodes. Where several layers are concatenated an axis has
units of several sets, and its parameter is several blocks.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import torch
from torch import Tensor

from bayesflow_nn.symmetry import PermutationGroup, WeightChart
from bayesflow_nn.symmetry.representation import find_groups
from bayesflow_nn.velocity.layered_graph import EdgeBlock, LayeredGraph, NodeSet
from bayesflow_nn.weights import Architecture


class ModuleGraph(LayeredGraph):
    """Graph of any module in layers, its hidden units first.

    Parameters
    ----------
    chart : WeightChart
        Of a module that is no multilayer perceptron, with inputs to run it on (its own, or the
        example of the architecture).

    Raises
    ------
    ValueError
        If the chart has no module or reduces it, or there is a parameter or a group of units that
        has no place in such a graph, as for attention.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bayesflow_nn.symmetry import WeightChart
    >>> from bayesflow_nn.weights import Architecture
    >>> cnn = nn.Sequential(
    ...     nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    ... )
    >>> architecture = Architecture(cnn, example_input=torch.randn(2, 1, 8, 8))
    >>> graph = ModuleGraph(WeightChart(architecture, logit_shift=False))
    >>> graph.layout  # channels, inputs, outputs
    Layout(sizes=(8, 1, 10), ends=((1, 0), (0, 2)))
    >>> [tuple(block.index.shape) for block in graph.blocks]
    [(8, 1, 9), (10, 8, 36)]
    >>> [tuple(nodes.index.shape) for nodes in graph.node_sets]  # bias, scale and shift; a bias
    [(8, 3), (1, 0), (10, 1)]
    """

    def __init__(self, chart: WeightChart) -> None:
        architecture = chart.architecture
        if architecture is None or chart.reducer is not None:
            raise ValueError(
                f"graph velocities need the architecture of networks, not reduced to components, "
                f"got {architecture!r} with reducer={chart.reducer!r}; use velocity='mlp'."
            )
        groups = find_groups(architecture, chart.inputs)
        assembly = _Assembly(architecture, groups)
        coordinates = architecture.unflatten(chart.weight_order.argsort()[None])
        for name, (places,) in coordinates.items():
            if places.ndim > 1:
                assembly.add_edges(name, places)
        for name, (places,) in coordinates.items():
            if places.ndim < 2:
                assembly.add_features(name, places)
        assembly.check_edges()
        super().__init__(assembly.blocks, assembly.node_sets())


class _Assembly:
    """Sets of nodes, their features, and edges between them, parameter by parameter."""

    def __init__(self, architecture: Architecture, groups: tuple[PermutationGroup, ...]) -> None:
        self.architecture = architecture
        self.blocks: list[EdgeBlock] = []
        self.n_groups = len(groups)
        self.sizes = [group.size for group in groups]
        # Where the units of sets lie on an axis, (size, n_places).
        self.segments: dict[tuple[str, int], list[tuple[int, Tensor]]] = defaultdict(list)
        self.features: dict[int, list[Tensor]] = defaultdict(list)
        for place, group in enumerate(groups):
            if group.parent is not None:
                raise self._misfit(group.name, "has units inside of other units (as heads have)")
            for slot in group.slots:
                positions = torch.as_tensor(slot.positions)
                self.segments[slot.parameter, slot.axis].append((place, positions))

    def add_edges(self, name: str, places: Tensor) -> None:
        """Edges of a parameter, given the coordinate of every entry."""
        if any((name, axis) in self.segments for axis in range(2, places.ndim)):
            raise self._misfit(name, "has units on other axes than those of outputs and inputs")
        ends = [self._cover(name, axis, places.shape[axis]) for axis in (0, 1)]
        places = places.flatten(2) if places.ndim > 2 else places.unsqueeze(2)
        for (target, rows), (source, columns) in itertools.product(*ends):
            index = places[rows][:, :, columns]  # (n_out, places, n_in, places, n_entries)
            self.blocks.append(EdgeBlock(source, target, index.transpose(1, 2).flatten(2)))

    def add_features(self, name: str, places: Tensor) -> None:
        """Features of nodes."""
        if places.ndim == 0:
            raise self._misfit(name, "is a single number")
        for place, positions in self.segments[name, 0]:
            self.features[place].append(places[positions])
        free = self._free(name, 0, len(places))
        if len(free):
            self.features[self._named_outputs(name, len(free))].append(places[free])

    def check_edges(self) -> None:
        """Raise unless all nodes have edges."""
        joined = {end for block in self.blocks for end in (block.source, block.target)}
        for (name, _), segments in self.segments.items():
            if any(place not in joined for place, _ in segments):
                raise self._misfit(name, "has units without weights to others")

    def node_sets(self) -> list[NodeSet]:
        """Sets with all their features."""
        return [
            NodeSet(
                torch.cat([torch.empty(size, 0, dtype=torch.int64), *self.features[place]], dim=1),
                is_named=place >= self.n_groups,
            )
            for place, size in enumerate(self.sizes)
        ]

    def _cover(self, name: str, axis: int, length: int) -> list[tuple[int, Tensor]]:
        """Sets that an axis of edges consists of; what no group moves becomes named nodes."""
        free = self._free(name, axis, length)
        if len(free):
            self.segments[name, axis].append((len(self.sizes), free))
            self.sizes.append(len(free))
        return self.segments[name, axis]

    def _free(self, name: str, axis: int, length: int) -> Tensor:
        """Positions ``(n, 1)`` on an axis that belong to no unit of a group."""
        is_free = torch.ones(length, dtype=torch.bool)
        for _, positions in self.segments[name, axis]:
            is_free[positions.flatten()] = False
        return is_free.nonzero()

    def _named_outputs(self, name: str, size: int) -> int:
        """Outputs to which numbers belong that no group moves: of the same layer, or the only."""
        outputs = {
            other: place
            for (other, axis), segments in self.segments.items()
            for place, _ in segments
            if axis == 0 and place >= self.n_groups and self.sizes[place] == size
        }
        own = [place for other, place in outputs.items() if _layer(other) == _layer(name)]
        found = own or list(outputs.values())
        if len(found) != 1:
            raise self._misfit(name, f"has entries that belong to no unit ({size} of them)")
        return found[0]

    def _misfit(self, name: str, fact: str) -> ValueError:
        return ValueError(
            f"graph velocities need layers whose units are joined by weights, but {name!r} of "
            f"{self.architecture!r} {fact}; use velocity='mlp'."
        )


def _layer(name: str) -> str:
    """Module that a parameter belongs to."""
    return name.rpartition(".")[0]
