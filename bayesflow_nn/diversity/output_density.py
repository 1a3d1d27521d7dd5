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
        result's ``n_networks * n_references * n_inputs`` densities: ``chunk_size * n_inputs``
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
    p, q = _lift(p.double() / bandwidth), _lift(q.double() / bandwidth)
    if reference is None:
        p_at_q = q_at_p = _own_densities(p, chunk_size)
        own_p = own_q = p_at_q.diagonal().T
    else:
        p_at_q, q_at_p = _cross_densities(p, q, chunk_size)
        own_p, own_q = (
            torch.cat([_own_densities(cloud[None], chunk_size)[0] for cloud in clouds])
            for clouds in (p, q)
        )
    jsd = _half(own_p[:, None], q_at_p.swapaxes(0, 1)) + _half(own_q, p_at_q)
    # Rounding may leave equal clouds just below zero.
    return jsd.clamp_min(0)


def _own_densities(clouds: Tensor, chunk_size: int) -> Tensor:
    """Densities of every cloud at the points of every other, ``(n, n, n_inputs)``."""
    n, n_inputs, _ = clouds.shape
    densities = clouds.new_zeros(n, n, n_inputs)
    for index, cloud in enumerate(clouds):
        for rows in torch.arange(n_inputs).split(chunk_size):
            kernels = _kernels(clouds[index:], cloud[rows])
            densities[index, index:] += kernels.sum(1)
            densities[index + 1 :, index, rows] = kernels[1:].sum(-1)
    return densities


def _cross_densities(p: Tensor, q: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Densities of every p at the points of every q, ``(n, m, n_inputs)``, and of q at those of p.

    A kernel serves both.
    """
    n, m, n_inputs = len(p), *q.shape[:2]
    p_at_q, q_at_p = p.new_empty(n, m, n_inputs), p.new_zeros(m, n, n_inputs)
    for index, cloud in enumerate(q):
        for rows in torch.arange(n_inputs).split(chunk_size):
            kernels = _kernels(p, cloud[rows])
            p_at_q[:, index, rows] = kernels.sum(-1)
            q_at_p[index] += kernels.sum(1)
    return p_at_q, q_at_p


def _lift(x: Tensor) -> Tensor:
    """Append 1 and -|x|² / 2: with two entries swapped, a product is the exponent of a kernel."""
    return torch.cat([x, torch.ones_like(x[..., :1]), x.square().sum(-1, keepdim=True) / -2], -1)


def _kernels(clouds: Tensor, points: Tensor) -> Tensor:
    """Kernels between points and every point of every cloud, ``(n, n_points, n_inputs)``.

    Of height one: the divergence sees no common factor. A cloud has a density of at least one at
    its own points, so that kernels of another that underflow there change nothing.
    """
    swapped = torch.cat([points[:, :-2], points[:, -1:], points[:, -2:-1]], -1)
    # x·y - |x|² / 2 - |y|² / 2 = -|x - y|² / 2
    return (swapped @ clouds.mT).exp_()


def _half(own: Tensor, other: Tensor) -> Tensor:
    """One of the two sums, over the last dimension."""
    return (2 * own / (own + other)).log().mean(-1) / 2
