"""FlowMap with the exact map of a Gaussian flow."""

import pytest
import torch

from bayesflow_nn.flow import FlowField, FlowMap, integrate


def make_map(flow, n_steps, seed=5):
    generator = torch.Generator().manual_seed(seed)

    def source(n):
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    return FlowMap(
        FlowField(flow.field.path, flow.gaussian.transport), flow.setting(), source, n_steps
    )


def test_one_step_is_the_end_of_the_trajectory(gaussian_flow):
    x_0 = gaussian_flow.source(20)
    way = integrate(gaussian_flow.field, x_0, solver="rk4", n_steps=200)
    # The width of the path, sigma = 1e-3, is left at the end of the trajectory.
    ends = make_map(gaussian_flow, 1)(x_0)
    torch.testing.assert_close(ends, gaussian_flow.field.denoise(way), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_steps", [2, 4])
def test_more_steps_keep_the_distribution_and_forget_the_source(gaussian_flow, n_steps):
    x_0 = gaussian_flow.source(20_000)
    one, more = make_map(gaussian_flow, 1)(x_0), make_map(gaussian_flow, n_steps)(x_0)
    deviation = gaussian_flow.covariance.diagonal().sqrt()
    # Standard errors: 1 / sqrt(20,000) = .7 % of the deviation; of a covariance, 1 % of it.
    torch.testing.assert_close(more.mean(0) / deviation, one.mean(0) / deviation, atol=0.04, rtol=0)
    relative = (more.T.cov() - gaussian_flow.covariance) / torch.outer(deviation, deviation)
    assert relative.abs().max() < 0.05
    assert (more - one).std() > 0.3


def test_rows_carry_their_conditions(gaussian_flow):
    def predict(t, x, condition):
        return x + condition

    condition = torch.arange(6, dtype=torch.float64)[:, None].expand(6, 3)
    field = FlowField(gaussian_flow.field.path, predict, condition)
    flow_map = FlowMap(field, gaussian_flow.setting(), gaussian_flow.source, 1)
    x_0 = gaussian_flow.source(6)
    assert torch.equal(flow_map.rows(slice(2, 4))(x_0[2:4]), flow_map(x_0)[2:4])


def test_the_map_is_differentiated(gaussian_flow):
    x_0 = gaussian_flow.source(3).requires_grad_()
    make_map(gaussian_flow, 1).differentiable(x_0).sum().backward()
    # Of a linear map with the root of the covariance, which is symmetric.
    root = torch.linalg.eigh(gaussian_flow.covariance)
    root = root.eigenvectors @ torch.diag(root.eigenvalues.sqrt()) @ root.eigenvectors.T
    torch.testing.assert_close(x_0.grad, root.sum(0).expand(3, 3), atol=1e-6, rtol=0)
