"""A trained flow as a map that makes a network in one evaluation, or a few.

The map starts from the flow of the Gaussian approximation, which is known in closed form, and is
refined by the layers of the flow's own velocity, trained further on trajectories of the flow
(consistency distillation on whole trajectories, Song et al. 2023). It is fitted to where they end
and, for classifiers with known inputs, to what the networks there predict: without a label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import trange

from bayesflow_nn.flow import FlowField, Regression, Setting, integrate
from bayesflow_nn.velocity import make_flow_map
from bayesflow_nn.weights import Architecture

_FEWEST_TEACHER_STEPS = 8  # of the midpoint solver
_CHUNK = 128  # trajectories integrated at once
_N_INPUTS = 256  # on which predictions are compared

Discrepancy = Callable[[Tensor, Tensor], Tensor]


class TrajectoryDraw(NamedTuple):
    """Points of trajectories and their ends.

    Attributes
    ----------
    t : Tensor of shape (n,)
    x_t, end : Tensor of shape (n, n_coordinates)
    condition : Tensor of shape (n, n_features) or None
    """

    t: Tensor
    x_t: Tensor
    end: Tensor
    condition: Tensor | None

    @property
    def n_rows(self) -> int:
        """Number of points."""
        return len(self.t)

    def split(self, size: int) -> list[TrajectoryDraw]:
        """Parts of at most `size` points."""
        return [self.rows(slice(i, i + size)) for i in range(0, len(self.t), size)]

    def rows(self, index: Tensor | slice) -> TrajectoryDraw:
        """Some of the points."""
        return TrajectoryDraw(*(None if part is None else part[index] for part in self))


@dataclass(frozen=True)
class Distilled:
    """A map fitted to a flow, and how far it is from it, measured on trajectories it has not seen.

    Attributes
    ----------
    field : FlowField
        Predicts, from points at a time, the ends of their trajectories.
    n_steps : int
        Evaluations per network.
    error : Tensor of shape (n_steps,)
        Root mean square error of the end, from the time of each step, in coordinates of unit
        variance.
    divergence : float
        Mean Kullback-Leibler divergence, in nats, from the predictions of the flow's network to
        those of the map's, from the time of the first step; NaN without known inputs.
    """

    field: FlowField
    n_steps: int
    error: Tensor
    divergence: float


@torch.no_grad()
def trajectories(
    field: FlowField, setting: Setting, x_0: Tensor, n_steps: int, *, progress: bool
) -> TrajectoryDraw:
    """Points at the times of the map's steps, step by step, on trajectories from source points.

    The field is given the conditions of the points.
    """
    per_step = -(-_FEWEST_TEACHER_STEPS // n_steps)
    n = len(x_0)
    points = []
    for start in trange(0, n, _CHUNK, disable=not progress, desc="trajectories", leave=False):
        part = slice(start, start + _CHUNK)
        rows = field.rows(part)
        x = integrate(rows, x_0[part], n_steps=per_step * n_steps, return_trajectory=True)
        points.append(torch.cat([x[:-1:per_step], setting.project(rows.denoise(x[-1]))[None]]))
    points = torch.cat(points, dim=1)
    times = torch.arange(n_steps).to(x_0) / n_steps
    return TrajectoryDraw(
        times.repeat_interleave(n),
        points[:-1].flatten(0, 1),
        points[-1].repeat(n_steps, 1),
        None if field.condition is None else field.condition.repeat(n_steps, 1),
    )


def distill(
    field: FlowField,
    setting: Setting,
    training: TrajectoryDraw,
    held_out: TrajectoryDraw,
    regression: Regression,
    discrepancy: Discrepancy | None,
    *,
    n_steps: int,
) -> Distilled:
    """Fit a map to trajectories.

    Parameters
    ----------
    field : FlowField
        The flow; its predictor is where the map starts.
    setting : Setting
    training, held_out : TrajectoryDraw
        As `trajectories` makes them.
    regression : Regression
    discrepancy : callable or None
        Points of the flow's networks and of the map's, to divergences ``(n,)``.
    n_steps : int

    Raises
    ------
    TypeError
        If the velocity does not refine a Gaussian prediction.
    """
    generator = setting.generator

    def draw() -> TrajectoryDraw:
        size = (regression.batch_size,)
        device = generator.device
        return training.rows(
            torch.randint(training.n_rows, size, generator=generator, device=device)
        )

    def errors(model: nn.Module, part: TrajectoryDraw) -> tuple[Tensor, Tensor]:
        given = () if part.condition is None else (part.condition,)
        end = setting.project(model(part.t, part.x_t, *given))
        square = ((end - part.end) * setting.scale).square().mean(1)
        return square, square * 0 if discrepancy is None else discrepancy(part.end, end)

    def loss(model: nn.Module, part: TrajectoryDraw) -> Tensor:
        return sum(errors(model, part)).mean()

    model, _ = regression.fit(
        make_flow_map(field.predictor), loss, draw, lambda: held_out, generator
    )
    model.requires_grad_(False)
    with torch.no_grad():
        parts = zip(*(errors(model, part) for part in held_out.split(_CHUNK)), strict=True)
        square, divergence = (torch.cat(part).unflatten(0, (n_steps, -1)) for part in parts)
    known = torch.nan if discrepancy is None else divergence[0].mean().item()
    return Distilled(FlowField(field.path, model), n_steps, square.mean(1).sqrt(), known)


def prediction_divergence(
    architecture: Architecture, to_weights: Callable[[Tensor], Tensor], inputs: Tensor
) -> Discrepancy:
    """Divergence of the class probabilities of networks on inputs, averaged over them, in nats."""
    inputs = inputs[:: -(-len(inputs) // _N_INPUTS)]

    def discrepancy(teacher: Tensor, student: Tensor) -> Tensor:
        log_p, log_q = (
            architecture.apply(to_weights(x), inputs).log_softmax(-1) for x in (teacher, student)
        )
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)

    return discrepancy
