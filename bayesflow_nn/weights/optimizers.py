"""Optimizers on one flat vector of parameters, with the update rules of ``torch.optim``.

``torch.optim`` itself spends 80 microseconds of Python per step, which is a tenth of the step of a
whole chunk of small networks and, worse, holds the interpreter lock that the other threads need.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.weights.validation import check_option

OPTIMIZERS = ("adam", "adamw", "sgd")
Schedule = str | Callable[[float], float]


class Adam:
    """Adam as in ``torch.optim.Adam`` or, with decoupled weight decay, ``torch.optim.AdamW``.

    Parameters
    ----------
    parameters : Tensor of shape (n,)
        Updated in place.
    weight_decay : float
        Coefficient of the L2 penalty.
    decoupled : bool
        Whether the decay acts on the parameters directly and not through the gradient.
    """

    def __init__(self, parameters: Tensor, *, weight_decay: float, decoupled: bool) -> None:
        self._parameters = parameters
        self._mean = torch.zeros_like(parameters)
        self._square = torch.zeros_like(parameters)
        self._n_steps = torch.zeros((), dtype=torch.float32, device=parameters.device)
        self._update = torch._fused_adamw_ if decoupled else torch._fused_adam_
        self._weight_decay = weight_decay

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update the parameters by one step."""
        self._n_steps += 1
        self._update(
            [self._parameters],
            [gradient],
            [self._mean],
            [self._square],
            [],
            [self._n_steps],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self._weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class SGD:
    """Gradient descent with momentum as in ``torch.optim.SGD``.

    Parameters
    ----------
    parameters : Tensor of shape (n,)
        Updated in place.
    weight_decay : float
        Coefficient of the L2 penalty.
    momentum : float
        Decay of the running sum of gradients.
    """

    def __init__(self, parameters: Tensor, *, weight_decay: float, momentum: float) -> None:
        self._parameters = parameters
        self._velocity = torch.zeros_like(parameters)
        self._weight_decay = weight_decay
        self._momentum = momentum

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update the parameters by one step."""
        self._velocity.mul_(self._momentum).add_(gradient)
        if self._weight_decay:
            self._velocity.add_(self._parameters, alpha=self._weight_decay)
        self._parameters.add_(self._velocity, alpha=-learning_rate)


def make_optimizer(
    name: str, parameters: Tensor, *, momentum: float, weight_decay: float
) -> Adam | SGD:
    """Build the optimizer with the given short name."""
    if name == "sgd":
        return SGD(parameters, weight_decay=weight_decay, momentum=momentum)
    return Adam(parameters, weight_decay=weight_decay, decoupled=name == "adamw")


def resolve_schedule(schedule: Schedule) -> Callable[[float], float]:
    """Return the factor of the learning rate as a function of progress in [0, 1)."""
    if callable(schedule):
        return schedule
    check_option("schedule", schedule, tuple(_SCHEDULES))
    return _SCHEDULES[schedule]


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "step": lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)),
}
