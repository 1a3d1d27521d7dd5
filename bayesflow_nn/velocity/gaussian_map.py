"""From a velocity that refines a Gaussian prediction to a map that refines a Gaussian flow."""

import copy

from torch import Tensor, nn

from bayesflow_nn.velocity.affine import AffineDenoiser, Denoised
from bayesflow_nn.velocity.conditional import ConditionalDenoiser
from bayesflow_nn.velocity.problem import UnitVariance


class GaussianMap(nn.Module):
    """Where the Gaussian flow carries a point, instead of the mean of where it may end.

    A model that starts from the posterior mean loses the point itself at t = 0, where the mean is
    that of all networks. A map from noise to networks has to keep it.

    Parameters
    ----------
    denoiser : AffineDenoiser or ConditionalDenoiser
    """

    def __init__(self, denoiser: AffineDenoiser | ConditionalDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """End of the Gaussian flow from ``x (n, n_coordinates)``, with the denoiser's variance."""
        variance = self.denoiser(t, x, condition).variance
        return Denoised(self.denoiser.transport(t, x, condition), variance)


def make_flow_map(predictor: UnitVariance) -> UnitVariance:
    """Copy a predictor of targets into one of ends, to be trained as such.

    Parameters
    ----------
    predictor : UnitVariance
        Its model has an attribute `denoiser`, from whose prediction it starts.

    Raises
    ------
    TypeError
        If the model has no such attribute.
    """
    denoiser = getattr(predictor.model, "denoiser", None)
    if not isinstance(denoiser, AffineDenoiser | ConditionalDenoiser):
        raise TypeError(
            f"velocity must refine a Gaussian prediction, which is its attribute `denoiser`, to be "
            f"distilled; {type(predictor.model).__name__} has {type(denoiser).__name__}. Use "
            f"velocity='mlp' or 'probe'."
        )
    flow_map = copy.deepcopy(predictor).requires_grad_(True)
    flow_map.model.denoiser = GaussianMap(flow_map.model.denoiser)
    return flow_map
