"""FlowPosterior: a posterior over neural-network weights, learned as a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from bayesflow_nn.condition_encoder import ConditionEncoder
from bayesflow_nn.flow import (
    COUPLINGS,
    FlowField,
    FlowTrainer,
    GeodesicPath,
    Regression,
    StandardSource,
    Targets,
)
from bayesflow_nn.persistence import PersistenceMethods
from bayesflow_nn.posterior_densities import DensityMethods
from bayesflow_nn.posterior_diversity import DiversityMethods
from bayesflow_nn.posterior_html import posterior_html
from bayesflow_nn.posterior_input import (
    Weights,
    check_parameters,
    check_population,
    read_task,
    read_weights,
    split_chains,
    warn_of_outliers,
)
from bayesflow_nn.posterior_predictions import PredictionMethods
from bayesflow_nn.posterior_refinement import RefinementMethods
from bayesflow_nn.posterior_sampling import SamplingMethods
from bayesflow_nn.posterior_transfer import TransferMethods
from bayesflow_nn.symmetry import PermutationAligner, WeightChart
from bayesflow_nn.symmetry.standardisation import orbit_means
from bayesflow_nn.velocity import (
    MLPVelocity,
    PNAVelocity,
    ProbeVelocity,
    RelationalTransformer,
    UnitVariance,
    VelocityProblem,
)
from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.random_state import RandomState, draw_seed

VELOCITIES = {
    "mlp": MLPVelocity,
    "pna": PNAVelocity,
    "probe": ProbeVelocity,
    "relational_transformer": RelationalTransformer,
}


class FlowPosterior(
    SamplingMethods,
    PredictionMethods,
    DiversityMethods,
    RefinementMethods,
    TransferMethods,
    DensityMethods,
    PersistenceMethods,
    DensityMixin,
    BaseEstimator,
):
    r"""Posterior over network weights, learned by flow matching on the weights of many networks.

    Permutations of neurons are removed by alignment, neuron scales and the softmax shift by a
    chart; the weights then lie on a product of spheres and Euclidean factors, where a flow learns
    to carry noise to them ([E25] 6; see the modules of :mod:`bayesflow_nn.flow`). Without an
    architecture this is a density estimator for any ``(n_samples, n_features)`` array.

    Parameters
    ----------
    architecture : Architecture, optional
        What the rows of a plain array mean. A :class:`WeightPopulation` brings its own.
    task : {"classification", "regression"}, optional
        What the networks do. A population brings its own.
    likelihood : Likelihood, float or None
        What their outputs say about targets; a float is the standard deviation of normal noise. A
        population may bring its own, and `fit_noise` finds one on held-out data.
    geometry : {"product_sphere", "normalized", "euclidean"}
        Where the flow runs: on the spheres of canonical weights, on the same weights inside a flat
        space with a projection at the end, or on aligned weights as they are ([E25] 6.2).
    output_layer : {"polar", "sphere", "euclidean"}
        Last layer on the first two geometries: direction on a sphere and log norm (exact), the
        direction alone ([E25]; keeps the arg max, loses the scale of probabilities), or flat.
    alignment : str, object or None
        How neurons are matched, one of the methods of `PermutationAligner` ("weight_matching",
        "transfusion", "activation_matching", "sinkhorn"); an object with ``fit`` and ``transform``
        replaces it. With None networks stay as they are, and a graph velocity takes the neurons of
        a multilayer perceptron to be in no order: no permutation of them changes a density, and
        `sample` draws networks of other widths.
    reducer : int, float, estimator or None
        Principal components of the weights in which to run the flow, for networks too large for one
        in all weights ([DWF]): their number, the fraction of variance they explain, or an
        estimator such as ``sklearn.decomposition.IncrementalPCA``. Takes ``geometry="euclidean"``.
        Samples lie in the subspace; densities, and the draws of `importance_weights`, have a
        Gaussian residual beside it (see `log_prob`).
    coupling : {"independent", "ot"}
        How source points are paired with networks in a minibatch ([T23]).
    velocity : {"auto", "mlp", "probe", "relational_transformer", "pna"} or callable
        Model of the velocity. "probe" runs the generated network on learned inputs, for multilayer
        perceptrons; "relational_transformer" and "pna" see neurons and weights, or channels and
        filters, as a graph ([E25] 6.3, 5.3), for all networks whose layers are dense or
        convolutional, not for attention; "mlp" sees the flat vector ([DWF]); "auto" takes "probe"
        where it can, else "mlp". A callable gets a :class:`bayesflow_nn.velocity.VelocityProblem`
        and returns a module, for example ``functools.partial(ProbeVelocity, n_refinements=2)``.
    prediction : {"velocity", "target"}
        Whether the regression error is measured on the velocity or on the target.
    sigma : float
        Width floor of the paths, in units of the source.
    time_distribution : {"auto", "uniform", "beta", "late"}
        Law of the time in training; "beta" is Beta(1, 2) ([E25] 6.4), "late" is Beta(3, 1).
        "auto" is "late" for ``velocity="probe"``, whose networks say most once little noise is
        left, else "uniform".
    max_iter, batch_size : int
        Number of training steps and of networks in each.
    learning_rate, weight_decay : float
        Peak learning rate and weight decay of AdamW.
    ema_decay : float
        Decay of the average over parameters that is kept.
    validation_fraction : float
        Fraction of chains held out from training, 0 for none.
    early_stopping : bool
        Keep the network with the least loss on the held-out chains and stop when it stalls.
    n_iter_no_change : int
        Validations (of 25 in a full training) without a gain after which to stop.
    condition_dropout : float
        Fraction of conditions that training withholds, for samples and densities without one, and
        for samples beyond one; 0 rules them out.
    solver : {"midpoint", "exponential_euler", "euler", "rk4", "dopri5"}
        Solver for samples. "exponential_euler" solves the Gaussian part of the flow and runs the
        velocity once per step; ``sample(solver="exponential_euler", n_steps=8)`` is usually enough.
        "dopri5" chooses its steps.
    n_steps : int
        Number of equal steps, for samples and densities.
    noise : float, StepNoise or Refresh
        Noise on the way of samples: the rate at which their source noise is drawn anew between the
        later steps (:class:`~bayesflow_nn.flow.Refresh`), which keeps their law and forgets errors
        of the velocity; 0 follows the flow, as densities do and all that "dopri5" draws.
    time_grid : {"uniform", "error"}
        Equal steps for samples, or shorter ones where trajectories bend.
    density_solver : {"rk4", "midpoint", "euler", "dopri5"}
        Solver for densities, which add up the errors of all coordinates. "dopri5" runs them one by
        one, so that none depends on the others.
    tolerance : float
        Relative and absolute error per step of "dopri5".
    trace : {"auto", "exact", "hutchinson", "hutch++"}
        Trace in the density. "auto" is exact up to 128 coordinates, then "hutchinson"; "hutch++"
        has a lower variance from about 32 probes.
    n_probes : int
        Jacobian products per evaluation of an estimated trace.
    probe_distribution : {"rademacher", "gaussian"}
        Law of the probes of "hutchinson".
    device : str
        Torch device of training and sampling.
    random_state : int, RandomState or None
    verbose : bool
        Show progress.

    Attributes
    ----------
    n_features_in_ : int
        Number of weights of one network.
    architecture_, task_ : Architecture or None, str or None
    likelihood_ : Likelihood or None
        None where there is no task, and for a regression whose noise is not known.
    condition_encoder_ : ConditionEncoder or None
        Features of conditions.
    withholds_conditions_ : bool
        Whether samples and densities may do without a condition.
    aligner_ : object or None
        Fitted alignment.
    chart_ : WeightChart
        Between network weights and points of the manifold.
    field_ : FlowField
        The velocity u(t, x).
    flow_map_ : Distilled or None
        What `distill` fitted: a map that replaces the solver, and its error.
    inputs_ : Tensor or None
        Unlabelled inputs that came with the population.
    training_points_, held_out_points_ : Tensor
        Points of the networks that were fitted and of the chains held out, for `novelty`.
    training_condition_ : Tensor of shape (n_networks, n_features) or None
        Features of the conditions of the networks that were fitted.
    gaussian_ : GaussianDenoiser
        Gaussian approximation, in coordinates of unit variance; guidance takes its covariance.
    centre_ : Tensor of shape (n_coordinates,)
        Mean of the points that were fitted, towards which a low `temperature` draws.
    unit_scale_ : Tensor of shape (n_coordinates,)
        Factor from points to coordinates of about unit variance: sqrt(d) on a sphere in R^d.
    history_ : TrainingHistory
    importance_ : ImportanceWeights
        What `importance_weights` returned last, if it was called.

    Notes
    -----
    Densities are with respect to Riemannian volume on the canonical manifold, after symmetry
    removal. For ``geometry="normalized"`` they are those of the flow in the flat space, before the
    projection.

    Examples
    --------
    >>> import numpy as np
    >>> from bayesflow_nn import FlowPosterior
    >>> x = np.random.default_rng(0).normal(3.0, 0.5, size=(500, 2))
    >>> posterior = FlowPosterior(geometry="euclidean", max_iter=20, random_state=0).fit(x)
    >>> posterior.sample(200, random_state=0).mean(0).round(0)
    array([3., 3.], dtype=float32)
    >>> posterior.log_prob(x[:3]).shape
    (3,)
    """

    def __init__(
        self,
        *,
        architecture: Architecture | None = None,
        task: str | None = None,
        likelihood: Any = None,
        geometry: str = "product_sphere",
        output_layer: str = "polar",
        alignment: Any = "weight_matching",
        reducer: Any = None,
        coupling: str = "independent",
        velocity: Any = "auto",
        prediction: str = "velocity",
        sigma: float = 1e-3,
        time_distribution: str = "auto",
        max_iter: int = 900,
        batch_size: int = 128,
        learning_rate: float = 4e-3,
        weight_decay: float = 1e-4,
        ema_decay: float = 0.98,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        n_iter_no_change: int = 6,
        condition_dropout: float = 0.1,
        solver: str = "midpoint",
        n_steps: int = 16,
        noise: Any = 2.0,
        time_grid: str = "uniform",
        density_solver: str = "rk4",
        tolerance: float = 1e-5,
        trace: str = "auto",
        n_probes: int = 8,
        probe_distribution: str = "rademacher",
        device: str = "cpu",
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.architecture = architecture
        self.task = task
        self.likelihood = likelihood
        self.geometry = geometry
        self.output_layer = output_layer
        self.alignment = alignment
        self.reducer = reducer
        self.coupling = coupling
        self.velocity = velocity
        self.prediction = prediction
        self.sigma = sigma
        self.time_distribution = time_distribution
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.condition_dropout = condition_dropout
        self.solver = solver
        self.n_steps = n_steps
        self.noise = noise
        self.time_grid = time_grid
        self.density_solver = density_solver
        self.tolerance = tolerance
        self.trace = trace
        self.n_probes = n_probes
        self.probe_distribution = probe_distribution
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, weights: Weights, y: ArrayLike | None = None) -> FlowPosterior:
        """Learn the flow.

        Parameters
        ----------
        weights : WeightPopulation, or array or Tensor of shape (n_networks, n_weights)
            At least two networks. Rows of a plain array count as chains of their own.
        y : array of shape (n_networks,) or (n_networks, n_columns), optional
            A condition for every network: integers, booleans and strings are labels (of a task),
            real numbers are values (a loss). `sample` and `log_prob` take conditions then.

        Returns
        -------
        FlowPosterior

        Raises
        ------
        ValueError, TypeError
            If a parameter or the weights are wrong; the message says which and what to do.
        """
        check_parameters(self.get_params(deep=False), VELOCITIES)
        rows = read_weights(self, weights, self.architecture, reset=True)
        population = weights if isinstance(weights, WeightPopulation) else None
        self.architecture_ = _first(self.architecture, population, "architecture")
        self.task_, self.likelihood_ = read_task(
            _first(self.task, population, "task"), _first(self.likelihood, population, "likelihood")
        )
        check_population(rows, population, self.architecture_, self.geometry)
        generator = torch.Generator(self.device).manual_seed(draw_seed(self.random_state))
        chain = torch.arange(len(rows)) if population is None else population.chain
        held_out = split_chains(chain, self.validation_fraction, generator).to(rows.device)
        condition = self._fit_condition(y, rows)
        inputs = _first(None, population, "inputs")
        if inputs is not None:  # token indices stay what they are
            inputs = inputs.to(rows) if inputs.is_floating_point() else inputs.to(rows.device)
        self.inputs_ = inputs
        self._fit_chart(rows[~held_out], rows[held_out], generator)
        warn_of_outliers(self.training_points_, ~held_out)
        self.unit_scale_ = self.chart_.manifold.unit_scale.to(self.training_points_)
        self.training_condition_ = None if condition is None else condition[~held_out]
        self._fit_flow(None if condition is None else condition[held_out], generator)
        self.flow_map_ = None
        return self

    def to_points(self, weights: Weights) -> Tensor:
        """Aligned networks as points of the chart.

        Parameters
        ----------
        weights : WeightPopulation, or array or Tensor of shape (n_networks, n_weights)

        Returns
        -------
        Tensor of shape (n_networks, n_coordinates)
            On the manifold ``chart_.manifold``; ``chart_.to_weights`` leads back.
        """
        check_is_fitted(self)
        rows = read_weights(self, weights, self.architecture_, reset=False)
        return self.chart_.to_point(self._align(rows))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Show the facts of the fit below scikit-learn's diagram, in notebooks."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:  # unless set_config(display="text")
            bundle["text/html"] += posterior_html(self)
        return bundle

    def _fit_chart(self, train: Tensor, held_out: Tensor, generator: torch.Generator) -> None:
        """Fit alignment and chart, and keep the points of both sets."""
        self.aligner_ = self._make_aligner(generator)
        if self.aligner_ is not None:
            self.aligner_.fit(train)
        train = self._align(train)
        held_out = self._align(held_out) if len(held_out) else None
        architecture = self.architecture_
        seed = None if self.reducer is None else draw_seed(generator) % 2**32
        is_mlp = architecture is not None and architecture.is_mlp
        self.chart_ = WeightChart(
            architecture,
            self.geometry,
            self.output_layer,
            logit_shift=is_mlp and self._has_logit_shift,
            reducer=self.reducer,
            inputs=None if is_mlp or self.inputs_ is None else self.inputs_[:2],
            pooled=is_mlp and self._has_exchangeable_neurons,
        ).fit(train, held_out, seed)
        self.training_points_ = self.chart_.to_point(train)
        if self.reducer is not None:
            # Components overfit the networks they were found in, which lie too far out in them.
            self.training_points_ /= self.training_points_.std(0)
        self.held_out_points_ = None if held_out is None else self.chart_.to_point(held_out)
        self.centre_ = self.training_points_.mean(0)
        if self.chart_.pooled:
            self.centre_ = orbit_means(self.centre_, self.chart_.orbits)[self.chart_.orbits]

    def _make_aligner(self, generator: torch.Generator) -> Any:
        if not isinstance(self.alignment, str):
            return clone(self.alignment, safe=False)
        if self.architecture_ is None:
            return None
        return PermutationAligner(
            self.architecture_,
            self.alignment,
            inputs=self.inputs_,
            logit_shift=self.architecture_.is_mlp and self._has_logit_shift,
            random_state=draw_seed(generator) % 2**32,
        )

    @property
    def _has_logit_shift(self) -> bool:
        classifies = self.architecture_ is not None and self.task_ == "classification"
        return classifies and (self.architecture_.n_outputs or 1) > 1

    def _align(self, rows: Tensor) -> Tensor:
        return rows if self.aligner_ is None else self.aligner_.transform(rows)

    def _fit_condition(self, y: ArrayLike | None, rows: Tensor) -> Tensor | None:
        self.condition_encoder_ = None
        self.withholds_conditions_ = self.condition_dropout > 0
        if y is None:
            return None
        check_consistent_length(rows, y)
        if self.coupling != "independent":
            raise ValueError(
                f"coupling must be 'independent' for a fit with conditions y, got "
                f"{self.coupling!r}: pairs across conditions would change the source of each."
            )
        self.condition_encoder_ = ConditionEncoder().fit(y)
        return self.condition_encoder_.transform(y).to(rows.device)

    def _fit_flow(self, held_out_condition: Tensor | None, generator: torch.Generator) -> None:
        manifold, x = self.chart_.manifold, self.training_points_
        path, scale = GeodesicPath(manifold, self.sigma), self.unit_scale_
        problem = VelocityProblem(
            points=x,
            held_out=self.held_out_points_,
            chart=self.chart_,
            inputs=self.inputs_,
            scale=scale,
            schedule=path.schedule,
            generator=torch.Generator().manual_seed(draw_seed(generator)),
            condition=self.training_condition_,
            held_out_condition=held_out_condition,
        )
        self.gaussian_ = problem.make_gaussian()
        trainer = FlowTrainer(
            path,
            StandardSource(manifold),
            COUPLINGS[self.coupling],
            scale.square(),
            self._make_regression(),
            generator,
            prediction=self.prediction,
            time_distribution=self._time_distribution(),
            condition_dropout=self.condition_dropout,
        )
        # Layers draw from torch's global generator when they are made, before the velocity draws
        # anew from the problem's: the state that the caller sees stays untouched.
        with torch.random.fork_rng(devices=[]):
            model = UnitVariance(self._velocity_class()(problem), scale).to(x.device)
        unseen = self.held_out_points_
        unseen = None if unseen is None else Targets(unseen, held_out_condition)
        predictor, self.history_ = trainer.fit(model, Targets(x, self.training_condition_), unseen)
        self.field_ = FlowField(path, predictor.eval().requires_grad_(False))

    def _make_regression(self) -> Regression:
        return Regression(
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay,
            early_stopping=self.early_stopping,
            n_iter_no_change=self.n_iter_no_change,
            verbose=self.verbose,
        )

    def _time_distribution(self) -> str:
        if self.time_distribution != "auto":
            return self.time_distribution
        return "late" if self._velocity_class() is ProbeVelocity else "uniform"

    def _velocity_class(self) -> Callable[[VelocityProblem], torch.nn.Module]:
        if self.velocity != "auto":
            return VELOCITIES.get(self.velocity, self.velocity)
        is_mlp = self.architecture_ is not None and self.architecture_.is_mlp
        return ProbeVelocity if is_mlp else MLPVelocity


def _first(own: Any, population: WeightPopulation | None, name: str) -> Any:
    """A parameter of the posterior, or what its population says."""
    return own if own is not None or population is None else getattr(population, name)
