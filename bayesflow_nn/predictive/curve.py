r"""How many networks an average needs, and how many trained networks it is worth.

.. math::
    L(n) = \mathbb{E}_{|S| = n} \Big[ -\frac{1}{N} \sum_{i=1}^N
        \log \frac{1}{n} \sum_{k \in S} p(y_i | x_i, \theta_k) \Big], \qquad
    \mathrm{DEE} = \min \{ n : L_{\mathrm{trained}}(n) \le L \}

L(n) is the loss expected of an average of n networks S, on N test inputs. It never rises with n,
since the logarithm is concave. The deep-ensemble equivalent of any other average, of loss L, is the
number of independently trained networks whose average is as good ([A20] section 4; there losses are
those at the best temperature, here those of the probabilities as they are).

A random permutation of all networks holds as many disjoint sets of n as fit. Their losses are
independent, and are averaged over several permutations: over draws of the networks that mean
scatters no more than the mean over the sets of one permutation does ([H63] section 5).

[A20] A. Ashukha, A. Lyzhov, D. Molchanov and D. Vetrov, Pitfalls of in-domain uncertainty
estimation and ensembling in deep learning, ICLR 2020, arXiv 2002.06470.
[H63] W. Hoeffding, Probability inequalities for sums of bounded random variables, JASA 58, 1963.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from bayesflow_nn.predictive.mixture import read_targets
from bayesflow_nn.predictive.tiles import CHUNK_SIZE, Tiles
from bayesflow_nn.weights import Architecture, Categorical, Likelihood
from bayesflow_nn.weights.likelihoods import resolve_likelihood
from bayesflow_nn.weights.random_state import RandomState, draw_seed, stream
from bayesflow_nn.weights.validation import check_integer, check_real

FLAT_TOLERANCE = 1e-3
"""Nats per input within which a curve counts as flat: probabilities within a factor of 1.001."""


@dataclass(frozen=True, eq=False)
class PredictiveCurve:
    """Test loss of averages of more and more networks.

    Attributes
    ----------
    sizes : ndarray of shape (n_sizes,)
        Networks in an average, ascending.
    nll : ndarray of shape (n_sizes,)
        Mean negative log likelihood of such an average, in nats per input.
    standard_error : ndarray of shape (n_sizes,)
        Of `nll` over draws of the networks, the test data being given: the standard deviation
        between disjoint sets, over the root of their number. Sets of different permutations share
        networks and do not count as more of them, so it is rather too large. NaN beyond half of the
        networks, where no two sets are disjoint and nothing tells what other networks would give.
        Errors of different sizes are correlated: all come from the same networks.
    """

    sizes: np.ndarray
    nll: np.ndarray
    standard_error: np.ndarray

    @property
    def flat_size(self) -> int:
        """Least size from which on `nll` stays within 0.001 nats of that at the largest size."""
        far = np.flatnonzero(np.abs(self.nll - self.nll[-1]) > FLAT_TOLERANCE)
        return int(self.sizes[far[-1] + 1 if len(far) else 0])

    def __str__(self) -> str:
        lines = [f"{'networks':>10}{'NLL':>11}{'std. error':>12}"]
        for size, nll, error in zip(self.sizes, self.nll, self.standard_error, strict=True):
            lines.append(f"{size:10d}{nll:11.4f}{'-' if np.isnan(error) else f'{error:.4f}':>12}")
        return "\n".join([*lines, f"flat to {FLAT_TOLERANCE} nats from {self.flat_size} networks"])


class Equivalent(NamedTuple):
    """A number of independently trained networks.

    Attributes
    ----------
    size : float
        The number; 0 if a single network is better already.
    is_bound : bool
        Whether it takes more than `size`, the most that were measured.
    """

    size: float
    is_bound: bool


def predictive_curve(
    architecture: Architecture,
    weights: ArrayLike | Tensor,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    likelihood: float | Likelihood | None = None,
    sizes: Sequence[int] | None = None,
    n_repeats: int = 10,
    buffers: Mapping[str, Tensor] | None = None,
    chunk_size: int = CHUNK_SIZE,
    random_state: RandomState = None,
) -> PredictiveCurve:
    """Test loss of an average of n networks, against n.

    Every network runs once on every input. Likelihoods are averaged in logs, so that the loss is
    finite where they underflow. Parameters and errors not listed here are those of `predict_proba`.

    Parameters
    ----------
    weights : array or Tensor of shape (n_networks, n_weights)
        One independent network per row; snapshots of one chain would make the errors too small.
    y : array or Tensor of shape (n_inputs,) or, for regression, (n_inputs, n_targets)
        Class indices 0, ..., n_classes - 1, or regression targets.
    likelihood : Likelihood, float or None
        None is ``Categorical()``; a float is the standard deviation of normal noise.
    sizes : sequence of int, optional
        Networks in an average, ascending. By default 1, 2, 5, 10, 20, ... and n_networks.
    n_repeats : int
        Permutations of the networks, the same for all sizes; each gives n_networks // n averages.
    chunk_size : int
        Network-input pairs evaluated at once, at least all networks on one input. The likelihoods
        of all n_networks x n_inputs pairs are never held together, only those of a chunk and, for
        every size n, n_repeats x n_networks / n losses.
    random_state : int, Generator, RandomState or None
        Of the permutations.

    Returns
    -------
    PredictiveCurve
        In float64.

    Raises
    ------
    ValueError
        If `y` does not fit `X`, the outputs or `likelihood`, or `sizes` are no ascending integers
        from 1 to n_networks, or `n_repeats` is no positive integer.

    Examples
    --------
    >>> linear = Architecture.mlp([1, 2], bias=False)
    >>> weights = [[5.0, -5.0], [-5.0, 5.0]]  # each is sure, and one of them is wrong
    >>> print(predictive_curve(linear, weights, [[1.0]], [0], random_state=0))
      networks        NLL  std. error
             1     5.0000      5.0000
             2     0.6931           -
    flat to 0.001 nats from 2 networks
    """
    likelihood = Categorical() if likelihood is None else likelihood
    likelihood = resolve_likelihood(getattr(likelihood, "task", "regression"), likelihood)
    tiles = Tiles(architecture, weights, X, buffers, chunk_size)
    targets = read_targets(y, tiles, likelihood)
    n_networks = len(tiles.weights)
    sizes = _default_sizes(n_networks) if sizes is None else _check_sizes(sizes, n_networks)
    orders = np.tile(np.arange(n_networks), (check_integer("n_repeats", n_repeats), 1))
    orders = stream(draw_seed(random_state)).permuted(orders, axis=1)
    orders = torch.as_tensor(orders, device=tiles.weights.device)
    losses = [tiles.zeros(len(orders), n_networks // n) for n in sizes]
    for inputs, outputs in tiles.over_all_networks():
        log_p = likelihood.log_prob(outputs, targets[inputs])
        for r, order in enumerate(orders):
            shuffled = log_p[order]
            for n, loss in zip(sizes, losses, strict=True):
                loss[r] -= _log_averages(shuffled, n).sum(1) / len(tiles.X)
    return PredictiveCurve(
        np.array(sizes),
        np.array([loss.mean().item() for loss in losses]),
        np.array([_standard_error(loss) for loss in losses]),
    )


def deep_ensemble_equivalent(nll: float, reference: PredictiveCurve) -> Equivalent:
    """Number of independently trained networks whose average has the same test loss.

    The reference curve is made monotone by isotonic regression, as its true values are, and is
    interpolated linearly in the logarithm of the size. Where it is flat, its errors decide: look at
    ``reference.standard_error`` before you trust a large number.

    Parameters
    ----------
    nll : float
        Mean negative log likelihood of any average on the same test data, in nats per input.
    reference : PredictiveCurve
        Of independently trained networks, from size 1 on.

    Returns
    -------
    Equivalent
        The least size, a real number. If no measured size is as good, the largest of them and
        ``is_bound=True``. If a single network is better than `nll`, 0, where [A20] says 1.

    Raises
    ------
    TypeError
        If `nll` is no number.
    ValueError
        If `nll` is not finite, or `reference` does not begin with a single network.

    Examples
    --------
    >>> trained = PredictiveCurve(np.array([1, 4, 16]), np.array([0.3, 0.2, 0.1]), np.zeros(3))
    >>> round(deep_ensemble_equivalent(0.15, trained).size, 9)
    8.0
    >>> deep_ensemble_equivalent(0.05, trained)
    Equivalent(size=16.0, is_bound=True)
    >>> deep_ensemble_equivalent(0.35, trained)
    Equivalent(size=0.0, is_bound=False)
    """
    nll = check_real("nll", nll, -np.inf, strict=True)
    if reference.sizes[0] != 1:
        raise ValueError(
            f"reference must begin with a single network, got sizes from {reference.sizes[0]} on; "
            f"pass sizes=[1, ...] to predictive_curve."
        )
    n = reference.sizes.astype(float)
    loss = IsotonicRegression(increasing=False).fit_transform(np.log(n), reference.nll)
    if nll > loss[0]:
        return Equivalent(0.0, is_bound=False)
    if nll < loss[-1]:
        return Equivalent(float(n[-1]), is_bound=True)
    k = int(np.argmax(loss <= nll))  # the first that is as good: loss[k - 1] > nll >= loss[k]
    if k == 0:
        return Equivalent(1.0, is_bound=False)
    w = (loss[k - 1] - nll) / (loss[k - 1] - loss[k])
    return Equivalent(float(n[k - 1] ** (1 - w) * n[k] ** w), is_bound=False)


def _default_sizes(n_networks: int) -> list[int]:
    digits = np.multiply.outer(10 ** np.arange(len(str(n_networks))), [1, 2, 5]).ravel().tolist()
    return [n for n in digits if n < n_networks] + [n_networks]


def _check_sizes(sizes: Sequence[int], n_networks: int) -> list[int]:
    values = np.asarray(sizes)
    if (
        values.ndim != 1
        or len(values) == 0
        or values.dtype.kind not in "iu"
        or (values[1:] <= values[:-1]).any()
        or not 1 <= values[0] <= values[-1] <= n_networks
    ):
        raise ValueError(
            f"sizes must be ascending integers from 1 to the number of networks, {n_networks}, got "
            f"{sizes}."
        )
    return values.tolist()


def _log_averages(log_p: Tensor, n: int) -> Tensor:
    """Log of the mean likelihood of every n rows in turn, ``(n_networks // n, n_inputs)``."""
    n_sets = len(log_p) // n
    return log_p[: n_sets * n].unflatten(0, (n_sets, n)).logsumexp(1) - np.log(n)


def _standard_error(losses: Tensor) -> float:
    """Of the mean over ``(n_repeats, n_sets)`` losses, of which those in a row are independent."""
    n_sets = losses.shape[1]
    return (losses.var(1).mean() / n_sets).sqrt().item() if n_sets > 1 else np.nan
