"""Whether a posterior learned its networks, copied them or shrank, and how its samples differ."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from bayesflow_nn.diversity import (
    DiversityReport,
    NetworkSet,
    NoveltyReport,
    diversity_report,
    nearest_neighbours,
    noise_baseline,
    novelty_report,
)
from bayesflow_nn.posterior_input import Weights, predicts
from bayesflow_nn.predictive import network_proba
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.training_data import spread_rows
from bayesflow_nn.weights.validation import check_integer


class DiversityMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that judges its samples."""

    def novelty(
        self,
        held_out: Weights | None = None,
        *,
        generated: Weights | None = None,
        n_samples: int = 200,
        n_densities: int = 0,
        random_state: RandomState = None,
    ) -> NoveltyReport:
        """Compare samples with training and held-out networks: did the flow learn, copy or shrink.

        Parameters
        ----------
        held_out : WeightPopulation or array of shape (n_networks, n_weights), optional
            Networks the flow has not seen. By default the validation chains.
        generated : array of shape (n_networks, n_weights), optional
            Networks to judge, of any generator. By default fresh samples.
        n_samples : int
            Networks to draw if `generated` is not given.
        n_densities : int
            Networks of either kind, training and held out, whose log densities are compared; 0
            leaves the gap out. A density costs as much as dozens of samples.
        random_state : int, RandomState or None

        Returns
        -------
        NoveltyReport
            Distances are Euclidean between `to_points` of the networks, with every sphere in R^d
            scaled to radius sqrt(d), so that all coordinates have about unit variance.

        Raises
        ------
        ValueError
            If there are not at least two held-out networks.
        """
        check_is_fitted(self)
        n_held_out = 0 if self.held_out_points_ is None else len(self.held_out_points_)
        if held_out is None and n_held_out < 2:
            raise ValueError(
                f"held_out must be given: the fit held out {n_held_out} networks, and dispersion "
                f"needs at least 2; or raise validation_fraction."
            )
        if generated is None:
            generated = torch.as_tensor(self.sample(n_samples, random_state=random_state))
        unseen = self.held_out_points_ if held_out is None else self.to_points(held_out)
        sets = (self.to_points(generated), self.training_points_, unseen)
        report = novelty_report(*(points * self.unit_scale_ for points in sets))
        if not check_integer("n_densities", n_densities, low=0):
            return report
        gap = self._mean_log_density(sets[1], n_densities)
        gap -= self._mean_log_density(sets[2], n_densities)
        return dataclasses.replace(report, log_density_gap=gap)

    @available_if(predicts("classification"))
    def diversity(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        held_out: Weights | None = None,
        generated: Weights | None = None,
        n_samples: int = 100,
        random_state: RandomState = None,
    ) -> DiversityReport:
        """Compare training, held-out, generated and noise-perturbed networks side by side.

        Parameters
        ----------
        X : array of shape (n_inputs, ...)
            Inputs on which predictions are compared; test data.
        y : array of shape (n_inputs,), optional
            Labels, for what is about errors.
        held_out, generated : WeightPopulation or array of shape (n_networks, n_weights), optional
            As in `novelty`. Without held-out networks their column is left out.
        n_samples : int
            Networks to draw, and the most of other sets in measures of pairs, thinned evenly.
            Nearest networks and overlaps of errors are sought among all training networks, whose
            predictions take ``n_networks * n_inputs * n_classes`` numbers of memory.
        random_state : int, RandomState or None

        Returns
        -------
        DiversityReport
            Of the sets "training", "held out", "generated" and "noise", training networks with
            noise that puts them as far from the nearest training network as generated ones are.
            Distances are those of `novelty`.
        """
        check_is_fitted(self)
        n = check_integer("n_samples", n_samples, low=2)
        seed = draw_seed(random_state)
        if generated is None:
            generated = torch.as_tensor(self.sample(n, random_state=seed))
        unseen = self.held_out_points_ if held_out is None else self.to_points(held_out)
        points = {
            "training": self.training_points_,
            "held out": unseen,
            "generated": self.to_points(generated).to(self.training_points_),
        }
        # Training networks stay whole: a copy of one that was left out would look new.
        sets = {
            name: x if name == "training" else spread_rows(x, n)
            for name, x in points.items()
            if x is not None and len(x) > 1
        }
        sets["noise"] = self._perturbed(sets["generated"], seed)
        inputs = np.asarray(X, np.float32)
        scaled = {name: x * self.unit_scale_ for name, x in sets.items()}
        return diversity_report(
            {
                name: NetworkSet(scaled[name], network_proba(self.architecture_, w, inputs))
                for name, w in self._networks_of(sets).items()
            },
            y,
            most=n,
        )

    def _perturbed(self, generated: Tensor, seed: int) -> Tensor:
        """Training networks with noise, as new as the generated ones, as points."""
        scale = self.unit_scale_
        distances = nearest_neighbours(generated * scale, self.training_points_ * scale).distances
        generator = torch.Generator(generated.device).manual_seed(seed)
        noisy = noise_baseline(
            self.training_points_ * scale,
            len(generated),
            nearest_distance=distances.mean().item(),
            generator=generator,
        )
        return self.chart_.project(noisy / scale)

    def _networks_of(self, sets: dict[str, Tensor]) -> dict[str, Tensor]:
        # In double precision, where no probability of a label becomes zero.
        return {name: self.chart_.to_weights(x).double() for name, x in sets.items()}
