"""Steps of a prediction towards the functions of a population, seen at learned inputs (probes).

The formula of a step, and where it comes from, is that of :mod:`bayesflow_nn.velocity.probing`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vjp

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.symmetry.dense_layers import DenseWeights, join_layers, split_layers
from bayesflow_nn.velocity.labelled import call_by_label
from bayesflow_nn.velocity.mlp import initialise
from bayesflow_nn.velocity.problem import VelocityProblem

_RESPONSE_WIDTH = 32
_LARGEST_CONDITION = 1e5  # of systems that are solved in float32
_INITIAL_RESPONSE = 0.05
_INITIAL_GAIN = 20.0
_INITIAL_DAMPING = 50.0
_N_UNIT_NETWORKS = 200  # networks that set the units of weights and logits


class ProbeRefinement(nn.Module):
    """One preconditioned step towards the functions that the population computes.

    Parameters
    ----------
    problem : VelocityProblem
    n_probes : int
    """

    learning_rate_factor = 10.0  # of `FlowTrainer`: few parameters, all of order one

    def __init__(self, problem: VelocityProblem, n_probes: int) -> None:
        super().__init__()
        self.chart = problem.chart
        architecture, generator = self.chart.architecture, problem.generator
        self.activation = architecture.stack.function
        self.register_buffer("scale", problem.scale)
        probes = _initial_probes(problem, n_probes)
        self.probes = nn.Parameter(probes)
        weights = self.chart.to_weights(problem.points[:_N_UNIT_NETWORKS])
        layers = split_layers(architecture, weights)
        spread = [layer.matrix.var(0).mean() for layer in layers]
        self.register_buffer("weight_variances", torch.stack(spread))
        logits = architecture.apply(weights, probes)
        self.response = _Response(logits, problem, generator)
        # Gain and damping of every layer as exponentials of affine functions of the features.
        self.log_gain = nn.Linear(problem.n_features, len(layers))
        self.log_damping = nn.Linear(problem.n_features, len(layers))
        for layer, value in ((self.log_gain, _INITIAL_GAIN), (self.log_damping, _INITIAL_DAMPING)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, math.log(value))

    def on(self, chart: WeightChart) -> ProbeRefinement:
        """The same step on networks with other widths, whose weights vary as their fan-in asks."""
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        own, new = (
            self.weight_variances.new_tensor([layer.n_in for layer in each.architecture.layers])
            for each in (self.chart, chart)
        )
        other.chart = chart
        other.scale = chart.manifold.unit_scale.to(self.scale)
        other.weight_variances = self.weight_variances * own / new
        return other

    def forward(self, features: Tensor, x: Tensor, variance: Tensor) -> Tensor:
        """Step of predictions ``(n, n_coordinates)`` with variances ``(n, 1)``.

        The features, of time and condition, are ``(n, n_features)``.
        """
        weights, pull_to_chart = vjp(lambda x: self.chart.to_weights(x / self.scale), x)
        layers = split_layers(self.chart.architecture, weights)
        logits, pull_to_layers, inputs = self._run(layers)
        cotangents = pull_to_layers(self.response(logits, features) / len(self.probes))
        damping = self.log_damping(features).exp() * self.weight_variances * variance
        gain = self.log_gain(features).exp() * variance
        steps = [
            _damped_step(*layer)
            for layer in zip(layers, cotangents, inputs, gain.T, damping.T, strict=True)
        ]
        return pull_to_chart(join_layers(steps))[0]

    def _run(self, layers: list[DenseWeights]) -> tuple[Tensor, Callable, list[Tensor]]:
        """Logits, their pull-back to every layer's output, and every layer's input."""
        n_probes = len(self.probes)
        shifts = [layer.matrix.new_zeros(*layer.matrix.shape[:-1], n_probes) for layer in layers]

        def run(*shifts: Tensor) -> tuple[Tensor, list[Tensor]]:
            hidden, inputs = self.probes.T, []
            for index, (layer, shift) in enumerate(zip(layers, shifts, strict=True)):
                hidden = hidden if index == 0 else self.activation(hidden)
                inputs.append(hidden)
                hidden = layer.matrix @ hidden + shift
                hidden = hidden if layer.bias is None else hidden + layer.bias[..., None]
            return hidden, inputs

        return vjp(run, *shifts, has_aux=True)


class LabelledRefinement(nn.Module):
    """Steps of their own for the networks of every label, and one for networks without a label.

    The latter learns from those whose label is withheld in training.

    Parameters
    ----------
    problem : VelocityProblem
    labels : Tensor of shape (n_labels, n_condition_features)
        Features of the labels, all different.
    n_probes : int
        Of every label.
    """

    labels: Tensor

    def __init__(self, problem: VelocityProblem, labels: Tensor, n_probes: int) -> None:
        super().__init__()
        self.register_buffer("labels", labels)
        self.own = nn.ModuleList(
            ProbeRefinement(problem.having(label), n_probes) for label in labels
        )
        self.shared = ProbeRefinement(problem, n_probes)

    def on(self, chart: WeightChart) -> LabelledRefinement:
        """The same steps on networks of other widths."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # `copy` shares it
        other.own = nn.ModuleList(step.on(chart) for step in self.own)
        other.shared = self.shared.on(chart)
        return other

    def forward(self, features: Tensor, x: Tensor, variance: Tensor) -> Tensor:
        """Step of predictions; shapes as for :class:`ProbeRefinement`."""
        n_time_features = features.shape[1] - self.labels.shape[1]

        def without_condition(step: ProbeRefinement) -> Callable[..., tuple[Tensor]]:
            return lambda features, *args: (step(features[:, :n_time_features], *args),)

        return call_by_label(
            self.labels,
            [without_condition(step) for step in self.own],
            lambda *args: (self.shared(*args),),
            features[:, n_time_features:],
            (features, x, variance),
        )[0]


