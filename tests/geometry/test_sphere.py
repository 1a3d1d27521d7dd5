"""Sphere: closed forms, inverses, derivatives at singular points, float32 accuracy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesflow_nn.geometry import Sphere

SPHERE = Sphere()
DTYPES = [torch.float32, torch.float64]
ANGLES = [0.0, 1e-7, 1e-4, 0.01, 0.3, 1.0, math.pi / 2, 2.0, 3.0, 3.14, 3.1415, 3.14159]


def rounding(dtype):
    """A few rounding units of the dtype: every verb is a sum of about ten products."""
    return 10 * torch.finfo(dtype).eps


def random_frame(dim, dtype, seed=0):
    """Orthonormal x and e, so that cos(angle) x + sin(angle) e is known in closed form."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(dim, 2, generator=generator, dtype=torch.float64))
    return q[:, 0].to(dtype), q[:, 1].to(dtype)


def on_great_circle(dim, angle, dtype):
    x, e = random_frame(dim, torch.float64)
    y = math.cos(angle) * x + math.sin(angle) * e
    return x.to(dtype), y.to(dtype), (angle * e).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3, 31])
@pytest.mark.parametrize("angle", ANGLES)
def test_dist_is_the_angle_to_rounding(angle, dim, dtype):
    x, y, _ = on_great_circle(dim, angle, dtype)
    assert abs(SPHERE.dist(x, y).item() - angle) < rounding(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dist_to_itself_is_zero_and_to_the_antipode_pi(dtype):
    x = SPHERE.random_uniform(100, 7, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert torch.equal(SPHERE.dist(x, x), torch.zeros(100, dtype=dtype))
    assert torch.equal(SPHERE.dist(x, -x), torch.full((100,), math.pi, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_follows_the_great_circle(angle, dtype):
    x, y, u = on_great_circle(5, angle, dtype)
    assert (SPHERE.expmap(x, u) - y).abs().max() < rounding(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", ANGLES)
def test_log_is_the_initial_velocity_of_the_geodesic(angle, dtype):
    x, y, u = on_great_circle(5, angle, dtype)
    # Near the antipode the direction is as uncertain as rounding of y, times 1 / sin(angle).
    conditioning = angle / max(math.sin(angle), 1e-9) if angle > 1 else 1
    assert (SPHERE.logmap(x, y) - u).abs().max() < rounding(dtype) * conditioning


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_stays_on_the_sphere_over_many_steps(dtype):
    x, e = random_frame(30, dtype)
    for _ in range(2000):
        x = SPHERE.expmap(x, 0.05 * SPHERE.proju(x, e))
    assert abs(x.norm().item() - 1) < rounding(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1 + 3e-7, 1 - 3e-7])
def test_log_at_the_antipode_is_the_documented_choice(dtype, scale):
    x = torch.tensor([0.6, 0.0, 0.8], dtype=dtype)
    expected = torch.tensor([0.0, math.pi, 0.0], dtype=dtype)
    y = -x * scale if dtype == torch.float32 else -x
    torch.testing.assert_close(SPHERE.logmap(x, y), expected)


def test_projx_of_zero_is_the_first_axis():
    assert torch.equal(SPHERE.projx(torch.zeros(2, 3)), torch.tensor([[1.0, 0, 0]] * 2))


@pytest.mark.parametrize("place", ["equal", "antipodal", "zero"])
@pytest.mark.parametrize("verb", ["dist", "logmap", "expmap", "projx", "transp"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_first_and_second_derivatives_are_finite_at_singular_points(verb, place, dtype):
    x = torch.tensor([0.6, 0.0, -0.8], dtype=dtype)
    other = {"equal": x, "antipodal": -x, "zero": torch.zeros_like(x)}[place]
    v = torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    functions = {
        "dist": lambda a, b: SPHERE.dist(a, b),
        "logmap": SPHERE.logmap,
        "expmap": SPHERE.expmap,
        "projx": lambda a, b: SPHERE.projx(b),
        "transp": lambda a, b: SPHERE.transp(a, b, v),
    }
    for argument in (0, 1):
        jacobian = torch.func.jacrev(functions[verb], argnums=argument)
        assert jacobian(x, other).isfinite().all()
        assert torch.func.jacfwd(jacobian, argnums=argument)(x, other).isfinite().all()


def test_derivative_of_log_at_equal_points_is_the_tangent_projection():
    x, _ = random_frame(4, torch.float64)
    jacobian = torch.func.jacrev(SPHERE.logmap, argnums=1)(x, x)
    torch.testing.assert_close(jacobian, torch.eye(4, dtype=x.dtype) - torch.outer(x, x))


def test_derivative_of_exp_at_zero_is_the_tangent_projection():
    x, _ = random_frame(4, torch.float64)
    jacobian = torch.func.jacfwd(SPHERE.expmap, argnums=1)(x, torch.zeros_like(x))
    torch.testing.assert_close(jacobian, torch.eye(4, dtype=x.dtype) - torch.outer(x, x))


@pytest.mark.parametrize("angle", [1e-3, 0.44, 0.46, 0.499, 0.501, 1.5, 1.6, 2.5])
def test_derivatives_agree_with_finite_differences(angle):
    """On both sides of every switch between power series and closed form."""
    x, y, u = on_great_circle(4, angle, torch.float64)
    for verb, other in [(SPHERE.logmap, y), (SPHERE.expmap, u), (SPHERE.dist, y)]:
        arguments = (x.clone().requires_grad_(), other.clone().requires_grad_())
        assert torch.autograd.gradcheck(verb, arguments)
        assert torch.autograd.gradgradcheck(verb, arguments)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.7, 2.0, 3.1])
def test_transport_is_parallel(angle):
    """It turns the geodesic's own direction with it and leaves the rest alone."""
    x, y, u = on_great_circle(5, angle, torch.float64)
    v = SPHERE.proju(x, torch.randn(5, generator=torch.Generator().manual_seed(1)).double())
    v_across = v - (v @ u) / max(angle, 1e-300) ** 2 * u if angle else v
    torch.testing.assert_close(SPHERE.transp(x, y, u), -SPHERE.logmap(y, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(SPHERE.transp(x, y, v_across), v_across, atol=1e-9, rtol=0)


def test_random_uniform_has_the_moments_of_the_uniform_distribution():
    """E x = 0 and E x x^T = I / d; 20,000 draws, bounds at 6 standard errors."""
    x = SPHERE.random_uniform(20_000, 4, generator=torch.Generator().manual_seed(0))
    assert x.mean(0).abs().max() < 6 * math.sqrt(1 / 4 / 20_000)
    assert (x.T @ x / len(x) - torch.eye(4) / 4).abs().max() < 6 * math.sqrt(1 / 8 / 20_000)


@settings(max_examples=30, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    dim=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_verbs_agree_with_numpy_formulas_on_any_shape(leading, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    x = SPHERE.random_uniform(*leading, dim, **options)
    y = SPHERE.random_uniform(dim, **options)
    cosine = np.clip((x.numpy() * y.numpy()).sum(-1), -1, 1)
    assert SPHERE.dist(x, y).shape == tuple(leading)
    # arccos loses half the digits at its ends.
    np.testing.assert_allclose(SPHERE.dist(x, y).numpy(), np.arccos(cosine), atol=1e-7)
    torch.testing.assert_close(SPHERE.expmap(x, SPHERE.logmap(x, y)), y.expand_as(x))


@pytest.mark.parametrize("angle", [1e-4, 0.5, 2.5])
def test_the_end_velocity_is_the_derivative_along_the_geodesic(angle):
    x, y, u = on_great_circle(5, angle, torch.float64)
    _, e = random_frame(5, torch.float64)
    tangent = math.cos(angle) * e - math.sin(angle) * x
    assert (SPHERE.end_velocity(x, u) - angle * tangent).abs().max() < rounding(torch.float64)
    assert abs((SPHERE.end_velocity(x, u) * y).sum().item()) < rounding(torch.float64)
