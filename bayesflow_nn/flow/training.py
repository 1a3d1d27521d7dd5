r"""Conditional flow matching ([L23] eq. 9, [CL23] eq. 6): regression on conditional velocities.

.. math::
    L(\phi) = E_{t, x_0, x_1} \left\| u_\phi(t, x_t) - u_t(x_t | x_1) \right\|^2

or, with ``prediction="target"``, on the target itself: the same error times :math:`\kappa^2`.
Source noise is drawn anew at every step; validation uses other chains, with times and noise drawn
once, so that its loss is comparable from check to check.
"""

from __future__ import annotations

import copy
import math
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import trange

from bayesflow_nn.flow.coupling import Coupling
from bayesflow_nn.flow.path import GeodesicPath, PathSample
from bayesflow_nn.flow.source import StandardSource
from bayesflow_nn.weights.random_state import draw_seed


class Targets(NamedTuple):
    """Points that a flow is to reach.

    Attributes
    ----------
    x : Tensor of shape (n, n_coordinates)
    condition : Tensor of shape (n, n_features) or None
        What is known of each.
    """

    x: Tensor
    condition: Tensor | None = None

    def rows(self, index: Tensor | slice) -> Targets:
        """Some of the points."""
        return Targets(self.x[index], None if self.condition is None else self.condition[index])


@dataclass
class TrainingHistory:
    """What happened in training.

    Attributes
    ----------
    iterations : list of int
        Number of steps done at each check.
    training_loss, validation_loss : list of float
        Mean loss since the last check, and the loss of the averaged network on other chains (NaN
        without any), both per coordinate.
    best_iteration : int
        Check whose network was kept.
    """

    iterations: list[int] = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_iteration: int = 0


