"""What every Gaussian law can do, against the flow's equation solved numerically."""

import copy
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


def test_a_step_in_single_precision_errs_by_rounding_alone(generator):
    """A short step close to the end, along variances from 1e-8 to 1,000."""

    def sharp(t):
        return t[:, None], 1 - (1 - 2**-10) * t[:, None]  # exact in single precision

    def draw(n):
        return torch.randn(n, 3, generator=generator) * torch.tensor([1e-4, 1.0, 30.0])

    single = AffineDenoiser(draw(100), None, sharp)
    double = copy.deepcopy(single).double()
    t, h = torch.tensor([1 - 1 / 256]), torch.tensor(1 / 256)
    x, prediction = draw(200), draw(200)
    step = single.advance(t.expand(200), h, x, prediction).double()
    expected = double.advance(t.double().expand(200), h, x.double(), prediction.double())
    # The arcs of a deviation of 30 at ratios of 255 and 1024 of signal to noise differ by 1e-4, of
    # pi / 2: their plain difference would be off by a thousand times as much.
    rounding = torch.finfo(torch.float32).eps * expected.abs().amax(0)
    assert ((step - expected).abs() < 4 * rounding).all()


def test_a_step_may_end_where_no_noise_is_left(points):
    denoiser = AffineDenoiser(points, None, lambda t: (t[:, None], 1 - t[:, None]))
    t, x = torch.tensor([0.4], dtype=torch.float64), points[:1]
    end = denoiser.advance(t, 1 - t[0], x, denoiser(t, x).mean)
    torch.testing.assert_close(end, denoiser.transport(t, x))
