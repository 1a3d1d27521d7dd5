r"""Principal neighbourhood aggregation on the graph of a network ([E25] 5.3-5.4, [C20]).

Nodes of degree d gather messages m_ij over their incident edges with four aggregators, each under
three scalers,

.. math::
    \bigoplus = \begin{bmatrix} 1 \\ S(d, 1) \\ S(d, -1) \end{bmatrix} \otimes
    \begin{bmatrix} \text{mean} \\ \text{std} \\ \text{max} \\ \text{min} \end{bmatrix}, \qquad
    S(d, \alpha) = \left(\frac{\log(d + 1)}{\delta}\right)^\alpha ,

with :math:`\delta` the mean of log(d + 1) over the nodes. Messages are linear in what the edge
brings to a feature of the two nodes (feature-wise linear modulation, Brockschmidt 2020),

.. math::
    m_{ij} = (1 + e_{ij} W^\gamma) \odot \sigma(n_i W^I + n_j W^J) + e_{ij} W^\beta .

They are as narrow as edges, so that the memory is linear in the number of weights, and small.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.edge_features import project
from bayesflow_nn.velocity.graph_velocity import Base, GraphVelocity
from bayesflow_nn.velocity.layered_graph import LayeredGraph, Layout
from bayesflow_nn.velocity.problem import VelocityProblem

_SMALLEST_VARIANCE = 1e-5  # [C20]: keeps the gradient of a standard deviation finite at zero


class PNAVelocity(GraphVelocity):
    """Prediction of the target by a graph network, on top of a Gaussian one.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron, or of a module with a
        :class:`~bayesflow_nn.velocity.module_graph.ModuleGraph`.
    node_width, edge_width : int
        Features of nodes and edges; edges are many and should be narrow.
    message_width : int
        Features of messages, two of which there are for every edge.
    n_blocks : int
        Rounds of aggregation and edge updates.
    base : {"auto", "affine", "exchangeable", "probe"} or callable
        What the graph network refines: the Gaussian approximation of aligned populations, one that
        no permutation of hidden neurons changes, or what the steps of :class:`ProbeVelocity` make
        of either, which see the function of a network. "auto" is "exchangeable" where the neurons
        of a population of multilayer perceptrons are in no order (a posterior with
        ``alignment=None``). A callable makes a `ProbeVelocity` of the problem, for other numbers
        than its own: ``functools.partial(ProbeVelocity, n_probes=256)``.
    node_embeddings : bool
        Whether hidden nodes have embeddings too; the model then commutes with no permutation.
    autocast : bool
        Whether the blocks multiply in bfloat16, for points in float32: for hardware that is faster
        at it. The Gaussian prediction and what is added to it keep the points' own precision; so
        does all for points in float64, as in log densities.
    compile : bool
        Whether :func:`torch.compile` translates the blocks, at the first call and for new sizes of
        batches, or of their parts. That takes long, and less once the machine remembers it; it
        needs a C++ compiler on CPUs. Training runs the translated blocks; copies of the model, such
        as the average that a fit keeps, run the plain ones. ``torch.func`` transforms the plain
        ones too, and after it the model may stay with them: give it a copy.

    Raises
    ------
    ValueError
        If the chart has no such network, a parameter is out of range, or `autocast` is asked for
        points in float64 or on a device without bfloat16.

    Notes
    -----
    Called with times ``t (n,)``, points ``x (n, n_coordinates)`` of about unit variance, and with
    the features of conditions if the problem has them; returns predictions of the target,
    ``(n, n_coordinates)``.
    """

    def __init__(
        self,
        problem: VelocityProblem,
        *,
        node_width: int = 64,
        edge_width: int = 8,
        message_width: int = 16,
        n_blocks: int = 3,
        base: Base = "auto",
        node_embeddings: bool = False,
        autocast: bool = False,
        compile: bool = False,
    ) -> None:

        def make_gather(graph: LayeredGraph) -> PrincipalAggregation:
            delta = mean_log_degree(graph.layout)
            return PrincipalAggregation(node_width, edge_width, message_width, delta)

        super().__init__(
            problem,
            make_gather,
            node_width=node_width,
            edge_width=edge_width,
            n_blocks=n_blocks,
            base=base,
            node_embeddings=node_embeddings,
            autocast=autocast,
            compile=compile,
        )


class PrincipalAggregation(nn.Module):
    """Four statistics of messages over the edges into a node and out of it, under three scalers.

    Parameters
    ----------
    node_width, edge_width, message_width : int
        As in :class:`PNAVelocity`. Edges in the two directions have messages of their own.
    delta : float
        Mean of log(degree + 1) over the nodes that the model is trained on.
    """

    def __init__(self, node_width: int, edge_width: int, message_width: int, delta: float) -> None:
        super().__init__()
        self.delta = delta
        # One for edges into a node, one for those out of it.
        self.own, self.other = (
            nn.ModuleList(nn.Linear(node_width, message_width) for _ in range(2)) for _ in range(2)
        )
        self.factor, self.shift = (
            nn.ModuleList(nn.Linear(edge_width, message_width, bias=False) for _ in range(2))
            for _ in range(2)
        )
        self.out = nn.Linear(12 * message_width, node_width)

    def forward(self, edges: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
        """Updates of nodes ``(n, n_nodes, node_width)``."""
        into, out_of = (self._messages(direction, edges, nodes, layout) for direction in range(2))
        of_blocks = zip(into, [block.mT for block in out_of], strict=True)
        aggregated = [self._aggregate(around) for around in layout.by_node_set(of_blocks)]
        return self.out(torch.cat(aggregated, dim=2).permute(1, 2, 0))

    def _messages(
        self, direction: int, edges: Tensor, nodes: Tensor, layout: Layout
    ) -> list[Tensor]:
        """m_ij of every block, ``(message_width, n, n_out, n_in)``.

        They go to its targets, into which the edges lead, or to its sources.
        """
        own, other = (
            layout.split_nodes(layer[direction](nodes).permute(2, 0, 1), axis=2)
            for layer in (self.own, self.other)
        )
        of_target, of_source = (own, other) if direction == 0 else (other, own)
        factor, shift = (
            layout.split_edges(project(layer[direction], edges))
            for layer in (self.factor, self.shift)
        )
        messages = []
        for place, (source, target) in enumerate(layout.ends):
            of_nodes = of_target[target].unsqueeze(3) + of_source[source].unsqueeze(2)
            messages.append((1 + factor[place]) * nn.functional.silu(of_nodes) + shift[place])
        return messages

    def _aggregate(self, around: list[Tensor]) -> Tensor:
        """All aggregators under all scalers, ``(12 message_width, n, n_nodes)``.

        Of messages ``(message_width, n, n_nodes, n_others)``, block by block.
        """
        # A block alone is not copied.
        messages = around[0] if len(around) == 1 else torch.cat(around, dim=3)
        mean = messages.mean(3)
        variance = (messages - mean.unsqueeze(3)).square().mean(3)
        statistics = torch.cat(
            [mean, (variance + _SMALLEST_VARIANCE).sqrt(), messages.amax(3), messages.amin(3)]
        )
        scaler = math.log(messages.shape[3] + 1) / self.delta
        return torch.cat([statistics, scaler * statistics, statistics / scaler])


def mean_log_degree(layout: Layout) -> float:
    """Mean of log(degree + 1) over the nodes of a graph.

    Parameters
    ----------
    layout : Layout

    Examples
    --------
    >>> layout = Layout(sizes=(2, 3), ends=((0, 1),))
    >>> mean_log_degree(layout)  # two nodes of degree 3, three of degree 2
    1.21...
    """
    degrees = [0] * len(layout.sizes)
    for source, target in layout.ends:
        degrees[source] += layout.sizes[target]
        degrees[target] += layout.sizes[source]
    logs = [n * math.log(degree + 1) for n, degree in zip(layout.sizes, degrees, strict=True)]
    return sum(logs) / sum(layout.sizes)
