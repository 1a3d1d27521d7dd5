"""Regression on draws that are fresh at every step: AdamW, averaged parameters, early stopping.

Flow matching draws times and noise anew, distillation draws points of trajectories; both minimise a
mean over draws, validate on other draws that stay the same, and keep the average of the parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import trange

from bayesflow_nn.weights.random_state import draw_seed

_N_CHECKS = 25  # validations per training
_VALIDATION_CHUNK = 512

Loss = Callable[[nn.Module, Any], Tensor]
"""Mean error of a model over a draw, a scalar. A draw has `n_rows` and parts, ``split(size)``."""


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
        Check whose network was kept; 0 is the start, before any step.
    """

    iterations: list[int] = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_iteration: int = 0


@dataclass
class Regression:
    """How a model is fitted to draws.

    Parameters
    ----------
    max_iter, batch_size : int
        Number of steps and size of the draw in each.
    learning_rate, weight_decay : float
        Peak learning rate and decoupled weight decay of AdamW.
    ema_decay : float
        Decay of the average over parameters that is kept.
    early_stopping : bool
        Keep the average with the least validation loss, the start if none beats it, and stop when
        the loss no longer falls.
    n_iter_no_change : int
        Checks without a lower validation loss after which to stop.
    verbose : bool
        Show a progress bar.
    """

    _: KW_ONLY
    max_iter: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    ema_decay: float = 0.99
    early_stopping: bool = True
    n_iter_no_change: int = 5
    verbose: bool = False

    def fit(
        self,
        model: nn.Module,
        loss: Loss,
        draw: Callable[[], Any],
        draw_validation: Callable[[], Any] | None,
        generator: torch.Generator,
    ) -> tuple[nn.Module, TrainingHistory]:
        """Minimise the mean loss over draws.

        The model is trained in place; what is returned is its average over the steps, in
        evaluation mode, and the history. A submodule with an attribute `learning_rate_factor`
        learns that many times faster.

        Parameters
        ----------
        model : nn.Module
        loss : callable
        draw : callable
            Makes the draw of a step.
        draw_validation : callable or None
            Makes the draw, once, on which the average is validated.
        generator : torch.Generator
            Seeds what the model itself draws (dropout).

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite.
        """
        # Dropout draws from torch's global generator: seed a fork of it, so that the result follows
        # from `generator` alone and the state that the caller sees is untouched.
        device = generator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(draw_seed(generator))
            return self._fit(model, loss, draw, draw_validation)

    def _fit(
        self,
        model: nn.Module,
        loss: Loss,
        draw: Callable[[], Any],
        draw_validation: Callable[[], Any] | None,
    ) -> tuple[nn.Module, TrainingHistory]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = _parameter_groups(model, self.learning_rate)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        average = AveragedModel(model, avg_fn=self._move_average)
        checks = _Checks(self, average, loss, draw_validation and draw_validation())
        bar = trange(self.max_iter, disable=not self.verbose, desc="flow")
        for iteration in bar:
            model.train()
            value = loss(model, draw())
            _check_loss(value, iteration, self.learning_rate)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            if checks.after(iteration + 1, value.item()):
                break
            bar.set_postfix_str(checks.summary, refresh=False)
        return checks.best.eval(), checks.history

    def _move_average(self, average: Tensor, current: Tensor, n_averaged: Tensor) -> Tensor:
        """Exponential average that forgets its first members early on."""
        decay = min(self.ema_decay, (1 + n_averaged.item()) / (10 + n_averaged.item()))
        return torch.lerp(current, average, decay)

    def _learning_rate_factor(self, iteration: int) -> float:
        """Linear warm-up over a twentieth of the training, then half a cosine to zero."""
        warmup = max(1, self.max_iter // 20)
        progress = max(0.0, (iteration - warmup) / max(1, self.max_iter - warmup))
        return min(1.0, (iteration + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))


class _Checks:
    """Validation of the averaged model, memory of the best one, and early stopping."""

    def __init__(
        self, regression: Regression, average: AveragedModel, loss: Loss, draw: Any
    ) -> None:
        self.regression, self.average, self.loss, self.draw = regression, average, loss, draw
        self.history = TrainingHistory()
        self.best = copy.deepcopy(average.module)
        self.interval = max(1, regression.max_iter // _N_CHECKS)
        self.summary = ""
        self._losses: list[float] = []
        self._best_loss, self._n_without_gain = math.inf, 0
        self._start_loss = self._validation_loss()

    def after(self, iteration: int, loss: float) -> bool:
        """Record one step; return whether to stop."""
        self._losses.append(loss)
        if iteration % self.interval and iteration != self.regression.max_iter:
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
        if self.draw is None:
            return math.nan
        self.average.eval()
        with torch.no_grad():
            parts = [
                (self.loss(self.average.module, part).item(), part.n_rows)
                for part in self.draw.split(_VALIDATION_CHUNK)
            ]
        return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)

    def _keep_best(self, iteration: int, loss: float) -> bool:
        if not self.regression.early_stopping or self.draw is None:
            self.best, self.history.best_iteration = self.average.module, iteration
            return False
        if loss < self._best_loss:
            self._best_loss, self._n_without_gain = loss, 0
            if loss < self._start_loss:
                self.best = copy.deepcopy(self.average.module)
                self.history.best_iteration = iteration
        else:
            self._n_without_gain += 1
        return self._n_without_gain >= self.regression.n_iter_no_change


def _parameter_groups(model: nn.Module, learning_rate: float) -> list[dict]:
    """One group of parameters per learning rate."""
    fast: dict[int, float] = {}
    for module in model.modules():
        if hasattr(module, "learning_rate_factor"):
            fast |= dict.fromkeys(map(id, module.parameters()), module.learning_rate_factor)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault(fast.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": g, "lr": factor * learning_rate} for factor, g in groups.items()]


def _check_loss(loss: Tensor, iteration: int, learning_rate: float) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss of the flow became {loss.item()} at iteration {iteration}; lower "
            f"learning_rate (now {learning_rate}) or look for outliers in the weights"
        )
