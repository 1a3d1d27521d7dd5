"""The isotropic denoiser is the affine one of points with zero mean and unit covariance."""

import torch

from bayesflow_nn.velocity import AffineDenoiser, IsotropicDenoiser


def schedule(t):
    return t[:, None], (1 - t[:, None]).square()


def test_it_is_the_affine_denoiser_of_a_standard_law(generator):
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    points = corners / corners.T.cov().diagonal().sqrt()
    affine, isotropic = AffineDenoiser(points, None, schedule), IsotropicDenoiser(schedule)
    t, x = torch.tensor([0.1, 0.6]).double(), torch.randn(2, 3, generator=generator).double()
    for own, expected in zip(isotropic(t, x), affine(t, x), strict=True):
        torch.testing.assert_close(own, expected)
    for power in (1, 0.5):
        own, expected = (law.apply_covariance(t, x, power=power) for law in (isotropic, affine))
        torch.testing.assert_close(own, expected)
