r"""From the chart of an architecture to that of one with other widths ([E25] 7.3.4).

Statistics of a pooled chart belong to orbits: all coordinates that permutations of hidden neurons
exchange. The orbits are the same ones for hidden layers of any widths. A weight into a hidden
neuron belongs to its layer and its input, one out of it to its layer and its output, one between
hidden layers and a hidden bias to the layer alone.

The sum over the m weights that leave a hidden layer for one neuron shall keep its moments when the
layer gets m' neurons: as for independent weights,

.. math::
    \text{mean}' = \frac{m}{m'} \, \text{mean}, \qquad
    \text{scale}' = \sqrt{m / m'} \, \text{scale} .

Directions of unit length do that by themselves.
"""

from __future__ import annotations

from torch import Tensor

from bayesflow_nn.symmetry.chart import WeightChart
from bayesflow_nn.symmetry.dense_layers import hidden_activation
from bayesflow_nn.weights import Architecture


def transfer_chart(chart: WeightChart, architecture: Architecture) -> WeightChart:
    """Chart of networks with other widths.

    Parameters
    ----------
    chart : WeightChart
        Fitted and pooled.
    architecture : Architecture
        That of `chart`, up to the widths of hidden layers.

    Returns
    -------
    WeightChart

    Raises
    ------
    ValueError
        If the chart is not pooled, or the architectures differ in more than widths.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import WeightChart
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([4, 8, 3])
    >>> chart = WeightChart(mlp, pooled=True).fit(torch.randn(20, mlp.n_weights))
    >>> transfer_chart(chart, Architecture.mlp([4, 32, 3])).manifold.blocks[0]
    SphereBlock(n_spheres=32, dim=4)
    """
    if not chart.pooled:
        raise ValueError(
            "chart must be pooled, got one whose statistics belong to single neurons; make it with "
            "WeightChart(pooled=True)."
        )
    check_same_roles(chart.architecture, architecture)
    state = chart.state
    other = WeightChart(
        architecture, chart.geometry, chart.output_layer, chart.logit_shift, pooled=True
    )
    ratio = carry(chart.fan_in.double(), chart, other) / other.fan_in
    mean = ratio * carry(state["mean"], chart, other)
    scale = ratio.sqrt() * carry(state["scale"], chart, other)
    scale = other.fixed_scale.where(~other.fixed_scale.isnan(), scale)
    return WeightChart.from_state(architecture, state | {"mean": mean, "scale": scale})


def carry(values: Tensor, chart: WeightChart, other: WeightChart) -> Tensor:
    """Values that are equal on the orbits of one chart, on those of another.

    Parameters
    ----------
    values : Tensor of shape (n_coordinates,)
        Of `chart`.
    chart, other : WeightChart
        Pooled, of architectures that differ in widths alone.

    Returns
    -------
    Tensor of shape (n_coordinates,)
        Of `other`.
    """
    orbits = chart.orbits.to(values.device)
    of_orbits = values.new_zeros(int(orbits.max()) + 1).index_copy(0, orbits, values)
    return of_orbits[other.orbits.to(values.device)]


def check_same_roles(own: Architecture, other: Architecture) -> None:
    """Raise unless two multilayer perceptrons differ in the widths of hidden layers alone."""
    differences = ["kind"]
    if other.is_mlp:
        facts = {
            "depth": lambda mlp: len(mlp.layers),
            "number of inputs": lambda mlp: mlp.sizes[0],
            "number of outputs": lambda mlp: mlp.sizes[-1],
            "activation": lambda mlp: repr(hidden_activation(mlp)),
            "set of biases": lambda mlp: [layer.bias is None for layer in mlp.layers],
        }
        differences = [name for name, fact in facts.items() if fact(own) != fact(other)]
    if differences:
        raise ValueError(
            f"architecture must be {own!r} up to the widths of hidden layers, got {other!r}, which "
            f"has another {differences[0]}; fit a flow to networks of that architecture."
        )
