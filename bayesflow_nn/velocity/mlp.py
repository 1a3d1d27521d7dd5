r"""Velocity from a residual multilayer perceptron on the flat vector ([DWF] 4.1).

The prediction is the affine posterior mean plus a learned residual in units of the posterior's
standard deviation,

.. math::
    \hat x_1(t, x) = \hat\mu_t(x) + \bar s_t \, f_\phi(t, x),

so that the network starts from the best affine answer and vanishes where nothing is uncertain.
"""

import torch
from torch import Tensor, nn

from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.problem import VelocityProblem


class MLPVelocity(nn.Module):
    """Affine denoiser and a residual multilayer perceptron.

    Parameters
    ----------
    problem : VelocityProblem
    hidden_size : int
        Width of the residual stream.
    n_blocks : int
        Number of residual blocks.
    dropout : float
        Fraction of hidden units dropped in training.

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
        hidden_size: int = 512,
        n_blocks: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        n_coordinates = len(problem.scale)
        self.denoiser = problem.make_denoiser()
        self.n_condition_features = problem.n_condition_features
        self.read_in = nn.Linear(2 * n_coordinates, hidden_size)
        self.blocks = nn.ModuleList(
            _Block(hidden_size, problem.n_features, dropout) for _ in range(n_blocks)
        )
        self.read_out = nn.Linear(hidden_size, n_coordinates)
        initialise(self, problem.generator)
        nn.init.zeros_(self.read_out.weight)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target, ``(n, n_coordinates)``."""
        affine = self.denoiser(t, x, condition)
        features = all_features(t, condition, self.n_condition_features)
        hidden = self.read_in(torch.cat([x, affine.mean], dim=1))
        for block in self.blocks:
            hidden = block(hidden, features)
        return affine.mean + affine.variance.sqrt() * self.read_out(hidden)


class _Block(nn.Module):
    """Pre-normalised residual block whose hidden units are shifted by time and condition."""

    def __init__(self, width: int, n_features: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.shift = nn.Linear(n_features, width)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(width, width)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        inner = nn.functional.silu(self.expand(self.norm(hidden)) + self.shift(features))
        return hidden + self.contract(self.dropout(inner))


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-normal weights and zero biases for all dense layers, from one generator."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
