"""What chains learn about their target while they are tuned.

Step sizes from acceptance probabilities (`DualAveraging`) or from energy errors (`StepSizes`), the
scales of weights (`RunningMoments`), and over how many steps they are correlated.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHORTEST_MEMORY = 50  # steps that the tuning of step sizes by energy errors remembers


class DualAveraging:
    r"""Step sizes that make mean acceptance probabilities meet a target, one per chain.

    With :math:`H_t` the target minus the acceptance probability of step t (equation 6 of Hoffman &
    Gelman 2014, and their constants :math:`t_0, \kappa`):

    .. math::
        \bar H_t = (1 - \tfrac1{t + t_0}) \bar H_{t-1} + \tfrac1{t + t_0} H_t, \\
        \log \epsilon_t = \mu - \tfrac{\sqrt t}\gamma \bar H_t, \\
        \log \bar\epsilon_t =
            t^{-\kappa} \log \epsilon_t + (1 - t^{-\kappa}) \log \bar\epsilon_{t-1}

    Parameters
    ----------
    step_size : Tensor of shape (n_chains,)
        First guess.
    target_acceptance : float

    Attributes
    ----------
    step_size, averaged_step_size : Tensor of shape (n_chains,)
        To try next, and to keep in the end.
    """

    # Twice the gamma of the paper: the sizes tried scatter less, and after the short last window
    # acceptance is .74 to .76, not .81 to .86, for a target of .7 (50 and 100 normal weights).
    _GAMMA, _T_0, _KAPPA = 0.1, 10.0, 0.75

    def __init__(self, step_size: Tensor, target_acceptance: float) -> None:
        self.step_size = self.averaged_step_size = step_size
        self._target_acceptance = target_acceptance
        self._mu = (10 * step_size).log()
        self._H = torch.zeros_like(step_size)
        self._log_average = torch.zeros_like(step_size)
        self._t = 0

    def update(self, acceptance: Tensor) -> None:
        """Learn from the acceptance probabilities ``(n_chains,)`` of one step."""
        self._t += 1
        t = self._t
        self._H = torch.lerp(self._H, self._target_acceptance - acceptance, 1 / (t + self._T_0))
        log_step = self._mu - t**0.5 / self._GAMMA * self._H
        self._log_average = torch.lerp(self._log_average, log_step, t**-self._KAPPA)
        self.step_size, self.averaged_step_size = log_step.exp(), self._log_average.exp()


class StepSizes:
    r"""Step sizes that make the variance of the energy error meet a target, one per chain.

    The integrators are of second order, so one step has the error :math:`c \epsilon^3`, and every
    step measures :math:`c^2 = \Delta E^2 / \epsilon^6`. Their weighted mean over about the last
    half of the steps gives the size at which the variance is as wanted: Bayesian networks have
    rare, large errors, which a short memory would miss. Steps far from the target count less, since
    the power law need not hold there. A failed step makes the size smaller, and sets a bound that
    it stays below.

    Parameters
    ----------
    step_size : Tensor of shape (n_chains,)
        First guess.
    variance : float
        Variance of the energy error to reach, in nats squared.
    """

    def __init__(self, step_size: Tensor, variance: float) -> None:
        self.step_size = step_size
        self._variance = variance
        self._n_steps = 0
        self._sum = torch.zeros_like(step_size)
        self._weight = torch.zeros_like(step_size)
        self._bound = torch.full_like(step_size, torch.inf)

    def update(self, energy_error: Tensor, failed: Tensor) -> None:
        """Learn from the energy errors ``(n_chains,)`` of one step."""
        ratio = torch.where(failed, 1.0, energy_error).square() / self._variance
        # The logarithm of a squared normal number scatters by 2.2: the weight is wider than that.
        weight = torch.exp(-(ratio.clamp(min=1e-12).log() / 8).square() / 2)
        weight = torch.where(failed, 0.0, weight)
        self._n_steps += 1
        decay = 1 - 1 / max(_SHORTEST_MEMORY, self._n_steps / 2)
        self._sum = decay * self._sum + weight * ratio / self.step_size**6
        self._weight = decay * self._weight + weight
        self._bound = torch.where(failed, 0.8 * self.step_size, self._bound)
        wanted = (self._sum / self._weight) ** (-1 / 6)
        wanted = torch.where(wanted.isfinite(), wanted, self.step_size)
        # Growth is bounded, since the first steps may start where the target is flat.
        self.step_size = wanted.minimum(1.5 * self.step_size).minimum(self._bound)


class RunningMoments:
    """Mean and variance of every weight of every chain over time (Welford's update).

    Parameters
    ----------
    like : Tensor of shape (n_chains, n_weights)
    """

    def __init__(self, like: Tensor) -> None:
        self._n = 0
        self._mean = torch.zeros_like(like)
        self._sum_of_squares = torch.zeros_like(like)

    def update(self, weights: Tensor) -> None:
        """Take one more position of every chain."""
        self._n += 1
        difference = weights - self._mean
        self._mean = self._mean + difference / self._n
        self._sum_of_squares = self._sum_of_squares + difference * (weights - self._mean)

    def pool(self) -> RunningMoments:
        """Moments of one chain that has been wherever one of these has."""
        pooled = RunningMoments(self._mean[:1])
        pooled._n = self._n * len(self._mean)
        pooled._mean = self._mean.mean(0, keepdim=True)
        between = self._n * (self._mean - pooled._mean).square()
        pooled._sum_of_squares = (self._sum_of_squares + between).sum(0, keepdim=True)
        return pooled

    def variance(self) -> Tensor:
        """Variance ``(n_chains, n_weights)``; zero after fewer than two positions."""
        return self._sum_of_squares / max(1, self._n - 1)

    def shrunken_variance(self) -> Tensor:
        """Variance, drawn a little towards the geometric mean over the weights of the chain.

        A chain that stood still has no variance to learn from, and gets ones.
        """
        variance = self.variance()
        log = variance.clamp(min=torch.finfo(variance.dtype).tiny).log()
        shrunken = torch.lerp(log, log.mean(1, keepdim=True), 5 / (self._n + 5)).exp()
        moved = (variance > 0).all(1, keepdim=True)
        return torch.where(moved, shrunken, torch.ones_like(shrunken))


def correlation_time(series: Tensor) -> Tensor:
    r"""Integrated autocorrelation time :math:`1 + 2 \sum_t \rho_t`, in steps.

    The sum ends before the first pair of lags :math:`\rho_{2k} + \rho_{2k+1}` that is not positive
    (Geyer 1992). A constant series has time 1.

    Parameters
    ----------
    series : Tensor of shape (n_chains, n_steps, n_columns)

    Returns
    -------
    Tensor of shape (n_chains, n_columns)
    """
    n_steps = series.shape[1]
    centred = series - series.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, 2 * n_steps, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, 2 * n_steps, dim=1)[:, :n_steps]
    rho = covariance / covariance[:, :1].clamp(min=torch.finfo(series.dtype).tiny)
    pairs = rho[:, : n_steps // 2 * 2].unflatten(1, (-1, 2)).sum(2)
    positive = (pairs > 0).cumprod(1)
    return (2 * (pairs * positive).sum(1) - 1).clamp(min=1)
