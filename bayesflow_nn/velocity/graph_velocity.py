r"""Velocity by a network on the graph of a network ([E25] 6.3, [K24]).

Every weight, or filter, is read into the features of an edge, every bias into those of a node;
blocks update nodes from their incident edges, and edges from their ends ([E25] 5.1-5.2),

.. math::
    n_i \leftarrow \phi_N\Bigl(n_i, \bigoplus_{j \in N_i} \phi_M(e_{ij}, n_i, n_j)\Bigr), \qquad
    e_{ij} \leftarrow \phi_E(e_{ij}, n_i, n_j) ;

then edges and nodes are read out as a refinement of a Gaussian prediction. Kinds of velocities
differ in the update of nodes. Time and condition enter every node and edge; input and output nodes
have embeddings of their own, layers have embeddings of their role, hidden nodes have none, so that
the model commutes with their permutations; for aligned populations they may have them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.autocast import bfloat16_products, check_autocast
from bayesflow_nn.velocity.edge_features import project
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.gaussian import Denoised
from bayesflow_nn.velocity.graph_block import GraphBlock
from bayesflow_nn.velocity.layered_graph import LayeredGraph
from bayesflow_nn.velocity.mlp import initialise
from bayesflow_nn.velocity.module_graph import ModuleGraph
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.probing import ProbeVelocity
from bayesflow_nn.velocity.problem import VelocityProblem
from bayesflow_nn.weights.validation import check_option

BASES = ("auto", "affine", "exchangeable", "probe")
Base = str | Callable[[VelocityProblem], ProbeVelocity]
_N_CHANNELS = 2  # of every coordinate: the point, and the prediction to start from
# Networks with more edges are refined in parts. In float32, and of default width, the largest array
# of a part takes 16 MiB. Beyond 32 MiB the allocator of Linux gives memory back to the system each
# time, and clearing new pages can take as long as computing on them.
_MOST_EDGES = 2**18


class GraphVelocity(nn.Module):
    """What graph velocities have in common; a kind of them says how nodes gather.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron, or of a module with a
        :class:`~bayesflow_nn.velocity.module_graph.ModuleGraph`.
    make_gather : callable
        Makes the `gather` of a :class:`GraphBlock` for a :class:`LayeredGraph`.
    node_width, edge_width : int
        Features of nodes and edges; edges are many and should be narrow.
    n_blocks : int
        Rounds of updates.
    base : {"auto", "affine", "exchangeable", "probe"} or callable
        What the graph network refines: the Gaussian approximation of aligned populations, one that
        no permutation of hidden neurons changes, or what :class:`ProbeVelocity` makes of either.
        "auto" is "exchangeable" if the chart is pooled, as it is for multilayer perceptrons without
        an alignment, else "affine". A callable makes a `ProbeVelocity` of the problem, for other
        numbers than its own: ``functools.partial(ProbeVelocity, n_probes=256)``.
    node_embeddings : bool
        Whether hidden nodes have embeddings too; the model then commutes with no permutation.
    autocast : bool
        Whether the blocks multiply in bfloat16, for points in float32. The Gaussian prediction and
        what is added to it keep the points' own precision; so does all for points in float64.
    compile : bool
        Whether the blocks are compiled, at the first call; those of copies and pickles are not.

    Raises
    ------
    ValueError
        If the chart has no such network, `base` is unknown, not known for it or makes something
        else, or `autocast` is asked for points in float64 or on a device without bfloat16.
    """

    def __init__(
        self,
        problem: VelocityProblem,
        make_gather: Callable[[LayeredGraph], nn.Module],
        *,
        node_width: int,
        edge_width: int,
        n_blocks: int,
        base: Base,
        node_embeddings: bool,
        autocast: bool,
        compile: bool,
    ) -> None:
        super().__init__()
        if autocast:
            check_autocast(problem.points)
        self.autocast = autocast
        self.graph = make_graph(problem.chart)
        self.base = _make_base(problem, base)
        self.node_embeddings = node_embeddings
        self.n_condition_features = problem.n_condition_features
        on_edges = {block.index.shape[2] for block in self.graph.blocks}
        on_nodes = {nodes.index.shape[1] for nodes in self.graph.node_sets}
        self.read_edge = _for_counts(on_edges, lambda k: nn.Linear(k * _N_CHANNELS, edge_width))
        self.read_node = _for_counts(on_nodes, lambda k: nn.Linear(k * _N_CHANNELS, node_width))
        self.time_edge = nn.Linear(problem.n_features, edge_width)
        self.time_node = nn.Linear(problem.n_features, node_width)
        self.edge_role = nn.Parameter(torch.zeros(len(self.graph.blocks), edge_width))
        self.node_names = nn.ParameterList(
            torch.zeros(len(nodes.index) if node_embeddings or nodes.is_named else 1, node_width)
            for nodes in self.graph.node_sets
        )
        self.blocks = nn.ModuleList(
            GraphBlock(make_gather(self.graph), node_width, edge_width) for _ in range(n_blocks)
        )
        self.write_edge = _for_counts(on_edges, lambda k: nn.Linear(edge_width, k))
        self.write_node = _for_counts(on_nodes, lambda k: nn.Linear(node_width, k))
        initialise(self, problem.generator)
        for parameter in (self.edge_role, *self.node_names):
            nn.init.normal_(parameter, generator=problem.generator)
        for layer in (*self.write_edge.values(), *self.write_node.values()):
            nn.init.zeros_(layer.weight)
        if compile:
            # One by one: as they are alike, the first is translated and serves for all.
            for block in self.blocks:
                block.compile()

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target, ``(n, n_coordinates)``."""
        base = self._predict_base(t, x, condition)
        channels = torch.stack([x, base.mean], dim=-1)
        features = all_features(t, condition, self.n_condition_features)
        n_rows = max(1, _MOST_EDGES // self.graph.layout.n_edges)
        parts = zip(channels.split(n_rows), features.split(n_rows), strict=True)
        refinement = torch.cat([self._refine(*part) for part in parts])
        return base.mean + base.variance.sqrt() * refinement

    def _predict_base(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Denoised:
        is_probe = isinstance(self.base, ProbeVelocity)
        return (self.base.denoise if is_probe else self.base)(t, x, condition)

    def _refine(self, channels: Tensor, features: Tensor) -> Tensor:
        """Refinement ``(n, n_coordinates)``, in standard deviations of the base's posterior.

        Coordinates have channels ``(n, n_coordinates, n_channels)``, networks have features
        ``(n, n_features)`` of time and condition.
        """
        edges, nodes = self._read(channels, features)
        layout = self.graph.layout
        with bfloat16_products(channels) if self.autocast else nullcontext():
            for block in self.blocks:
                edges, nodes = block(edges, nodes, layout)
        return self._write(edges, nodes)

    def _read(self, channels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Edges ``(edge_width, n, n_edges)`` and nodes ``(n, n_nodes, node_width)``."""
        split = self.graph.split(channels)
        edges = [
            project(self.read_edge[str(block.index.shape[2])], own.movedim(3, 0).flatten(2))
            + role[:, None, None]
            for block, own, role in zip(self.graph.blocks, split.edges, self.edge_role, strict=True)
        ]
        nodes = []
        for node_set, own, name in zip(
            self.graph.node_sets, split.nodes, self.node_names, strict=True
        ):
            n_nodes, n_features = node_set.index.shape
            known = name.expand(len(channels), n_nodes, -1)
            nodes.append(self.read_node[str(n_features)](own) + known if n_features else known)
        of_edges = torch.cat(edges, dim=2) + self.time_edge(features).mT[:, :, None]
        of_nodes = torch.cat(nodes, dim=1) + self.time_node(features)[:, None]
        return of_edges, of_nodes

    def _write(self, edges: Tensor, nodes: Tensor) -> Tensor:
        """Coordinates ``(n, n_coordinates)`` of edges and nodes."""
        layout = self.graph.layout
        of_edges = [
            project(self.write_edge[str(block.index.shape[2])], own).movedim(0, 3)
            for block, own in zip(self.graph.blocks, layout.split_edges(edges), strict=True)
        ]
        of_nodes = []
        for node_set, own in zip(
            self.graph.node_sets, layout.split_nodes(nodes, axis=1), strict=True
        ):
            n_features = node_set.index.shape[1]
            of_nodes.append(self.write_node[str(n_features)](own) if n_features else own[..., :0])
        return self.graph.join(of_edges, of_nodes)

    def on(self, chart: WeightChart) -> GraphVelocity:
        """Run the same model on the graph of networks with other widths.

        Parameters
        ----------
        chart : WeightChart
            Of networks that differ from those of the problem in the widths of hidden layers alone.

        Returns
        -------
        GraphVelocity
            With the parameters of this one, not copies.

        Raises
        ------
        ValueError
            If the model tells hidden neurons apart.
        """
        on_probe = isinstance(self.base, ProbeVelocity)
        gaussian = self.base.denoiser if on_probe else self.base
        # Laws that are the same at all widths, and maps made of them, have `on`; others do not.
        if not hasattr(gaussian, "on") or self.node_embeddings:
            raise ValueError(
                "velocity must not tell hidden neurons apart, to serve other widths, got an affine "
                "base or node_embeddings=True; leave these options out and fit with alignment=None."
            )
        other = copy.copy(self)
        other._modules = dict(self._modules)  # `copy` shares it
        other.graph = NeuralGraph(chart)
        other.base = self.base.on(chart if on_probe else other.graph)
        return other


def make_graph(chart: WeightChart) -> LayeredGraph:
    """Graph of the networks of a chart.

    Parameters
    ----------
    chart : WeightChart

    Raises
    ------
    ValueError
        If they have none.
    """
    is_mlp = chart.architecture is not None and chart.architecture.is_mlp
    return NeuralGraph(chart) if is_mlp else ModuleGraph(chart)


def _make_base(problem: VelocityProblem, base: Base) -> nn.Module:
    """Prediction that is refined; see :class:`GraphVelocity`."""
    if callable(base) or base == "probe":
        made = ProbeVelocity(problem) if base == "probe" else base(problem)
        if not isinstance(made, ProbeVelocity):
            raise ValueError(
                f"base must make a ProbeVelocity if it is callable, got {type(made).__name__}."
            )
        return made
    check_option("base", base, BASES)
    architecture = problem.chart.architecture
    if base == "exchangeable" and not architecture.is_mlp:
        raise ValueError(
            f"base must be 'affine' for {architecture!r}, got 'exchangeable': the Gaussian that no "
            f"permutation changes is known for multilayer perceptrons alone."
        )
    makers = {
        "auto": problem.make_gaussian,
        "affine": problem.make_denoiser,
        "exchangeable": problem.make_exchangeable_denoiser,
    }
    return makers[base]()


def _for_counts(counts: Iterable[int], make: Callable[[int], nn.Module]) -> nn.ModuleDict:
    """Layers for edges or nodes with so many features, shared by all that have as many."""
    return nn.ModuleDict({str(k): make(k) for k in sorted(counts) if k})
