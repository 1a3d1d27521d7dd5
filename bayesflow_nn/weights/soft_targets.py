r"""Likelihoods of targets that are known as a distribution, for example as networks predict them.

With a distribution q of the target, in nats:

.. math::
    E_{y \sim q}[\log p(y | f)] =
    \begin{cases}
        \sum_k q_k \log \mathrm{softmax}(f)_k & \text{classes} \\
        -\sum_j \frac{(m_j - f_j)^2 + v_j}{2 \sigma_j^2} + \log \sigma_j + \tfrac12 \log 2 \pi
            & \text{normal targets}
    \end{cases}

where q has the probabilities :math:`q_k`, or the means :math:`m_j` and variances :math:`v_j`. Where
q is what the best generalised linear model predicts, this is the log likelihood of the data it was
fitted to, up to a constant: their scores at the optimum are zero, and the rest of the log
likelihood holds no target. Of other models it has the same gradient and Gauss-Newton curvature at
the optimum. So it stands for data that are gone; how many, the weight of the input says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from bayesflow_nn.weights.likelihoods import HeteroscedasticNormal, Normal

_LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class SoftCategorical:
    """Labels that are known as probabilities; a target is the row q ``(n_classes,)``.

    Examples
    --------
    >>> import torch
    >>> likelihood = SoftCategorical()
    >>> likelihood.log_prob(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))  # log of 1/2
    tensor([-0.6931])
    """

    task = "classification"

    def n_outputs(self, n_targets: int) -> int:
        """One logit per class."""
        return n_targets

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Expected log probability ``(..., n_inputs)``, in nats."""
        return (y * outputs.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class SoftNormal:
    """Normal targets that are known as means and variances; a target is the row of both.

    Parameters
    ----------
    likelihood : Normal or HeteroscedasticNormal
        The law of targets that are known.

    Examples
    --------
    >>> import torch
    >>> y = torch.tensor([[3.0, 1.0]])
    >>> SoftNormal(Normal(1.0)).log_prob(torch.tensor([[3.0]]), y)  # -1/2 - log sqrt(2 pi)
    tensor([-1.4189])
    """

    likelihood: Normal | HeteroscedasticNormal

    task = "regression"

    def n_outputs(self, n_targets: int) -> int:
        """Those of the likelihood, for rows of means and variances."""
        return self.likelihood.n_outputs(n_targets // 2)

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Expected log density ``(..., n_inputs)``, in nats."""
        mean, variance = self.likelihood.moments(outputs)
        target, spread = y.chunk(2, -1)
        square = ((target - mean).square() + spread) / variance
        return -0.5 * (square + variance.log() + _LOG_2_PI).sum(-1)
