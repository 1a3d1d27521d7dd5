"""The velocity field u(t, x) that a trained predictor and its path define."""

import torch
from torch import Tensor, nn

from bayesflow_nn.flow.path import GeodesicPath


class FlowField:
    """Velocity ``u(t, x)``: a function of time and point only, tangent to the manifold.

    Parameters
    ----------
    path : GeodesicPath
    predictor : nn.Module
        Called as ``predictor(t, x)`` with ``t (n,)`` and ``x (n, n_coordinates)``; returns the
        ambient prediction of the target, ``(n, n_coordinates)``.
    """

    def __init__(self, path: GeodesicPath, predictor: nn.Module) -> None:
        self.path = path
        self.predictor = predictor

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity ``(n, n_coordinates)`` at one time ``()`` for all points."""
        times = t.expand(len(x))
        return self.path.velocity(times, x, self.predictor(times, x))

    def extended(self, t: Tensor, x: Tensor) -> Tensor:
        """The field off the manifold, constant along the radii of the spheres.

        At points of the manifold the ambient trace of its Jacobian is the intrinsic divergence.
        """
        return self(t, self.path.manifold.projx(x))

    def denoise(self, x: Tensor) -> Tensor:
        """Remove the width-floor blur from points at t = 1."""
        t = torch.ones(len(x), dtype=x.dtype, device=x.device)
        return self.path.denoise(t, x, self.predictor(t, x))
