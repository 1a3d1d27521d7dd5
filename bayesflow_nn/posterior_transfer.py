"""Networks of other widths, from a flow that tells no hidden neurons apart ([E25] 7.3.4)."""

from __future__ import annotations

import copy
import dataclasses

from bayesflow_nn.flow import FlowField, GeodesicPath
from bayesflow_nn.symmetry import carry, check_same_roles, transfer_chart
from bayesflow_nn.symmetry.weight_input import check_architecture
from bayesflow_nn.velocity import GraphVelocity, UnitVariance
from bayesflow_nn.weights import Architecture


class TransferMethods:
    """The part of :class:`bayesflow_nn.FlowPosterior` that runs its flow on other graphs."""

    @property
    def _has_exchangeable_neurons(self) -> bool:
        """Whether nothing tells the hidden neurons of a layer apart: no order, and no velocity."""
        velocity = self._velocity_class()
        velocity = getattr(velocity, "func", velocity)  # of a partial
        is_graph = isinstance(velocity, type) and issubclass(velocity, GraphVelocity)
        return self.alignment is None and is_graph

    def _of_widths(self, architecture: Architecture) -> TransferMethods:
        """The same flow over networks of other widths, to sample from.

        What belongs to neurons belongs to all of a layer: the velocity, the source and the
        statistics of the chart. So a neuron more is one more of the same kind.
        """
        self._check_transfer(architecture)
        flow = copy.copy(self)
        flow.architecture_ = architecture
        flow.chart_ = transfer_chart(self.chart_, architecture)
        flow.centre_ = carry(self.centre_, self.chart_, flow.chart_)
        flow.unit_scale_ = flow.chart_.manifold.unit_scale.to(self.unit_scale_)
        path = GeodesicPath(flow.chart_.manifold, self.field_.path.sigma)

        def move(field: FlowField) -> FlowField:
            model = field.predictor.model.on(flow.chart_)
            return FlowField(path, UnitVariance(model, flow.unit_scale_).eval())

        flow.field_ = move(self.field_)
        flow.gaussian_ = self.gaussian_.on(flow.field_.predictor.model.graph)
        if self.flow_map_ is not None:
            flow.flow_map_ = dataclasses.replace(self.flow_map_, field=move(self.flow_map_.field))
        return flow

    def _check_transfer(self, architecture: Architecture) -> None:
        check_architecture(architecture)
        if self.architecture_ is None:
            raise ValueError(
                "architecture must be None for a posterior over plain arrays, which has no layers; "
                "fit a WeightPopulation, or pass FlowPosterior(architecture=...)."
            )
        if not self.architecture_.is_mlp:
            raise ValueError(
                f"architecture must be None for a posterior over {self.architecture_!r}: other "
                f"widths are known for multilayer perceptrons alone."
            )
        if not self.chart_.pooled:
            raise ValueError(
                f"architecture needs a flow that tells no hidden neurons apart, got one with "
                f"velocity={self.velocity!r} and alignment={self.alignment!r}; fit "
                f"FlowPosterior(velocity='relational_transformer', alignment=None)."
            )
        check_same_roles(self.architecture_, architecture)
