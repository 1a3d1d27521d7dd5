r"""Diversity of output distributions: the Jensen-Shannon divergence of [E25] eq. 7.1 and 7.2.

A network maps K inputs to a cloud of output vectors, A, whose kernel density is p_A. With the
expectation under p_A taken over the cloud itself,

.. math::
    \mathrm{JSD}(A, B) = \frac{1}{2 K} \sum_{x \in A} \log \frac{2 p_A(x)}{p_A(x) + p_B(x)}
        + \frac{1}{2 K} \sum_{x \in B} \log \frac{2 p_B(x)}{p_A(x) + p_B(x)}    \text{ (nats)}.

Eq. 7.2 weighs every point by p_A(x), as for a discrete distribution; a point that was drawn from
p_A counts once here, so that the sum estimates the divergence of the two densities, between 0 and
log 2. It compares clouds: two networks that give the same outputs to different inputs count as
equal. :func:`bayesflow_nn.diversity.pairwise_jsd` compares input by input.
"""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_probabilities, check_same_inputs
from bayesflow_nn.weights.validation import check_integer, check_real


def output_density_jsd(
    proba: ArrayLike | Tensor,
    reference: ArrayLike | Tensor | None = None,
    *,
    bandwidth: float = 0.1,
    chunk_size: int = 16,
) -> Tensor:
    """Jensen-Shannon divergence between the output clouds of every two networks.

    The mean of all entries, for a set against itself, is the diversity of [E25] eq. 7.1.

    Parameters
    ----------
    proba : array or Tensor of shape (n_networks, n_inputs, n_classes)
        Class probabilities of each network.
    reference : array or Tensor of shape (n_references, n_inputs, n_classes), optional
        Networks to compare with; `proba` itself by default.
    bandwidth : float
        Standard deviation of the Gaussian kernels, in probabilities. The divergence falls as it
        grows: compare only values of one bandwidth.
    chunk_size : int
        Output vectors whose densities are computed at once, which bounds the memory beyond the
        result's ``n_networks * n_references * n_inputs`` log densities: ``chunk_size * n_inputs``
        kernels for every network. Time grows with the square of ``n_networks * n_inputs``.

    Returns
    -------
    Tensor of shape (n_networks, n_references)
        Nats, float64.

    Raises
    ------
    ValueError
        If a shape is wrong, entries are no probabilities, `bandwidth` is not positive, or
        `chunk_size` is no positive integer.

    Examples
    --------
    Two networks that swap their answers have the same cloud.

    >>> output_density_jsd([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    tensor([[0., 0.],
            [0., 0.]], dtype=torch.float64)
    """
    bandwidth = check_real("bandwidth", bandwidth, 0, strict=True)
    chunk_size = check_integer("chunk_size", chunk_size)
    p = check_probabilities("proba", proba)
    q = p if reference is None else check_probabilities("reference", reference)
    check_same_inputs(p, q)
    p, q = p.double() / bandwidth, q.double() / bandwidth
    log_p_at_q = _log_densities(p, q, chunk_size)
    if reference is None:
        log_q_at_p = log_p_at_q
        own_p = own_q = log_p_at_q.diagonal().T
    else:
        log_q_at_p = _log_densities(q, p, chunk_size)
        own_p, own_q = (
            torch.cat([_log_densities(cloud[None], cloud[None], chunk_size)[0] for cloud in clouds])
            for clouds in (p, q)
        )
    jsd = _half(own_p[:, None], log_q_at_p.swapaxes(0, 1)) + _half(own_q, log_p_at_q)
    # Rounding may leave equal clouds just below zero.
    return jsd.clamp_min(0)


def _log_densities(clouds: Tensor, points: Tensor, chunk_size: int) -> Tensor:
    """Log densities of every cloud at the points of every other, ``(n, m, n_inputs)``.

    In units of the bandwidth, and up to a constant that all share and the divergence does not see.
    """
    squares = clouds.square().sum(-1)[:, None] / 2
    # |x - y|² / 2 = |x|² / 2 + |y|² / 2 - x·y: one matrix product per chunk of points y.
    values = [
        torch.baddbmm(-squares, y.expand(len(clouds), -1, -1), clouds.mT).logsumexp(-1)
        - y.square().sum(-1) / 2
        for y in points.flatten(0, 1).split(chunk_size)
    ]
    return torch.cat(values, 1).view(len(clouds), *points.shape[:2])


def _half(log_own: Tensor, log_other: Tensor) -> Tensor:
    """One of the two sums, over the last dimension."""
    log_mixture = torch.logaddexp(log_own, log_other) - math.log(2)
    return (log_own - log_mixture).mean(-1) / 2
