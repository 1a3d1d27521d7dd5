"""Generated networks beside trained ones and beside generators that have learned nothing.

Every row of the table scores a set of networks on the same test data and against the same chains
that the flow never saw.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from bayesflow_nn.calibration import expected_calibration_error, negative_log_likelihood
from bayesflow_nn.demonstration.problems import Data
from bayesflow_nn.diversity import (
    NoveltyReport,
    gaussian_baseline,
    noise_baseline,
    novelty_report,
    spread,
)
from bayesflow_nn.posterior import FlowPosterior
from bayesflow_nn.predictive import network_scores, predict_proba
from bayesflow_nn.weights import WeightPopulation

N_GENERATED = 100  # of one average, of baselines and of colder flows
N_JUDGED = 1000  # at temperature 1: standard errors are a third of those of 100
_LARGEST_TAU = 2.0


@dataclass(frozen=True)
class Row:
    """One line of the table; None where a column does not apply."""

    name: str
    accuracy: float
    nll: float
    ece: float
    novelty: float | None = None
    dispersion: float | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        cells = [
            (self.accuracy, 4),
            (self.nll, 4),
            (self.ece, 4),
            (self.novelty, 2),
            (self.dispersion, 2),
            (self.seconds, 1),
        ]
        texts = ["-" if value is None else f"{value:.{digits}f}" for value, digits in cells]
        return f"{self.name:<34}" + "".join(f"{text:>11}" for text in texts)


COLUMNS = ("accuracy", "NLL", "ECE", "novelty", "dispersion", "seconds")
HEADER = " " * 34 + "".join(f"{column:>11}" for column in COLUMNS)
LEGEND = f"""\
NLL in nats and ECE on the test data: of a network alone (mean over networks), or of the average
of their probabilities. Against trained networks that the flow never saw: novelty, the distance to
the nearest training network (0 copies, 1 new), and dispersion, the distance to the set's own mean
(0 collapsed, 1 as spread out). Seconds to train, or to generate {N_GENERATED}. T: temperature of
the source noise; where a generated row names none it is 1, and the row is a mean over {N_JUDGED}
networks or {N_JUDGED // N_GENERATED} averages, others are of {N_GENERATED}. A flow that has learned
more than second moments beats the Gaussian of equal dispersion."""


class Comparison:
    """Scores any set of networks against the same test data and the same held-out chains.

    Parameters
    ----------
    data : Data
    train, held_out : WeightPopulation
        Chains that the flow learned from, and chains that it never saw.
    posterior : FlowPosterior
        Fitted to `train`.
    """

    def __init__(
        self,
        data: Data,
        train: WeightPopulation,
        held_out: WeightPopulation,
        posterior: FlowPosterior,
    ) -> None:
        self.data, self.posterior = data, posterior
        self.train, self.held_out = train, held_out
        self.generated: dict[float, Tensor] = {}

    def network_row(self, name: str, weights: Tensor, seconds: float | None = None) -> Row:
        """Means over networks taken alone."""
        architecture, X, y = self.train.architecture, self.data.X_test, self.data.y_test
        scores = network_scores(architecture, weights, X, y)
        proba = architecture.apply(weights, X).softmax(-1)
        ece = np.mean([expected_calibration_error(p, y) for p in proba])
        report = self._novelty(weights)
        accuracy, nll = scores.accuracy.mean().item(), scores.nll.mean().item()
        return Row(name, accuracy, nll, ece, report.novelty, report.dispersion, seconds)

    def average_row(
        self, name: str, weights: Tensor, seconds: float | None = None, size: int | None = None
    ) -> Row:
        """The average of the networks' probabilities, or the means over averages of `size` each."""
        X, y = self.data.X_test, self.data.y_test
        scores = []
        for part in weights.split(size or len(weights)):
            proba = predict_proba(self.train.architecture, part, X)
            accuracy = (proba.argmax(-1) == y).double().mean().item()
            nll, ece = negative_log_likelihood(proba, y), expected_calibration_error(proba, y)
            scores.append((accuracy, nll, ece))
        return Row(name, *np.mean(scores, axis=0), seconds=seconds)

    def trained_rows(self, seconds: float) -> list[Row]:
        """Held-out trained networks, and the deep ensemble of all training networks."""
        return [
            self.network_row("held-out trained network", self.held_out.weights),
            self.average_row(f"deep ensemble of {len(self.train)}", self.train.weights, seconds),
        ]

    def flow_rows(self, temperature: float) -> list[Row]:
        """Generated networks, their model average, and the Gaussian of equal dispersion."""
        n_networks = N_JUDGED if temperature == 1 else N_GENERATED
        start = time.perf_counter()
        weights = torch.as_tensor(
            self.posterior.sample(n_networks, random_state=1, temperature=temperature)
        )
        seconds = (time.perf_counter() - start) * N_GENERATED / n_networks
        self.generated[temperature] = weights
        label = "" if temperature == 1 else f", T = {temperature:g}"
        alone = self.network_row(f"generated network{label}", weights, seconds)
        average = self.average_row(
            f"average of {N_GENERATED} generated{label}", weights, seconds, N_GENERATED
        )
        return [alone, average, self.matched_gaussian_row(alone.dispersion)]

    def gaussian_row(self, tau: float) -> Row:
        """Networks of the tempered Gaussian: mean + tau x Gaussian fit."""
        start = time.perf_counter()
        weights = self._tempered(tau)
        seconds = time.perf_counter() - start
        return self.network_row(f"tempered Gaussian, tau {tau:.2f}", weights, seconds)

    def matched_gaussian_row(self, dispersion: float) -> Row:
        """Networks of the tempered Gaussian that are as spread out."""
        return self.gaussian_row(self._tau_of(dispersion))

    def noise_row(self) -> Row:
        """Training networks with as much noise as puts them as far away as generated networks."""
        distance = self._novelty(self.generated[1.0]).generated_distance.mean().item()
        start = time.perf_counter()
        points = noise_baseline(
            self._training_points,
            N_GENERATED,
            nearest_distance=distance,
            generator=torch.Generator().manual_seed(0),
        )
        weights = self._to_weights(points / self.posterior.unit_scale_)
        return self.network_row("training network + noise", weights, time.perf_counter() - start)

    def _tempered(self, tau: float) -> Tensor:
        # The same draws for every tau.
        generator, points = torch.Generator().manual_seed(0), self.posterior.training_points_
        return self._to_weights(
            gaussian_baseline(points, N_GENERATED, tau=tau, generator=generator)
        )

    def _tau_of(self, dispersion: float) -> float:
        """Temperature of the Gaussian of this dispersion: not the same on spheres, which bend."""
        target = dispersion * spread(self._held_out_points).mean().item()

        def excess(tau: float) -> float:
            return spread(self._to_points(self._tempered(tau))).mean().item() - target

        return (
            _LARGEST_TAU if excess(_LARGEST_TAU) < 0 else brentq(excess, 0, _LARGEST_TAU, xtol=1e-3)
        )

    def _novelty(self, weights: Tensor) -> NoveltyReport:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table itself shows what shrinks
            return novelty_report(
                self._to_points(weights), self._training_points, self._held_out_points
            )

    @cached_property
    def _training_points(self) -> Tensor:
        return self.posterior.training_points_ * self.posterior.unit_scale_

    @cached_property
    def _held_out_points(self) -> Tensor:
        return self._to_points(self.held_out.weights)

    def _to_points(self, weights: Tensor) -> Tensor:
        return self.posterior.to_points(weights) * self.posterior.unit_scale_

    def _to_weights(self, points: Tensor) -> Tensor:
        chart = self.posterior.chart_
        return chart.to_weights(chart.project(points.float()))
