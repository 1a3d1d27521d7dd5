r"""Early stopping of many networks, each for itself.

After epoch t, network k has the held-out loss :math:`L_k(t)`. It keeps the weights of its best
epoch, and stops after the first epoch t for which

.. math:: L_k(s) > \min_{r < s} L_k(r) - \text{tol}

held in more than `n_iter_no_change` epochs s in a row: the rule of scikit-learn's
`MLPClassifier`, with a loss where it has a score. A rule for all networks together would make each
depend on what is trained beside it; this one gives what training it alone would.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.scores import score_networks
from bayesflow_nn.weights.training_data import TrainingData


class EarlyStopping:
    """What a chunk of networks has reached so far.

    Parameters
    ----------
    architecture : Architecture
    held_out : TrainingData
        Its "nll" decides, or its "mse" where no likelihood is known, with the weights of its
        inputs.
    n_iter_no_change : int
        Epochs in a row without a gain that a network may have.
    tol : float
        Least gain that counts, in the units of the loss.

    Attributes
    ----------
    weights : Tensor of shape (n_networks, n_weights)
        Of the best epoch of every network.
    best_epoch, n_epochs : Tensor of shape (n_networks,)
        That epoch, from 1, and the epochs until the network stopped.
    """

    def __init__(
        self, architecture: Architecture, held_out: TrainingData, n_iter_no_change: int, tol: float
    ) -> None:
        self._architecture, self._held_out = architecture, held_out
        self._n_iter_no_change, self._tol = n_iter_no_change, tol
        self._epoch = 0

    def update(self, weights: Tensor) -> bool:
        """Take the weights ``(n_networks, n_weights)`` after an epoch; True if all have stopped."""
        loss = self._loss(weights)
        if self._epoch == 0:
            self._start(weights)
        self._epoch += 1
        # Not a number is no gain.
        stalls = ~(loss <= self._best - self._tol)
        better = self._active & ((loss < self._best) | (self._epoch == 1))
        self.weights[better] = weights[better]
        self.best_epoch[better] = self._epoch
        self._best[better] = loss[better]
        self._n_stalls = torch.where(stalls, self._n_stalls + 1, 0)
        self.n_epochs[self._active] = self._epoch
        self._active &= self._n_stalls <= self._n_iter_no_change
        return not self._active.any()

    def _start(self, weights: Tensor) -> None:
        n = len(weights)
        self.weights = weights.clone()
        self.best_epoch, self.n_epochs, self._n_stalls = weights.new_zeros(3, n).long().unbind()
        self._best = weights.new_full((n,), torch.inf, dtype=torch.float64)
        self._active = torch.ones_like(self._best, dtype=torch.bool)

    def _loss(self, weights: Tensor) -> Tensor:
        # In double precision how many networks are multiplied together changes no decision. Other
        # modules than multilayer perceptrons may have buffers of one precision.
        rows = weights.double() if self._architecture.is_mlp else weights
        scores = score_networks(self._architecture, rows, self._held_out)
        return scores.get("nll", scores.get("mse")).double()
