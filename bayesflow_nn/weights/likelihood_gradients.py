"""Log likelihoods of many networks with their derivatives at the outputs, written into buffers.

Outputs are ``(n_networks, n_outputs, n_inputs)``, so that the few outputs do not run along vector
lanes. The likelihoods of classes and of predicted noise, those of the estimators, have derivatives
of their own; any other one is differentiated by autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesflow_nn.weights.likelihoods import Categorical, HeteroscedasticNormal, Likelihood


def write_log_likelihood(
    likelihood: Likelihood, z: Tensor, y: Tensor, w: Tensor | None, value: Tensor, out: Tensor
) -> None:
    """Write the log likelihood, summed over inputs, and its derivative.

    Parameters
    ----------
    likelihood : Likelihood
    z, out : Tensor of shape (n_networks, n_outputs, n_inputs)
        Outputs, and where the derivative goes; the latter is contiguous.
    y : Tensor of shape (n_inputs,) of labels, or (n_inputs, n_targets)
    w : Tensor of shape (n_inputs,) or None
        Factors of the log likelihoods of the inputs.
    value : Tensor of shape (n_networks,)
        Filled; nats.

    Examples
    --------
    >>> z, value = torch.zeros(1, 2, 1), torch.empty(1)
    >>> out = torch.empty_like(z)
    >>> write_log_likelihood(Categorical(), z, torch.tensor([0]), None, value, out)
    >>> value, out.flatten()
    (tensor([-0.6931]), tensor([ 0.5000, -0.5000]))
    """
    if isinstance(likelihood, Categorical):
        _write_categorical(z, y, w, value, out)
    elif isinstance(likelihood, HeteroscedasticNormal):
        _write_heteroscedastic(likelihood.min_scale, z, y, w, value, out)
    else:
        _differentiate(likelihood, z, y, w, value, out)


def sum_over_inputs(log_prob: Tensor, w: Tensor | None) -> Tensor:
    """Sum log likelihoods ``(..., n_inputs)`` with their weights ``(n_inputs,)``, if any."""
    return log_prob.sum(-1) if w is None else (log_prob * w).sum(-1)


def _write_categorical(z: Tensor, y: Tensor, w: Tensor | None, value: Tensor, out: Tensor) -> None:
    """Sum of ``w log softmax(z)_y`` over inputs, and its derivative ``w (1_y - p)``."""
    one_hot = z.new_zeros(z.shape[1:]).scatter_(0, y[None], 1)
    weighted = one_hot if w is None else one_hot * w
    value.copy_(torch.log_softmax(z, 1).flatten(1) @ weighted.flatten())
    torch.softmax(z, 1, out=out)
    torch.sub(one_hot, out, out=out)
    if w is not None:
        out.mul_(w)


def _write_heteroscedastic(
    min_scale: float, z: Tensor, y: Tensor, w: Tensor | None, value: Tensor, out: Tensor
) -> None:
    r"""With s = s_min + e^g, r = (y - f) / s: the derivatives r / s and (r^2 - 1) e^g / s."""
    mean, log_scale = z.chunk(2, 1)
    by_mean, by_log_scale = out.chunk(2, 1)
    noise = log_scale.exp()
    scale = noise + min_scale
    r = (y.mT - mean).div_(scale)
    square = r.square()
    torch.div(r, scale, out=by_mean)
    torch.mul(square - 1, noise.div_(scale), out=by_log_scale)
    log_prob = square.add_(math.log(2 * math.pi)).mul_(-0.5).sub_(scale.log_())
    value.copy_(sum_over_inputs(log_prob.sum(1), w))
    if w is not None:
        out.mul_(w)


def _differentiate(
    likelihood: Likelihood, z: Tensor, y: Tensor, w: Tensor | None, value: Tensor, out: Tensor
) -> None:
    def total(outputs: Tensor) -> tuple[Tensor, Tensor]:
        per_network = sum_over_inputs(likelihood.log_prob(outputs.mT, y), w)
        return per_network.sum(), per_network

    derivative, per_network = torch.func.grad(total, has_aux=True)(z)
    out.copy_(derivative)
    value.copy_(per_network)
