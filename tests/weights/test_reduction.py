"""Principal components against closed forms, and their residual against its law."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD

from bayesflow_nn.weights.reduction import PrincipalSubspace, check_reducer

N_FEATURES, N_LATENT, WIDTH = 8, 3, 0.2


def draw_rows(n, n_features=N_FEATURES, seed=0):
    """Rows of three latent directions and isotropic noise."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(7).normal(size=(n_features, N_LATENT)))[0]
    latent = rng.normal(size=(n, N_LATENT)) * [4, 2, 1]
    return torch.as_tensor(1 + latent @ axes.T + WIDTH * rng.normal(size=(n, n_features)))


def test_densities_are_those_of_probabilistic_pca():
    rows, new = draw_rows(2000), draw_rows(50, seed=1)
    subspace = PrincipalSubspace.fit(rows, N_LATENT)
    latent = subspace.encode(new)
    log_latent = torch.distributions.Normal(0, 1).log_prob(latent).sum(1)
    log_prob = log_latent - subspace.log_abs_det() + subspace.log_residual(new)
    pca = PCA(N_LATENT).fit(rows.numpy())
    law = multivariate_normal(pca.mean_, pca.get_covariance())
    # scikit-learn divides the left-out variance by n - 1, the width is a mean over n.
    np.testing.assert_allclose(log_prob, law.logpdf(new), atol=0.05)
    axes, width = subspace.components.numpy(), subspace.width
    own = axes.T * (subspace.scale.numpy() ** 2 - width**2) @ axes + width**2 * np.eye(N_FEATURES)
    exact = multivariate_normal(subspace.mean, own).logpdf(new)
    np.testing.assert_allclose(log_prob, exact, atol=1e-9)


def test_latents_are_coordinates_of_the_subspace():
    rows = draw_rows(100)
    subspace = PrincipalSubspace.fit(rows, N_LATENT)
    latent = subspace.encode(rows)
    torch.testing.assert_close(latent.T.cov(), torch.eye(N_LATENT).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(subspace.encode(subspace.decode(latent)), latent)
    everything = PrincipalSubspace.fit(rows, N_FEATURES)
    torch.testing.assert_close(everything.decode(everything.encode(rows)), rows)
    assert everything.log_residual(rows).abs().max() == 0


def test_drawn_residuals_have_the_width_and_leave_latents_alone():
    subspace = PrincipalSubspace.fit(draw_rows(2000), N_LATENT)
    latent = torch.randn(4000, N_LATENT, generator=torch.Generator().manual_seed(0)).double()
    rows = subspace.draw(latent, torch.Generator().manual_seed(1))
    torch.testing.assert_close(subspace.encode(rows), latent)
    square = (rows - subspace.decode(latent)).square().sum(1) / subspace.width**2
    # Chi-squared of 5 degrees: mean 5, standard error of the mean sqrt(10 / 4000).
    assert square.mean() == pytest.approx(5, abs=4 * math.sqrt(10 / 4000))
    assert square.var() == pytest.approx(10, rel=0.15)


def test_held_out_rows_measure_the_width_that_few_rows_hide():
    """Twenty rows in R^200: ten components hold much of the noise of these rows alone."""
    train, held_out = draw_rows(20, 200), draw_rows(100, 200, seed=1)
    hidden = PrincipalSubspace.fit(train, 10).width
    measured = PrincipalSubspace.fit(train, 10, held_out).width
    assert hidden < 0.75 * WIDTH
    # A component found in few rows misses a part of its true direction (Paul 2007, theorem 4).
    signal, aspect = np.array([16, 4, 1]) / WIDTH**2, 200 / 20
    missed = 1 - (1 - aspect / signal**2) / (1 + aspect / signal)
    expected = WIDTH * math.sqrt(1 + (signal * missed).sum() / 190)
    assert measured == pytest.approx(expected, rel=0.05)


def test_held_out_rows_measure_scales_that_few_rows_exaggerate():
    """Noise alone: every direction has the same variance, whatever rows say that chose it."""
    rng = np.random.default_rng(0)
    train, held_out = (torch.as_tensor(rng.normal(size=(n, 200))) for n in (20, 300))
    exaggerated = PrincipalSubspace.fit(train, 5).scale
    assert exaggerated.min() > 3
    scale = PrincipalSubspace.fit(train, 5, held_out).scale
    # The mean of 20 rows adds a twentieth, 300 rows have a standard error of 4 %.
    assert (scale - math.sqrt(1.05)).abs().max() < 0.12


@pytest.mark.parametrize(
    ("reducer", "n_components"),
    [(2, 2), (2.0, 2), (0.9, 2), (PCA(2), 2), (IncrementalPCA(2, batch_size=50), 2)],
)
def test_components_are_counted_or_follow_from_their_variance(reducer, n_components):
    """Variances 16, 4 and 1: two components explain 95 %, one 76 %."""
    subspace = PrincipalSubspace.fit(draw_rows(200), reducer, random_state=0)
    assert subspace.n_components == n_components
    assert not hasattr(reducer, "components_")  # the estimator passed in is left as it was


def test_what_cannot_be_fitted_is_said():
    rows = draw_rows(6)
    with pytest.raises(ValueError, match="at most 5 components of 6 networks with 8 coordinates"):
        PrincipalSubspace.fit(rows, 6)
    with pytest.raises(ValueError, match="5 components hold all of the 6 rows"):
        PrincipalSubspace.fit(rows, 5)
    with pytest.raises(ValueError, match="3 of which 1 have no variance"):
        PrincipalSubspace.fit(rows[[0, 1, 2, 0, 1, 2]], 3)
    for reducer in (0, -1, 1.5, True, "pca", math.nan, math.inf):
        with pytest.raises(ValueError, match="reducer must be None, a number of components"):
            check_reducer(reducer)
    with pytest.raises(ValueError, match=r"without \['mean_', 'explained_variance_'\]|mean_"):
        PrincipalSubspace.fit(rows, TruncatedSVD(2))
    for reducer in (None, 3, np.int64(3), 0.5, PCA()):
        check_reducer(reducer)


def test_too_few_held_out_rows_leave_scales_alone():
    rows = draw_rows(100)
    own = PrincipalSubspace.fit(rows, N_LATENT).scale
    assert torch.equal(PrincipalSubspace.fit(rows, N_LATENT, rows[:2] + 3).scale, own)
    assert not torch.equal(PrincipalSubspace.fit(rows, N_LATENT, draw_rows(10, seed=3)).scale, own)
