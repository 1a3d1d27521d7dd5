r"""Guidance: sampling from the flow times a factor that favours low values of an objective.

If the flow has the density p, guidance by an objective L with strength :math:`\lambda` aims at
:math:`p(x) \, e^{-\lambda L(x)}`. Its velocity is that of the flow with another mean target; to
first order in :math:`\lambda`

.. math::
    E[x_1 | x_t] \to \hat x_1 - \lambda s(t) \, \Sigma_t \nabla L(\hat x_1),

where :math:`\hat x_1` is the target that the flow predicts, :math:`\Sigma_t` the covariance of the
target given :math:`x_t` in the Gaussian approximation of the flow, and s a schedule. The gradient
is taken at a network that is nearly finished, and the shift is never longer than the target is
uncertain. With ``at="point"`` it is the rule of [E25] eq. 6.1 (with the sign that lowers the loss),
the gradient at the unfinished network,

.. math::
    u \to u - \lambda s(t) \, \nabla L(x_t) .

Before t = 0, `source_steps` steps move the source points so that the networks they flow to have a
lower objective (Ben-Hamu et al. 2024, alg. 1). After t = 1, `finish_steps` steps of an optimizer or
of Langevin dynamics continue on the manifold. Gradients are those of all networks at once, with
respect to points in coordinates of unit variance, through the projection to the manifold: tangent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.func import vmap

from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.likelihoods import Likelihood
from bayesflow_nn.weights.losses import Loss, resolve_loss
from bayesflow_nn.weights.training_data import check_data
from bayesflow_nn.weights.validation import check_integer, check_option, check_real

Objective = Callable[[Tensor], Tensor]
"""What to lower: weights ``(n, n_weights)`` to values ``(n,)``, differentiable."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "rising": lambda t: t,
    "falling": lambda t: 1 - t,
}
STEP_SIZES = {"adam": 0.02, "covariance": 0.1, "langevin": 0.05}
"""Rules for the steps after t = 1, with their default step sizes."""


class Guidance:
    """Guidance by any differentiable objective.

    Parameters
    ----------
    objective : callable
        To be lowered: weights ``(n, n_weights)`` to values ``(n,)``, each a function of its row.
    strength : float
        Factor of the objective in the exponent, in nats per unit of the objective. Zero leaves the
        flow as it is, up to t = 1.
    schedule : {"constant", "rising", "falling"} or callable
        Factor of the strength as a function of the time in [0, 1]; rising is t, falling 1 - t.
    at : {"target", "point"}
        Where gradients are taken: at the predicted target, preconditioned by the covariance of the
        flow, or at the point itself.
    finish_steps : int
        Steps after t = 1, each with one gradient.
    finish : {"adam", "covariance", "langevin"}
        Adam; gradient steps, preconditioned by the covariance of the networks, to lower the
        objective; or unadjusted Langevin dynamics with the same preconditioner, for the density
        N(x; mean, covariance) exp(-strength x objective).
    finish_step_size : float, optional
        In coordinates of unit variance. By default 0.02 for "adam", 0.1 for "covariance" and 0.05
        for "langevin".
    source_steps : int
        Adam steps on the source points, through the solver, before the flow starts.
    source_step_size : float
        In coordinates of unit variance.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong kind or out of range.

    Examples
    --------
    >>> shrinking = Guidance(lambda weights: weights.square().sum(1), strength=0.5)
    >>> shrinking.strength, shrinking.finish_steps
    (0.5, 0)
    """

    def __init__(
        self,
        objective: Objective,
        *,
        strength: float = 1.0,
        schedule: str | Callable[[float], float] = "constant",
        at: str = "target",
        finish_steps: int = 0,
        finish: str = "adam",
        finish_step_size: float | None = None,
        source_steps: int = 0,
        source_step_size: float = 0.05,
    ) -> None:
        if not callable(objective):
            raise TypeError(
                f"objective must be a callable from weights (n, n_weights) to values (n,), got "
                f"{type(objective).__name__}; for the loss on data use TaskGuidance(X, y)."
            )
        if not callable(schedule):
            check_option("schedule", schedule, tuple(SCHEDULES))
        check_option("at", at, ("target", "point"))
        check_option("finish", finish, tuple(STEP_SIZES))
        size = STEP_SIZES[finish] if finish_step_size is None else finish_step_size
        self.objective = objective
        self.strength = check_real("strength", strength, 0)
        self.schedule = schedule if callable(schedule) else SCHEDULES[schedule]
        self.at = at
        self.finish_steps = check_integer("finish_steps", finish_steps, low=0)
        self.finish = finish
        self.finish_step_size = check_real("finish_step_size", size, 0, strict=True)
        self.source_steps = check_integer("source_steps", source_steps, low=0)
        self.source_step_size = check_real("source_step_size", source_step_size, 0, strict=True)
        if finish == "langevin" and finish_steps and not strength:
            raise ValueError(
                "strength must be positive for finish='langevin', which samples a density that "
                "depends on it, got 0."
            )

    def bind(self, architecture: Architecture | None, generator: torch.Generator) -> Objective:
        """Objective for networks of an architecture; randomness comes from the generator."""
        return self.objective

    def strength_at(self, t: float) -> float:
        """Strength times the schedule."""
        return self.strength * self.schedule(t)


