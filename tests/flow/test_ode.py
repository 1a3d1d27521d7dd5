"""Integrators against linear equations whose solution is a matrix exponential."""

import re

import numpy as np
import pytest
import torch

from bayesflow_nn import flow
from bayesflow_nn.flow import (
    GaussianFlow,
    NonFiniteError,
    SolverError,
    StepLimitError,
    StepUnderflowError,
)
from bayesflow_nn.flow.ode import integrate_augmented
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.velocity import AffineDenoiser

ORDERS = {"exponential_euler": 1, "euler": 1, "midpoint": 2, "rk4": 4}
SOLVERS = list(ORDERS)
AUGMENTED_SOLVERS = ["euler", "midpoint", "rk4"]


@pytest.fixture
def linear_flow(manifold, generator, draw_points, skew_matrix, prescribed_field):
    """u(t, x) = (1 + t) A x, whose flow to time t is expm((t + t^2 / 2) A); rotates spheres."""
    parts = []
    for block in manifold.blocks:
        if isinstance(block, SphereBlock):
            parts += [skew_matrix(block.dim) for _ in range(block.n_spheres)]
        else:
            dim = block.n_coordinates
            parts.append(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    matrix = torch.block_diag(*parts)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)  # unit speed

    def solution(t, x):
        return x @ torch.matrix_exp((t + t**2 / 2) * matrix).T

    field = prescribed_field(manifold, lambda t, x: (1 + t) * x @ matrix.T)
    return field, draw_points(manifold, 10), solution


