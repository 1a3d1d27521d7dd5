r"""Noise of one unknown size, learned with the weights.

A network f with means of targets becomes one with the outputs

.. math:: (f_1(x), \dots, f_m(x), s_1, \dots, s_m),

where the log scales s are m more weights, the same for all inputs. With the likelihood
`HeteroscedasticNormal` this is normal noise of unknown standard deviations :math:`e^{s_j}`:
training fits them, chains sample them, a flow learns their law, and predictions average over it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesflow_nn.weights.validation import check_integer


class ConstantNoise(nn.Module):
    """A network with a log scale per target beside its outputs.

    Parameters
    ----------
    module : torch.nn.Module
        From inputs ``(n_inputs, ...)`` to means ``(n_inputs, n_targets)``.
    n_targets : int

    Attributes
    ----------
    log_scale : torch.nn.Parameter of shape (n_targets,)
        In units of log targets; zero to begin with. ``NormalPrior({"log_scale": 1.0, ...})`` gives
        it a prior of its own.

    Raises
    ------
    TypeError
        If `module` is no module, or `n_targets` no integer.
    ValueError
        If `n_targets` is not positive.

    Examples
    --------
    >>> from bayesflow_nn.weights import Architecture, HeteroscedasticNormal
    >>> layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> network = Architecture(ConstantNoise(layers), example_input=torch.zeros(2, 3))
    >>> network.names[0], network.n_outputs == HeteroscedasticNormal().n_outputs(1)
    ('log_scale', True)
    """

    def __init__(self, module: nn.Module, n_targets: int = 1) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"module must be a torch.nn.Module, got {type(module).__name__}; of an "
                f"Architecture pass its layers."
            )
        self.log_scale = nn.Parameter(torch.zeros(check_integer("n_targets", n_targets)))
        self.module = module

    def forward(self, X: Tensor) -> Tensor:
        """Means, then log scales, ``(n_inputs, 2 * n_targets)``."""
        mean = self.module(X)
        return torch.cat([mean, 0 * mean + self.log_scale], -1)
