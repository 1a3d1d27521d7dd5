"""`WeightChart`: network weights <-> points of the manifold on which the flow runs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
from torch import Tensor

from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.symmetry.coordinates import ArrayCoordinates, NetworkCoordinates
from bayesflow_nn.symmetry.module_coordinates import ModuleCoordinates
from bayesflow_nn.symmetry.standardisation import Standardisation
from bayesflow_nn.symmetry.weight_input import check_architecture, read_weights
from bayesflow_nn.weights import Architecture, WeightPopulation
from bayesflow_nn.weights.reduction import PrincipalSubspace, Reducer, check_reducer
from bayesflow_nn.weights.validation import check_option

GEOMETRIES = ("product_sphere", "normalized", "euclidean")
OUTPUT_LAYERS = ("polar", "sphere", "euclidean")
_LEAST_SCALE = 1e-4  # of a weight, relative to others: what varies less is all but constant


class WeightChart:
    r"""Chart of weight space modulo neuron scales and logit shift ([Pi22], [E25] 6.2).

    A point holds, per hidden layer, the directions of the incoming rows and the biases divided by
    their norms; then the output layer. Euclidean coordinates are standardised one by one with the
    statistics that `fit` takes from training networks; weights that hardly vary, because their
    inputs do not and they decay, have a scale of 1e-4 of that of others.

    - ``geometry="product_sphere"``: directions on unit spheres, `manifold` is their product with
      the Euclidean rest.
    - ``geometry="normalized"``: the same coordinates in a Euclidean space; directions are
      multiplied by the root of their dimension, for about unit variance, and not standardised.
      `project` puts them back on their spheres, and keeps the function.
    - ``geometry="euclidean"``: the weights as they are, standardised. Needs no symmetry, and with
      ``architecture=None`` no network: it standardises the columns of any array. With a `reducer`
      a point holds the principal components of the standardised columns ([DWF]).

    Parameters
    ----------
    architecture : Architecture or None
        A multilayer perceptron, with a homogeneous activation unless the geometry is "euclidean";
        or any module, with scales unless the geometry is "euclidean" (see `ModuleCoordinates`).
    geometry : {"product_sphere", "normalized", "euclidean"}
    output_layer : {"polar", "sphere", "euclidean"}
        Output matrix W as direction and log norm (exact), as direction alone (keeps the arg max,
        [E25] 6.2), or as it is (exact). Not used by ``geometry="euclidean"``, nor for modules that
        are no perceptrons, whose output layer is taken as it is.
    logit_shift : bool
        Whether to leave out the mean over classes of the output layer, which moves no probability;
        the rest is held in an orthonormal basis. Pass False for regression.
    reducer : int, float, estimator or None
        Number of principal components, fraction of the variance that they explain, or an estimator
        such as ``sklearn.decomposition.IncrementalPCA``; for ``geometry="euclidean"``.
    inputs : Tensor of shape (n_inputs, ...), optional
        On which a module that is no multilayer perceptron is run to find its scales; by default the
        example of the architecture.
    pooled : bool
        Whether coordinates that permutations of hidden neurons exchange share mean and scale, as
        for networks whose neurons are in no order: points of a multilayer perceptron with permuted
        neurons are then permuted points, and `transfer_chart` makes charts of other widths.

    Attributes
    ----------
    manifold : ProductManifold
        Where points live. Without an architecture known after `fit`.
    state : dict
        Options and statistics, after `fit`.

    Raises
    ------
    TypeError
        If `architecture` is no `Architecture`.
    ValueError
        If an option is unknown or the architecture does not allow the geometry.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.symmetry import WeightChart
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([30, 16, 2])
    >>> weights = torch.randn(100, mlp.n_weights, dtype=torch.float64)
    >>> chart = WeightChart(mlp).fit(weights)
    >>> chart.manifold.blocks[0]
    SphereBlock(n_spheres=16, dim=30)
    >>> X = torch.randn(5, 30, dtype=torch.float64)
    >>> same = chart.to_weights(chart.to_point(weights))
    >>> torch.allclose(mlp.apply(same, X).softmax(-1), mlp.apply(weights, X).softmax(-1))
    True
    """

    def __init__(
        self,
        architecture: Architecture | None,
        geometry: str = "product_sphere",
        output_layer: str = "polar",
        logit_shift: bool = True,
        reducer: Reducer | None = None,
        inputs: Tensor | None = None,
        pooled: bool = False,
    ) -> None:
        check_architecture(architecture)
        check_option("geometry", geometry, GEOMETRIES)
        check_option("output_layer", output_layer, OUTPUT_LAYERS)
        if not isinstance(logit_shift, bool):
            raise ValueError(f"logit_shift must be True or False, got {logit_shift!r}.")
        check_reducer(reducer)
        if reducer is not None and geometry != "euclidean":
            raise ValueError(
                f"reducer must be None for geometry={geometry!r}, whose directions have no "
                f"principal components, got {reducer!r}; use geometry='euclidean'."
            )
        _check_pooled(pooled, architecture, reducer)
        self.architecture = architecture
        self.geometry = geometry
        self.output_layer = output_layer
        self.logit_shift = logit_shift
        self.reducer = reducer
        self.inputs = inputs
        self.pooled = pooled
        self._coordinates = self._network_coordinates()
        self._standardisation: Standardisation | None = None
        self._subspace: PrincipalSubspace | None = None

    def fit(
        self,
        weights: ArrayLike | Tensor | WeightPopulation,
        held_out: ArrayLike | Tensor | WeightPopulation | None = None,
        random_state: int | None = None,
    ) -> WeightChart:
        """Learn mean and standard deviation of the Euclidean coordinates, and their components.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Training networks, already aligned.
        held_out : array, Tensor or WeightPopulation of shape (n_networks, n_weights), optional
            Other networks; they measure what a `reducer` leaves out.
        random_state : int, optional
            For components of large arrays, which are found by random projections.

        Returns
        -------
        WeightChart
            This chart.

        Raises
        ------
        ValueError
            If weights have a wrong shape or architecture or are not finite, an output layer has
            no direction, or the reducer does not suit them.
        """
        tensor = read_weights(weights, self.architecture).tensor
        if self.architecture is None:
            self._coordinates = ArrayCoordinates(tensor.shape[1])
        coordinates = self._known_coordinates().encode(tensor)
        least_scale = 0.0 if self.architecture is None else _LEAST_SCALE
        self._standardisation = Standardisation.fit(
            coordinates, self.fixed_scale, self.orbits, least_scale
        )
        if self.reducer is not None:
            self._subspace = PrincipalSubspace.fit(
                self._standardise(weights),
                self.reducer,
                None if held_out is None else self._standardise(held_out),
                random_state,
            )
        return self

    @property
    def manifold(self) -> ProductManifold:
        """Where points live; where the flow runs."""
        if self.geometry == "product_sphere":
            return self.canonical_manifold
        n_coordinates = self.canonical_manifold.n_coordinates
        if self.reducer is not None:
            self._fitted_standardisation()
            n_coordinates = self._subspace.n_components
        return ProductManifold([EuclideanBlock(n_coordinates)])

    @property
    def canonical_manifold(self) -> ProductManifold:
        """Where canonical coordinates live; densities are with respect to its volume."""
        return self._known_coordinates().manifold

    @property
    def orbits(self) -> Tensor:
        """Index ``(n_coordinates,)`` of what each canonical coordinate shares its statistics with.

        Every coordinate has its own unless the chart is `pooled`.
        """
        if self.pooled:
            return self._known_coordinates().orbits
        return torch.arange(self.canonical_manifold.n_coordinates)

    @property
    def fan_in(self) -> Tensor:
        """Number ``(n_coordinates,)`` of hidden neurons over which each weight's sum runs, else 1.

        For a multilayer perceptron.
        """
        return self._known_coordinates().fan_in

    @property
    def weight_order(self) -> Tensor:
        """Flat index ``(n_coordinates,)`` of the weight that each canonical coordinate is.

        For modules that are no multilayer perceptrons, up to scales of their units.
        """
        return self._known_coordinates().weight_order

    @property
    def fixed_scale(self) -> Tensor:
        """Scale ``(n_coordinates,)`` of directions, NaN for what is standardised."""
        scales = []
        for block in self.canonical_manifold.blocks:
            scale = math.nan
            if isinstance(block, SphereBlock):
                scale = block.dim**-0.5 if self.geometry == "normalized" else 1.0
            scales.append(torch.full((block.n_coordinates,), scale, dtype=torch.float64))
        return torch.cat(scales)

    def to_point(self, weights: ArrayLike | Tensor | WeightPopulation) -> Tensor:
        """Points of networks.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)

        Returns
        -------
        Tensor of shape (n_networks, n_coordinates)
            Dtype of `weights`.
        """
        point = self._standardise(weights)
        return point if self._subspace is None else self._subspace.encode(point)

    def to_weights(self, point: Tensor) -> Tensor:
        """Weights of points; differentiable, and not projected to the manifold.

        Off the manifold a direction is used as it is, so that its length scales the row.

        Parameters
        ----------
        point : Tensor of shape (n_networks, n_coordinates)

        Returns
        -------
        Tensor of shape (n_networks, n_weights)
            Canonical weights: rows of norm 1 in hidden layers (unless ``geometry="euclidean"``),
            zero mean over classes if the logit shift is left out. With a reducer, those in the
            principal subspace.
        """
        self._fitted_standardisation()
        self.manifold.check_points(point)
        return self._decode(point if self._subspace is None else self._subspace.decode(point))

    def draw_weights(self, point: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of points as `to_weights`, with a draw of what the reducer leaves out.

        Parameters
        ----------
        point : Tensor of shape (n_networks, n_coordinates)
        generator : torch.Generator

        Returns
        -------
        Tensor of shape (n_networks, n_weights)
        """
        if self._subspace is None:
            return self.to_weights(point)
        self.manifold.check_points(point)
        return self._decode(self._subspace.draw(point, generator))

    def log_residual(self, weights: ArrayLike | Tensor | WeightPopulation) -> Tensor:
        """Log density of what points leave out of networks, in nats.

        Parameters
        ----------
        weights : array, Tensor or WeightPopulation of shape (n_networks, n_weights)
            Aligned.

        Returns
        -------
        Tensor of shape (n_networks,)
            That of the isotropic Gaussian residual of probabilistic PCA (Tipping & Bishop 1999),
            in standardised coordinates; zero without a reducer.
        """
        point = self._standardise(weights)
        if self._subspace is None:
            return point.new_zeros(len(point))
        return self._subspace.log_residual(point)

    def project(self, point: Tensor) -> Tensor:
        """Points of the same networks with every direction back on its sphere; differentiable.

        A row off its sphere is a neuron of another scale, which moves to the next layer, as
        `to_point` moves it. The function stays ("sphere" keeps its arg max), where cutting every
        row to length would scale some neurons and not others.

        Parameters
        ----------
        point : Tensor of shape (n_networks, n_coordinates)

        Returns
        -------
        Tensor of shape (n_networks, n_coordinates)
        """
        standardisation, coordinates = self._fitted_standardisation(), self._known_coordinates()
        if not coordinates.manifold.n_spheres:
            return point
        return standardisation.to_point(coordinates.encode(self._decode(point)))

    def move(self, point: Tensor, step: Tensor) -> Tensor:
        """Networks a step further: directions along geodesics of their spheres, the rest straight.

        Only the tangent part of a step counts for a direction, on the geometry "normalized" too,
        so that no step changes the scale of a neuron.

        Parameters
        ----------
        point : Tensor of shape (n_networks, n_coordinates)
            With every direction on its sphere, as `project` returns it.
        step : Tensor of shape (n_networks, n_coordinates)

        Returns
        -------
        Tensor of shape (n_networks, n_coordinates)
        """
        standardisation, canonical = self._fitted_standardisation(), self.canonical_manifold
        if not canonical.n_spheres:
            return point + step
        coordinates = standardisation.to_coordinates(point)
        tangent = canonical.proju(coordinates, standardisation.scale.to(step) * step)
        return standardisation.to_point(canonical.expmap(coordinates, tangent))

    def log_abs_det(self) -> float:
        r"""Log volume of the canonical coordinates per volume of the points, in nats.

        With coordinate = mean + scale * point this is the sum of log scale, so that densities on
        the canonical chart, comparable between charts, are

        .. math:: \log p(\text{coordinate}) = \log p(\text{point}) - \text{log\_abs\_det} .

        With a reducer the law of the point and `log_residual` together have this factor.
        """
        log_volume = self._fitted_standardisation().log_abs_det()
        return log_volume if self._subspace is None else log_volume + self._subspace.log_abs_det()

    def log_polar_jacobian(self, point: Tensor) -> Tensor:
        r"""Log volume of the output matrix per volume of its polar coordinates, in nats.

        :math:`dW = r^m \, d(\log r) \, dS` for a matrix of m entries (in the zero-sum basis): the
        density with respect to Lebesgue measure on W is that on the chart minus this value.

        Parameters
        ----------
        point : Tensor of shape (n_networks, n_coordinates)

        Returns
        -------
        Tensor of shape (n_networks,)
            Zero unless ``output_layer="polar"`` is in use.
        """
        standardisation = self._fitted_standardisation()
        self.manifold.check_points(point)
        if self._subspace is not None:
            return point.new_zeros(len(point))  # flat: nothing is polar
        return self._known_coordinates().log_polar_jacobian(standardisation.to_coordinates(point))

    @property
    def state(self) -> dict[str, Any]:
        """Options and statistics as plain values and tensors, for `from_state`."""
        standardisation = self._fitted_standardisation()
        state = {
            "geometry": self.geometry,
            "output_layer": self.output_layer,
            "logit_shift": self.logit_shift,
            "pooled": self.pooled,
            "mean": standardisation.mean,
            "scale": standardisation.scale,
        }
        if self._subspace is not None:
            state["subspace"] = asdict(self._subspace)
        return state if self.inputs is None else state | {"inputs": self.inputs}

    @classmethod
    def from_state(cls, architecture: Architecture | None, state: dict[str, Any]) -> WeightChart:
        """Rebuild a fitted chart from `state`.

        Parameters
        ----------
        architecture : Architecture or None
            That of the chart.
        state : dict
            What `state` returned.

        Returns
        -------
        WeightChart

        Raises
        ------
        ValueError
            If the state belongs to another architecture.
        """
        options = state["geometry"], state["output_layer"], state["logit_shift"]
        subspace = PrincipalSubspace(**state["subspace"]) if "subspace" in state else None
        reducer = subspace and subspace.n_components
        chart = cls(
            architecture,
            *options,
            reducer=reducer,
            inputs=state.get("inputs"),
            pooled=state["pooled"],
        )
        if architecture is None:
            chart._coordinates = ArrayCoordinates(len(state["mean"]))
        chart.canonical_manifold.check_points(state["mean"])
        chart._standardisation = Standardisation(state["mean"], state["scale"])
        chart._subspace = subspace
        return chart

    def _standardise(self, weights: ArrayLike | Tensor | WeightPopulation) -> Tensor:
        standardisation = self._fitted_standardisation()
        tensor = read_weights(weights, self.architecture).tensor
        return standardisation.to_point(self._known_coordinates().encode(tensor))

    def _decode(self, point: Tensor) -> Tensor:
        standardisation = self._fitted_standardisation()
        return self._known_coordinates().decode(standardisation.to_coordinates(point))

    def _network_coordinates(
        self,
    ) -> NetworkCoordinates | ModuleCoordinates | ArrayCoordinates | None:
        """Coordinates of the architecture; None without one, until `fit` counts the columns."""
        on_spheres = self.geometry != "euclidean"
        if self.architecture is not None and not self.architecture.is_mlp:
            if self.logit_shift:
                raise ValueError(
                    f"logit_shift must be False for {self.architecture!r}, whose output layer is "
                    f"not known, got True."
                )
            if not on_spheres:
                return ArrayCoordinates(self.architecture.n_weights)
            return ModuleCoordinates(self.architecture, self.inputs)
        if self.architecture is not None:
            return NetworkCoordinates(
                self.architecture, on_spheres, self.output_layer, self.logit_shift
            )
        if on_spheres:
            raise ValueError(
                f"geometry must be 'euclidean' without an architecture, got {self.geometry!r}; "
                f"plain arrays have no directions. Pass architecture=Architecture.mlp(...)."
            )
        return None

    def _known_coordinates(self) -> NetworkCoordinates | ModuleCoordinates | ArrayCoordinates:
        if self._coordinates is None:
            raise _not_fitted()
        return self._coordinates

    def _fitted_standardisation(self) -> Standardisation:
        if self._standardisation is None:
            raise _not_fitted()
        return self._standardisation


def _not_fitted() -> NotFittedError:
    return NotFittedError("this WeightChart is not fitted yet; call fit(weights) first.")


def _check_pooled(pooled: bool, architecture: Architecture | None, reducer: Reducer | None) -> None:
    if not isinstance(pooled, bool):
        raise ValueError(f"pooled must be True or False, got {pooled!r}.")
    is_mlp = architecture is not None and architecture.is_mlp
    if pooled and (not is_mlp or reducer is not None):
        raise ValueError(
            f"pooled must be False unless the architecture is a multilayer perceptron, not reduced "
            f"to components, got {architecture!r} with reducer={reducer!r}."
        )
