"""What every Gaussian law can do, against the flow's equation solved numerically."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm

from bayesflow_nn.velocity import AffineDenoiser

SIGMA = 0.1


def straight(t):
    return t[:, None], 1 - (1 - SIGMA) * t[:, None]


def circular(t):
    angle = (1 - (1 - SIGMA) * t[:, None]) * math.pi / 2
    return torch.cos(angle), torch.sin(angle)


SCHEDULES = {"straight": straight, "circular": circular}


def weights_and_rates(schedule, t):
    """b, a, and their derivatives by central differences, exact to 1e-9."""
    step = 1e-5
    at = [[w.item() for w in schedule(torch.tensor([s]).double())] for s in (t - step, t, t + step)]
    rates = (np.array(at[2]) - np.array(at[0])) / (2 * step)
    return *at[1], *rates


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture
def points(generator):
    mixing = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    return 1 + torch.randn(30, 3, generator=generator, dtype=torch.float64) @ mixing


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 0.3), (0.2, 0.7), (0.5, 1.0), (0.0, 1.0), (0.9, 0.4), (1.0, 0.0)]
)
def test_a_prediction_some_standard_deviations_off_is_followed(
    points, schedule, generator, start, end, offset
):
    mean, covariance = points.mean(0).numpy(), points.T.cov().numpy()
    x_start = torch.randn(3, generator=generator, dtype=torch.float64).numpy()
    off = offset * torch.randn(3, generator=generator, dtype=torch.float64).numpy()

    def predict(t, x):
        b, a, *_ = weights_and_rates(schedule, t)
        evidence = b**2 * covariance + a**2 * np.eye(3)
        gain = covariance @ np.linalg.inv(evidence)
        root = np.real(sqrtm(a**2 * gain))
        return mean + b * gain @ (x - b * mean) + root @ off

    def velocity(t, x):
        """That of x_t = b x_1 + a x_0, with the prediction for x_1."""
        b, a, b_rate, a_rate = weights_and_rates(schedule, t)
        x_1 = predict(t, x)
        return b_rate * x_1 + a_rate * (x - b * x_1) / a

    way = solve_ivp(velocity, (start, end), x_start, rtol=1e-9, atol=1e-9)
    denoiser = AffineDenoiser(points, None, schedule)
    moved = denoiser.advance(
        torch.tensor([start], dtype=torch.float64),
        torch.tensor(end - start, dtype=torch.float64),
        torch.as_tensor(x_start)[None],
        torch.as_tensor(predict(start, x_start))[None],
    )
    # Errors of the solution grow at most as much as back to the source, 1 / SIGMA.
    np.testing.assert_allclose(moved[0].numpy(), way.y[:, -1], rtol=0, atol=1e-6)


def test_a_step_in_single_precision_is_as_exact_as_that(points):
    """Variances from far below 1 to far above it, close to the end, in a short step."""
    x = points * torch.tensor([1e-3, 1.0, 30.0])
    x[:, 0] = 0  # the smallest variance that a law has

    def sharp(t):
        return t[:, None], 1 - 0.999 * t[:, None]

    double, single = AffineDenoiser(x, None, sharp), AffineDenoiser(x.float(), None, sharp)
    t, h = torch.tensor([1 - 1 / 256]), torch.tensor(1 / 256)
    start, prediction = x[:1].float(), x[1:2].float()
    step = single.advance(t, h, start, prediction)
    expected = double.advance(t.double(), h.double(), start.double(), prediction.double())
    # The difference of two arcs near pi / 2, as it stands, would be off twenty times as far.
    rounding = x.abs().max() * torch.finfo(torch.float32).eps
    torch.testing.assert_close(step.double(), expected, rtol=0, atol=rounding)
