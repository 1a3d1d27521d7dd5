"""From a velocity that refines a Gaussian prediction to a map that refines a Gaussian flow."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bayesflow_nn.velocity.gaussian import Denoised, GaussianDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.problem import UnitVariance


class GaussianMap(nn.Module):
    """Where the Gaussian flow carries a point, instead of the mean of where it may end.

    A model that starts from the posterior mean loses the point itself at t = 0, where the mean is
    that of all networks. A map from noise to networks has to keep it.

    Parameters
    ----------
    denoiser : GaussianDenoiser
    """

    def __init__(self, denoiser: GaussianDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """End of the Gaussian flow from ``x (n, n_coordinates)``, with the denoiser's variance."""
        variance = self.denoiser(t, x, condition).variance
        return Denoised(self.denoiser.transport(t, x, condition), variance)

    def on(self, graph: NeuralGraph) -> GaussianMap:
        """The same map over networks of other widths, where the Gaussian is exchangeable."""
        return GaussianMap(self.denoiser.on(graph))


def make_flow_map(predictor: UnitVariance) -> UnitVariance:
    """Copy a predictor of targets into one of ends, to be trained as such.

    Parameters
    ----------
    predictor : UnitVariance
        Its model has a :class:`GaussianDenoiser`, from whose prediction it starts, as attribute
        `denoiser`, or as its attribute `base` or that of its base.

    Raises
    ------
    TypeError
        If the model has none.
    """
    flow_map = copy.deepcopy(predictor).requires_grad_(True)
    model = flow_map.model
    base = getattr(model, "base", None)
    for owner, name in ((model, "denoiser"), (base, "denoiser"), (model, "base")):
        denoiser = getattr(owner, name, None)
        if isinstance(denoiser, GaussianDenoiser):
            setattr(owner, name, GaussianMap(denoiser))
            return flow_map
    raise TypeError(
        f"velocity must refine the prediction of a GaussianDenoiser, its attribute `denoiser`, to "
        f"be distilled; {type(model).__name__} has none. Use velocity='mlp', 'probe', 'pna' or "
        f"'relational_transformer'."
    )