def _initial_probes(problem: VelocityProblem, n_probes: int) -> Tensor:
    points, generator = problem.points, problem.generator
    if problem.inputs is None:
        n_inputs = problem.chart.architecture.sizes[0]
        return torch.randn(n_probes, n_inputs, generator=generator).to(points)
    order = torch.randperm(len(problem.inputs), generator=generator)
    if problem.chart.logit_shift:
        hard = _least_certain(problem)[: n_probes // 2]
        order = torch.cat([hard, order[~torch.isin(order, hard)]])
    rows = order.repeat(-(-n_probes // len(order)))[:n_probes]
    return problem.inputs[rows].to(points, copy=True)


def _least_certain(problem: VelocityProblem) -> Tensor:
    """Indices of the inputs, those first whose predictions have the largest mean entropy."""
    weights = problem.chart.to_weights(problem.points[:_N_UNIT_NETWORKS])
    inputs = problem.inputs.to(problem.points)
    proba = problem.chart.architecture.apply(weights, inputs).softmax(-1)
    return torch.special.entr(proba).sum(-1).mean(0).argsort(descending=True).cpu()


class _Response(nn.Module):
    """What to change at each probe, given the logits there.

    One small network serves all probes and is told which, and what the condition means for it: a
    probe of one task says nothing about the networks of another. Called with logits
    ``(n, n_outputs, n_probes)`` and features of time and condition ``(n, n_features)``; returns
    cotangents of the shape of the logits.
    """

    def __init__(
        self, logits: Tensor, problem: VelocityProblem, generator: torch.Generator
    ) -> None:
        super().__init__()
        _, n_probes, n_outputs = logits.shape
        self.register_buffer("unit", logits.std())
        identity = torch.randn(n_probes, _RESPONSE_WIDTH, generator=generator)
        self.identity = nn.Parameter(0.5 * identity.to(logits.dtype))
        self.n_condition_features = problem.n_condition_features
        if self.n_condition_features:
            meaning = torch.zeros(self.n_condition_features, n_probes * _RESPONSE_WIDTH)
            self.meaning = nn.Parameter(meaning.to(logits.dtype))
        self.read_in = nn.Linear(2 * n_outputs, _RESPONSE_WIDTH)
        self.shift = nn.Linear(problem.n_features, _RESPONSE_WIDTH)
        self.hidden = nn.Linear(_RESPONSE_WIDTH, _RESPONSE_WIDTH)
        self.read_out = nn.Linear(_RESPONSE_WIDTH, n_outputs)
        initialise(self, generator)
        with torch.no_grad():
            self.read_out.weight.mul_(_INITIAL_RESPONSE)

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        logits = logits.transpose(1, 2)
        seen = torch.cat([logits / self.unit, logits.softmax(-1)], dim=-1)
        shift = self.identity + self.shift(features)[:, None]
        if self.n_condition_features:
            meaning = features[:, -self.n_condition_features :] @ self.meaning
            shift = shift + meaning.unflatten(1, self.identity.shape)
        hidden = torch.relu(self.read_in(seen) + shift)
        response = self.read_out(torch.relu(self.hidden(hidden)))
        return response.transpose(1, 2)


def _damped_step(
    layer: DenseWeights, cotangent: Tensor, inputs: Tensor, gain: Tensor, damping: Tensor
) -> DenseWeights:
    r"""Gradient of one layer, times gain (I + damping G)^{-1} from the side of its inputs.

    Shapes: cotangent ``(n, n_out, n_probes)``; inputs ``(n, n_in, n_probes)``, or without n where
    all networks share them; gain and damping ``(n,)``.
    """
    if layer.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1, :])], dim=-2)
    if inputs.ndim == 2:
        # The input layer sees the same probes in every network: one eigendecomposition serves all,
        # of the probes' Gram matrix, since H' (I + c H H')^-1 = (I + c H' H)^-1 H'. Its gradient
        # would be infinite at equal eigenvalues, and the damping needs no learning.
        fixed = inputs.detach().double()
        values, axes = torch.linalg.eigh(fixed.mT @ fixed / fixed.shape[-1])
        values, axes = values.clamp_min(0).to(inputs), axes.to(inputs)
        damped = (cotangent @ axes) / (1 + damping[:, None, None] * values) @ (inputs @ axes).mT
    else:
        moments = inputs @ inputs.mT / inputs.shape[-1]
        identity = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
        # Beyond this the identity is lost in float32, and equal neurons leave no inverse.
        largest = moments.diagonal(dim1=-2, dim2=-1).sum(-1)
        damping = torch.minimum(damping, _LARGEST_CONDITION / largest)
        system = identity + damping[:, None, None] * moments
        damped = torch.linalg.solve(system, inputs @ cotangent.mT).mT
    step = gain[:, None, None] * damped
    if layer.bias is None:
        return DenseWeights(step, None)
    return DenseWeights(step[..., :-1], step[..., -1])