def integrate(field, x, **options):
    """`flow.integrate`, where exponential steps follow a Gaussian unlike the field."""
    n, generator = x.shape[1], torch.Generator().manual_seed(3)
    points = torch.randn(3 * n, n, generator=generator, dtype=torch.float64).to(x)
    scale = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64).to(x)
    gaussian = GaussianFlow(AffineDenoiser(points, None, field.path.schedule), scale)
    return flow.integrate(field, x, gaussian=gaussian, **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_error_falls_with_the_order_of_the_solver(linear_flow, solver):
    field, x_0, solution = linear_flow
    n_steps = np.array([16, 32, 64, 128])
    errors = [
        (integrate(field, x_0, solver=solver, n_steps=n) - solution(1.0, x_0)).abs().max().item()
        for n in n_steps.tolist()
    ]
    # The next term of the error expansion bends the line by about 1 / n_steps; the smallest error,
    # 128^-4, is far above rounding.
    slope = np.polyfit(np.log(n_steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(ORDERS[solver], abs=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_backwards_in_time_leads_back_to_the_start(linear_flow, solver):
    field, x_0, solution = linear_flow
    n_steps = 200
    x_1 = solution(1.0, x_0)
    back = integrate(field, x_1, solver=solver, n_steps=n_steps, start=1.0, end=0.0)
    # Speed and rates are at most 2, so the error constants are a few powers of 2. Rates of the
    # Gaussian that exponential steps follow are larger at the very end, and solved.
    torch.testing.assert_close(back, x_0, atol=10 * n_steps ** -ORDERS[solver], rtol=0)


def test_a_part_of_the_time_is_integrated(linear_flow):
    field, x_0, solution = linear_flow
    x_half = integrate(field, x_0, solver="rk4", n_steps=100, end=0.5)
    x_1 = integrate(field, x_half, solver="rk4", n_steps=100, start=0.5)
    # rk4 with steps of 0.005: 6e-10 times a constant of order one.
    torch.testing.assert_close(x_half, solution(0.5, x_0), atol=1e-8, rtol=0)
    torch.testing.assert_close(x_1, solution(1.0, x_0), atol=1e-8, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_few_large_steps_stay_on_the_manifold(solver, product, draw_points, prescribed_field):
    x_0, pole = draw_points(product, 20), draw_points(product, 1)
    field = prescribed_field(product, lambda t, x: 3 * product.proju(x, pole.expand_as(x)))
    x_1 = integrate(field, x_0, solver=solver, n_steps=3)
    # The last operation of every step is a normalisation.
    torch.testing.assert_close(product.projx(x_1), x_1, atol=1e-15, rtol=1e-15)
    assert product.dist(x_0, x_1).min() > 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_exploding_row_is_named(solver, prescribed_field):
    """dx/dt = x^2 has the solution x_0 / (1 - x_0 t): from 2 it explodes at t = 1/2."""
    field = prescribed_field(ProductManifold([EuclideanBlock(1)]), lambda t, x: x**2)
    message = f"solver={solver} with n_steps=64 gave non-finite values in 1 of the 3 rows"
    with pytest.raises(NonFiniteError, match=re.escape(message)):
        integrate(field, torch.tensor([[0.1], [2.0], [-5.0]]), solver=solver, n_steps=64)


@pytest.mark.parametrize("solver", AUGMENTED_SOLVERS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_an_augmented_state_is_integrated_in_both_directions(linear_flow, solver, start, end):
    """Beside x, the integral of 3 t^2 + row: t^3 + row * t."""
    field, x_0, solution = linear_flow
    rows = torch.arange(len(x_0), dtype=torch.float64)

    def rate(t, state):
        return field(t, state[0]), 3 * t**2 + rows

    state = (solution(start, x_0), torch.zeros_like(rows))
    n_steps = 200
    x, integral = integrate_augmented(
        rate, state, solver=solver, n_steps=n_steps, start=start, end=end
    )
    # As above: error constants of a few powers of the rate 2. Quadrature of 3 t^2 is of the order
    # of the solver too (exact for rk4), and of the constant exact.
    bound = 10 * n_steps ** -ORDERS[solver]
    torch.testing.assert_close(x, solution(end, x_0), atol=bound, rtol=0)
    torch.testing.assert_close(integral, (end - start) * (1 + rows), atol=bound, rtol=0)


def test_an_exploding_augmented_state_is_named():
    def rate(t, state):
        return (state[0] ** 2,)

    message = "rk4 with n_steps=64 gave non-finite values in 1 of the 2 rows"
    with pytest.raises(NonFiniteError, match=re.escape(message)):
        state = (torch.tensor([0.1, 2.0]),)
        integrate_augmented(rate, state, solver="rk4", n_steps=64, start=0.0, end=1.0)


def test_the_adaptive_solver_keeps_to_its_tolerance(linear_flow):
    field, x_0, solution = linear_flow
    for tolerance in (1e-4, 1e-8):
        x_1 = integrate(field, x_0, solver="dopri5", tolerance=tolerance)
        # The tolerance is per step and coordinate; errors of at most 100 steps grow at most e^2.
        torch.testing.assert_close(x_1, solution(1.0, x_0), atol=700 * tolerance, rtol=0)
    torch.testing.assert_close(field.path.manifold.projx(x_1), x_1, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("velocity", "error"),
    [
        (lambda t, x: x**2, StepUnderflowError),  # a pole at t = 1/2
        (lambda t, x: torch.sin(1e6 * t) + 0 * x, StepLimitError),  # 160,000 oscillations
        (lambda t, x: x / (t < 0.5), NonFiniteError),
    ],
)
def test_the_adaptive_solver_reports_why_it_cannot_go_on(prescribed_field, velocity, error):
    field = prescribed_field(ProductManifold([EuclideanBlock(1)]), velocity)
    x = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    with pytest.raises(error, match=r"solver=dopri5 with tolerance=1e-05.*fixed steps"):
        integrate(field, x, solver="dopri5")
    assert issubclass(error, SolverError)


@pytest.mark.parametrize("solver", [*SOLVERS, "dopri5"])
def test_the_trajectory_passes_through_the_points_of_its_grid(linear_flow, solver):
    field, x_0, solution = linear_flow
    grid = torch.tensor([0, 0.1, 0.3, 0.6, 1], dtype=torch.float64)
    points = integrate(field, x_0, solver=solver, grid=grid, return_trajectory=True)
    # dopri5 projects all points, which rounds.
    torch.testing.assert_close(points[0], x_0, atol=1e-15, rtol=1e-15)
    end = integrate(field, x_0, solver=solver, grid=grid)
    assert torch.equal(points[-1], end)
    if solver in ("rk4", "dopri5"):  # rk4: (0.4 * 2)^5 / 120 = 0.003 in the longest step
        for t, x in zip(grid.tolist(), points, strict=True):
            torch.testing.assert_close(x, solution(t, x_0), atol=0.01, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpoints_do_not_change_the_gradient(linear_flow, solver):
    field, x_0, _ = linear_flow
    gradients = []
    for checkpoint in (False, True):
        leaf = x_0.clone().requires_grad_()
        end = integrate(field, leaf, solver=solver, n_steps=4, checkpoint=checkpoint)
        end[:, 0].sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_a_perturbation_comes_before_every_step(prescribed_field):
    line = ProductManifold([EuclideanBlock(1)])
    field = prescribed_field(line, lambda t, x: torch.zeros_like(x))
    seen = []

    def perturb(field, t, h, x):
        seen.append((t.item(), h.item()))
        return x + 1

    end = integrate(field, torch.zeros(1, 1), n_steps=4, perturb=perturb)
    assert end.item() == 4
    assert seen == [(0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, 0.25)]
