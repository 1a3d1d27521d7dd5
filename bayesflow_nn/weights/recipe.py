"""How every network of a population is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bayesflow_nn.weights.optimizers import OPTIMIZERS
from bayesflow_nn.weights.validation import check_integer, check_option, check_real


@dataclass(frozen=True)
class Recipe:
    """Settings of the training loop, checked; see `train_population` for their meaning."""

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Callable[[float], float]
    n_epochs: int
    batch_size: int
    minibatches: str
    burn_in: int
    stride: int | None
    seed: int
    early_stopping: bool = False
    n_iter_no_change: int = 10
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_option("optimizer", self.optimizer, OPTIMIZERS)
        check_option("minibatches", self.minibatches, ("independent", "shared"))
        check_real("learning_rate", self.learning_rate, 0, strict=True)
        check_real("momentum", self.momentum, 0)
        check_real("weight_decay", self.weight_decay, 0)
        check_integer("n_epochs", self.n_epochs)
        check_integer("batch_size", self.batch_size)
        check_integer("burn_in", self.burn_in, 0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum belongs to optimizer='sgd', got momentum={self.momentum} with "
                f"{self.optimizer!r}, which has its own."
            )
        self._check_snapshots()
        self._check_early_stopping()

    def _check_early_stopping(self) -> None:
        check_option("early_stopping", self.early_stopping, (True, False))
        check_integer("n_iter_no_change", self.n_iter_no_change)
        check_real("tol", self.tol, 0)
        if self.early_stopping and self.stride is not None:
            raise ValueError(
                f"stride must be None with early_stopping, which keeps one epoch of every network, "
                f"got {self.stride}."
            )

    def _check_snapshots(self) -> None:
        if self.stride is not None:
            check_integer("stride", self.stride)
        elif self.burn_in:
            raise ValueError("burn_in needs stride: the iterations from one snapshot to the next.")
        if self.burn_in >= self.n_epochs:
            raise ValueError(
                f"burn_in must be less than n_epochs={self.n_epochs}, got {self.burn_in}."
            )

    def n_iterations(self, n_inputs: int) -> int:
        """Return the number of optimizer steps; the last minibatch of an epoch may be smaller."""
        return self.n_epochs * -(-n_inputs // self.batch_size)

    def snapshots(self, n_inputs: int) -> list[int]:
        """Return the iterations (from 1) after which weights are recorded, the last among them."""
        last = self.n_iterations(n_inputs)
        if self.stride is None:
            return [last]
        start = last // self.n_epochs * self.burn_in
        return sorted({*range(start + self.stride, last + 1, self.stride), last})