class TaskGuidance(Guidance):
    """Guidance by the loss of networks on data.

    The objective is the mean loss over the data (in nats for classification). A strength of
    ``len(X)`` counts the likelihood of these data once more.

    Parameters
    ----------
    X : array of shape (n_inputs, ...)
    y : array of shape (n_inputs,) of integer labels, or (n_inputs, n_outputs)
    batch_size : int, optional
        Inputs per gradient, drawn anew each time and shared by all networks. By default all.
    loss : {"auto", "cross_entropy", "mse"}, Likelihood or callable
        As in :func:`bayesflow_nn.train_population`.
    strength : float
    schedule : {"constant", "rising", "falling"} or callable
    at : {"target", "point"}
    finish_steps : int
    finish : {"adam", "covariance", "langevin"}
    finish_step_size : float, optional
    source_steps : int
    source_step_size : float
        As in :class:`Guidance`. By default nothing acts on the way, and 24 steps of Adam follow.

    Notes
    -----
    Steps lower the loss on these data. On digits (64-32-10) the default gave networks better than
    trained ones on test data too. Where trained networks are overconfident already (breast cancer),
    more steps make them more so; smoothed labels,
    ``loss=functools.partial(torch.nn.functional.cross_entropy, label_smoothing=0.02)``, and 8 steps
    of 0.01 gave better networks there as well. Choose such numbers on validation data.

    Examples
    --------
    >>> import numpy as np
    >>> guidance = TaskGuidance(np.zeros((4, 2)), np.array([0, 1, 1, 0]), finish_steps=10)
    >>> guidance.finish, guidance.finish_steps
    ('adam', 10)
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        batch_size: int | None = None,
        loss: str | Loss | Likelihood = "auto",
        strength: float = 0.0,
        schedule: str | Callable[[float], float] = "constant",
        at: str = "target",
        finish_steps: int = 24,
        finish: str = "adam",
        finish_step_size: float | None = None,
        source_steps: int = 0,
        source_step_size: float = 0.05,
    ) -> None:
        super().__init__(
            self.bind,
            strength=strength,
            schedule=schedule,
            at=at,
            finish_steps=finish_steps,
            finish=finish,
            finish_step_size=finish_step_size,
            source_steps=source_steps,
            source_step_size=source_step_size,
        )
        self.X, self.y, self.loss = X, y, loss
        self.batch_size = batch_size
        if batch_size is not None:
            check_integer("batch_size", batch_size)

    def bind(self, architecture: Architecture | None, generator: torch.Generator) -> Objective:
        """Loss on the data, or on a fresh minibatch at every call.

        Raises
        ------
        ValueError
            If the data do not fit the architecture, or there is none.
        """
        if architecture is None:
            raise ValueError(
                "TaskGuidance needs the architecture of the networks, got a posterior over a plain "
                "array; fit a WeightPopulation, pass architecture=, or use Guidance(objective)."
            )
        data = check_data(architecture, self.X, self.y, self.loss, generator.device)
        loss = vmap(resolve_loss(data.loss), in_dims=(0, None))

        def objective(weights: Tensor) -> Tensor:
            X, y = data.X.to(weights.dtype), data.y
            if self.batch_size is not None:
                rows = torch.randperm(len(X), generator=generator, device=generator.device)
                X, y = X[rows[: self.batch_size]], y[rows[: self.batch_size]]
            return loss(architecture.apply(weights, X), y)

        return objective