@dataclass
class FlowTrainer:
    """Fits the predictor of a field by conditional flow matching.

    Parameters
    ----------
    path : GeodesicPath
    source : StandardSource
    coupling : callable
        Re-pairs the source points of a minibatch with its targets.
    metric : Tensor of shape (n_coordinates,)
        Weight of each squared coordinate of the error.
    generator : torch.Generator
        Source of all randomness.
    max_iter, batch_size : int
        Number of steps and of paths in each.
    learning_rate, weight_decay : float
        Peak learning rate and decoupled weight decay of AdamW.
    prediction : {"target", "velocity"}
        What the error is measured on.
    time_distribution : {"uniform", "beta", "late"}
        Law of t: uniform; Beta(1, 2), which dwells on early times ([E25] 6.4); or Beta(3, 1).
    ema_decay : float
        Decay of the average over parameters that is kept.
    early_stopping : bool
        Keep the average with the least validation loss, and stop when it no longer falls.
    n_iter_no_change : int
        Checks without a lower validation loss after which to stop.
    condition_dropout : float
        Fraction of the conditions that training withholds, so that the flow without a condition is
        learned as well (Ho & Salimans 2022).
    verbose : bool
        Show a progress bar.
    """

    path: GeodesicPath
    source: StandardSource
    coupling: Coupling
    metric: Tensor
    generator: torch.Generator
    _: KW_ONLY
    max_iter: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    prediction: str = "velocity"
    time_distribution: str = "uniform"
    ema_decay: float = 0.99
    early_stopping: bool = True
    n_iter_no_change: int = 5
    condition_dropout: float = 0.0
    verbose: bool = False

    def fit(
        self, predictor: nn.Module, data: Targets, validation: Targets | None
    ) -> tuple[nn.Module, TrainingHistory]:
        """Train on points of networks, and validate on others.

        The predictor is trained in place; what is returned is its average over the steps, in
        evaluation mode, and the history. A submodule with an attribute `learning_rate_factor`
        learns that many times faster.

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite.
        """
        # Dropout draws from torch's global generator: seed a fork of it, so that the result follows
        # from `generator` alone and the state that the caller sees is untouched.
        device = data.x.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(draw_seed(self.generator))
            return self._fit(predictor, data, validation)

    def _fit(
        self, predictor: nn.Module, data: Targets, validation: Targets | None
    ) -> tuple[nn.Module, TrainingHistory]:
        history = TrainingHistory()
        parameters = list(predictor.parameters())
        groups = _parameter_groups(predictor, self.learning_rate)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        average = AveragedModel(predictor, avg_fn=self._move_average)
        checks = _Checks(self, average, validation, history)
        bar = trange(self.max_iter, disable=not self.verbose, desc="flow")
        for iteration in bar:
            predictor.train()
            loss = self.loss(predictor, self._draw(data, self.batch_size))
            _check_loss(loss, iteration, self.learning_rate)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(predictor)
            if checks.after(iteration + 1, loss.item()):
                break
            bar.set_postfix_str(checks.summary, refresh=False)
        return checks.best.eval(), history

    def _move_average(self, average: Tensor, current: Tensor, n_averaged: Tensor) -> Tensor:
        """Exponential average that forgets its first members early on."""
        decay = min(self.ema_decay, (1 + n_averaged.item()) / (10 + n_averaged.item()))
        return torch.lerp(current, average, decay)

    def _learning_rate_factor(self, iteration: int) -> float:
        """Linear warm-up over a twentieth of the training, then half a cosine to zero."""
        warmup = max(1, self.max_iter // 20)
        progress = max(0.0, (iteration - warmup) / max(1, self.max_iter - warmup))
        return min(1.0, (iteration + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))

    def _draw(self, data: Targets, n: int) -> PathSample:
        x, generator = data.x, self.generator
        rows = torch.randint(len(x), (n,), generator=generator, device=x.device)
        batch = data.rows(rows)
        if batch.condition is not None:
            kept = torch.rand(n, 1, generator=generator, device=x.device) >= self.condition_dropout
            batch = Targets(batch.x, batch.condition * kept)
        return self.draw_paths(batch)

    def draw_paths(self, targets: Targets) -> PathSample:
        """Draw times and source points for targets."""
        x_1 = targets.x
        n, generator = len(x_1), self.generator
        t = torch.rand(n, generator=generator, dtype=x_1.dtype, device=x_1.device)
        if self.time_distribution == "beta":
            t = 1 - torch.sqrt(t)  # inverse distribution function of Beta(1, 2)
        elif self.time_distribution == "late":
            t = t ** (1 / 3)  # of Beta(3, 1)
        x_0 = self.source.sample(n, generator=generator, like=x_1)
        draw = self.path.sample(t, self.coupling(self.path.manifold, x_0, x_1), x_1)
        return draw._replace(condition=targets.condition)

    def loss(self, predictor: nn.Module, draw: PathSample) -> Tensor:
        """Mean squared error per coordinate, in the metric, over the paths drawn."""
        given = () if draw.condition is None else (draw.condition,)
        prediction = predictor(draw.t, draw.x_t, *given)
        error = self.path.velocity(draw.t, draw.x_t, prediction) - draw.u_t
        squared = (error.square() * self.metric).mean(1)
        if self.prediction == "target":
            squared = squared * self.path.kappa(draw.t) ** 2
        return squared.mean()


class _Checks:
    """Validation of the averaged network, memory of the best one, and early stopping."""

    def __init__(
        self,
        trainer: FlowTrainer,
        average: AveragedModel,
        validation: Targets | None,
        history: TrainingHistory,
    ) -> None:
        self.trainer, self.average, self.history = trainer, average, history
        self.best = average.module
        self.interval = max(1, trainer.max_iter // _N_CHECKS)
        self.summary = ""
        self._losses: list[float] = []
        self._best_loss, self._n_without_gain = math.inf, 0
        self._draw = None
        if validation is not None:
            n = len(validation.x)
            rows = torch.arange(max(_N_VALIDATION_DRAWS, n), device=validation.x.device) % n
            self._draw = trainer.draw_paths(validation.rows(rows))

    def after(self, iteration: int, loss: float) -> bool:
        """Record one step; return whether to stop."""
        self._losses.append(loss)
        if iteration % self.interval and iteration != self.trainer.max_iter:
            return False
        history = self.history
        history.iterations.append(iteration)
        history.training_loss.append(sum(self._losses) / len(self._losses))
        history.validation_loss.append(self._validation_loss())
        self._losses = []
        self.summary = (
            f"loss {history.training_loss[-1]:.4g}, held out {history.validation_loss[-1]:.4g}"
        )
        return self._keep_best(iteration, history.validation_loss[-1])

    def _validation_loss(self) -> float:
        if self._draw is None:
            return math.nan
        self.average.eval()
        with torch.no_grad():
            parts = [
                self.trainer.loss(self.average.module, chunk).item() * len(chunk.t)
                for chunk in self._draw.split(_VALIDATION_CHUNK)
            ]
        return sum(parts) / len(self._draw.t)

    def _keep_best(self, iteration: int, loss: float) -> bool:
        if not self.trainer.early_stopping or self._draw is None:
            self.best, self.history.best_iteration = self.average.module, iteration
            return False
        if loss < self._best_loss:
            self._best_loss, self._n_without_gain = loss, 0
            self.best = copy.deepcopy(self.average.module)
            self.history.best_iteration = iteration
        else:
            self._n_without_gain += 1
        return self._n_without_gain >= self.trainer.n_iter_no_change


_N_CHECKS = 25  # validations per training
_N_VALIDATION_DRAWS = 512
_VALIDATION_CHUNK = 512


def _parameter_groups(predictor: nn.Module, learning_rate: float) -> list[dict]:
    """One group of parameters per learning rate."""
    fast: dict[int, float] = {}
    for module in predictor.modules():
        if hasattr(module, "learning_rate_factor"):
            fast |= dict.fromkeys(map(id, module.parameters()), module.learning_rate_factor)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in predictor.parameters():
        groups.setdefault(fast.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": g, "lr": factor * learning_rate} for factor, g in groups.items()]


def _check_loss(loss: Tensor, iteration: int, learning_rate: float) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the flow-matching loss became {loss.item()} at iteration {iteration}; lower "
            f"learning_rate (now {learning_rate}) or look for outliers in the weights"
        )
