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

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity
from torch import Tensor

from bayesflow_nn.diversity.inputs import check_probabilities, check_same_inputs
from bayesflow_nn.weights.validation import check_real


def output_density_jsd(
    proba: ArrayLike | Tensor,
    reference: ArrayLike | Tensor | None = None,
    *,
    bandwidth: float = 0.1,
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

    Returns
    -------
    Tensor of shape (n_networks, n_references)
        Nats, float64.

    Raises
    ------
    ValueError
        If a shape is wrong, entries are no probabilities, or `bandwidth` is not positive.

    Examples
    --------
    Two networks that swap their answers have the same cloud.

    >>> output_density_jsd([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    tensor([[0., 0.],
            [0., 0.]], dtype=torch.float64)
    """
    bandwidth = check_real("bandwidth", bandwidth, 0, strict=True)
    p = check_probabilities("proba", proba)
    q = p if reference is None else check_probabilities("reference", reference)
    check_same_inputs(p, q)
    clouds_p, clouds_q = (x.double().numpy(force=True) for x in (p, q))
    log_p_at_q = _log_densities(clouds_p, clouds_q, bandwidth)
    if reference is None:
        log_q_at_p = log_p_at_q
        own_p = own_q = np.diagonal(log_p_at_q).T
    else:
        log_q_at_p = _log_densities(clouds_q, clouds_p, bandwidth)
        own_p, own_q = (
            np.stack([_log_densities(c[None], c[None], bandwidth)[0, 0] for c in clouds])
            for clouds in (clouds_p, clouds_q)
        )
    jsd = _half(own_p[:, None], log_q_at_p.swapaxes(0, 1)) + _half(own_q[None], log_p_at_q)
    # Rounding may leave equal clouds just below zero.
    return torch.as_tensor(jsd.clip(0), device=p.device)


def _log_densities(clouds: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """Log densities of every cloud at the points of every other, ``(n, m, n_inputs)``."""
    everywhere = points.reshape(-1, points.shape[-1])
    trees = (KernelDensity(bandwidth=bandwidth, rtol=1e-8).fit(cloud) for cloud in clouds)
    values = np.stack([tree.score_samples(everywhere) for tree in trees])
    return values.reshape(len(clouds), *points.shape[:2])


def _half(log_own: np.ndarray, log_other: np.ndarray) -> np.ndarray:
    """One of the two sums, over the last dimension."""
    log_own, log_other = np.broadcast_arrays(log_own, log_other)
    mixture = logsumexp([log_own, log_other], axis=0) - np.log(2)
    return (log_own - mixture).mean(-1) / 2
