r"""Likelihoods of targets that are known as a distribution, for example as networks predict them.

With a distribution q of the target and a count c of equal inputs, in nats:

.. math::
    c \, E_{y \sim q}[\log p(y | f)] =
    \begin{cases}
        \sum_k c \, q_k \log \mathrm{softmax}(f)_k & \text{classes} \\
        -c \sum_j \frac{(m_j - f_j)^2 + v_j}{2 \sigma_j^2} + \log \sigma_j + \tfrac12 \log 2 \pi
            & \text{normal targets}
    \end{cases}

where q has the probabilities :math:`q_k`, or the means :math:`m_j` and variances :math:`v_j`. Where
q is what the best generalised linear model predicts, this is the log likelihood of the data it was
fitted to, up to a constant: their scores at the optimum are zero, and the rest of the log
likelihood holds no target. Of other models it has the same gradient and Gauss-Newton curvature at
the optimum. So it stands for data that are gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesflow_nn.weights.likelihoods import HeteroscedasticNormal, Normal

_LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class SoftCategorical:
    """Labels that are known as probabilities; a target is the row c q ``(n_classes,)``.

    Examples
    --------
    >>> likelihood = SoftCategorical()
    >>> likelihood.log_prob(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))  # log of 1/2
    tensor([-0.6931])
    """

    task = "classification"

    def n_outputs(self, n_targets: int) -> int:
        """One logit per class."""
        return n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Expected log probability ``(..., n_inputs)``, times the count, in nats."""
        return (y * outputs.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class SoftNormal:
    """Normal targets that are known as means and variances.

    Parameters
    ----------
    likelihood : Normal or HeteroscedasticNormal
        The law of targets that are known.

    Examples
    --------
    >>> y = soft_normal_targets(torch.tensor([[3.0]]), torch.tensor([[0.0]]), count=2.0)
    >>> SoftNormal(Normal(1.0)).log_prob(torch.tensor([[3.0]]), y)  # -2 log sqrt(2 pi)
    tensor([-1.8379])
    """

    likelihood: Normal | HeteroscedasticNormal

    task = "regression"

    def n_outputs(self, n_targets: int) -> int:
        """Those of the likelihood, for rows of `soft_normal_targets`."""
        return self.likelihood.n_outputs((n_targets - 1) // 2)

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Expected log density ``(..., n_inputs)``, times the count, in nats."""
        mean, variance = self.likelihood.moments(outputs)
        count, (target, spread) = y[..., 0], y[..., 1:].chunk(2, -1)
        square = ((target - mean).square() + spread) / variance
        return -0.5 * count * (square + variance.log() + _LOG_2_PI).sum(-1)


def soft_normal_targets(mean: Tensor, variance: Tensor, count: float) -> Tensor:
    """Rows ``(n_inputs, 1 + 2 * n_targets)`` of counts, means and variances.

    Parameters
    ----------
    mean, variance : Tensor of shape (n_inputs, n_targets)
    count : float
        Data that every input stands for.
    """
    return torch.cat([torch.full_like(mean[:, :1], count), mean, variance], 1)
