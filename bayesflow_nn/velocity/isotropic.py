r"""The Gaussian prediction of a target that is standard normal.

With :math:`x_t = b x_1 + a x_0` and both standard normal,

.. math::
    E[x_1 | x_t] = \frac{b}{b^2 + a^2} x_t, \qquad
    \operatorname{Cov}[x_1 | x_t] = \frac{a^2}{b^2 + a^2} I .

No permutation of coordinates changes it, and it is the same in any number of them.
"""

from torch import Tensor, nn

from bayesflow_nn.velocity.affine import Denoised, Schedule


class IsotropicDenoiser(nn.Module):
    """Gaussian posterior of a standard normal target.

    Parameters
    ----------
    schedule : callable
        ``t (n,) -> (signal, noise)``, each ``(n, 1)``: the weights of target and source in ``x_t``.

    Examples
    --------
    >>> import torch
    >>> denoiser = IsotropicDenoiser(lambda t: (t[:, None], 1 - t[:, None]))
    >>> denoiser(torch.tensor([0.5]), torch.ones(1, 3))
    Denoised(mean=tensor([[1., 1., 1.]]), variance=tensor([[0.5000]]))
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Posterior mean and variance given ``x (n, n_coordinates)`` at times ``t (n,)``.

        A condition is ignored.
        """
        signal, noise = self.schedule(t)
        evidence = signal.square() + noise.square()
        return Denoised(signal / evidence * x, noise.square() / evidence)

    def apply_covariance(
        self, t: Tensor, v: Tensor, condition: Tensor | None = None, *, power: float = 1.0
    ) -> Tensor:
        """Multiply by a power of the posterior covariance; see :class:`AffineDenoiser`."""
        return self(t, v).variance ** power * v
