"""FlowTrainer: the minimiser of its loss, what it keeps, and a Gaussian that must not shrink."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from bayesflow_nn.flow import (
    FlowField,
    FlowTrainer,
    GeodesicPath,
    Regression,
    StandardSource,
    Targets,
    integrate,
)
from bayesflow_nn.flow.coupling import independent
from bayesflow_nn.geometry import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.velocity import AffineDenoiser, MLPVelocity, VelocityProblem


def fit(trainer, predictor, x, validation):
    """Fit to points without conditions."""
    held_out = None if validation is None else Targets(validation)
    return trainer.fit(predictor, Targets(x), held_out)


def make_trainer(manifold, *, sigma=0.1, seed=0, **options):
    # The first step keeps the weight ema_decay^max_iter in the average: none.
    defaults = {"max_iter": 400, "batch_size": 256, "learning_rate": 0.05, "ema_decay": 0.95}
    own = {
        name: options.pop(name)
        for name in ("prediction", "time_distribution", "condition_dropout")
        if name in options
    }
    return FlowTrainer(
        GeodesicPath(manifold, sigma),
        StandardSource(manifold),
        options.pop("coupling", independent),
        options.pop("metric", torch.ones(manifold.n_coordinates)),
        Regression(**defaults | options),
        torch.Generator().manual_seed(seed),
        **own,
    )


def make_problem(path, points, seed=0):
    return VelocityProblem(
        points=points,
        held_out=None,
        chart=None,
        inputs=None,
        scale=torch.ones(points.shape[1]),
        schedule=path.schedule,
        generator=torch.Generator().manual_seed(seed),
    )


class Multiple(nn.Module):
    """Predicts the target to be a learned multiple of the point."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, t, x):
        return self.factor * x


class Constant(nn.Module):
    """Predicts the same learned value in all coordinates; remembers it at every training step."""

    def __init__(self, start=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start))
        self.seen = []

    def forward(self, t, x):
        if self.training:
            self.seen.append(self.value.item())
        return self.value.expand_as(x)


@pytest.fixture
def line():
    return ProductManifold([EuclideanBlock(1)])


@pytest.mark.parametrize("time_distribution", ["uniform", "beta", "late"])
@pytest.mark.parametrize("prediction", ["target", "velocity"])
def test_the_loss_is_minimised_by_the_weighted_regression(prediction, time_distribution, generator):
    r"""The best multiple a of x_t for x_1 ~ N(0, I) is E[w x_1 x_t] / E[w x_t^2].

    Errors of the velocity are those of the target divided by kappa, so w = 1 / kappa^2.
    """
    sigma, manifold = 0.1, ProductManifold([EuclideanBlock(50)])
    law = {"uniform": lambda t: 1.0, "beta": lambda t: 2 * (1 - t), "late": lambda t: 3 * t**2}[
        time_distribution
    ]
    power = {"target": 0, "velocity": -2}[prediction]

    def expectation(value):
        return quad(lambda t: law(t) * (1 - (1 - sigma) * t) ** power * value(t), 0, 1)[0]

    best = expectation(lambda t: t) / expectation(lambda t: t**2 + (1 - (1 - sigma) * t) ** 2)
    trainer = make_trainer(
        manifold,
        sigma=sigma,
        prediction=prediction,
        time_distribution=time_distribution,
        learning_rate=0.02,
    )
    x = torch.randn(5000, 50, generator=generator)
    fitted, _ = fit(trainer, Multiple(), x, None)
    # Over seeds the result scatters by less than 0.01, from the draws of the last steps and the
    # variance of the training points. The six optima lie between 0.48 and 1.03.
    assert fitted.factor.item() == pytest.approx(best, abs=0.03)


def test_the_coupling_pairs_source_and_target(generator):
    """Coupled to itself, x_1 is seen as x_t = (kappa + t) x_1 = (1 + sigma t) x_1."""
    sigma, manifold = 0.1, ProductManifold([EuclideanBlock(20)])
    trainer = make_trainer(
        manifold, sigma=sigma, prediction="target", coupling=lambda manifold, x_0, x_1: x_1
    )
    fitted, _ = fit(trainer, Multiple(), torch.randn(2000, 20, generator=generator), None)
    best = quad(lambda t: 1 + sigma * t, 0, 1)[0] / quad(lambda t: (1 + sigma * t) ** 2, 0, 1)[0]
    # No noise is left but that of t within 5 %; an independent coupling gives 0.71.
    assert fitted.factor.item() == pytest.approx(best, abs=0.005)


def test_the_metric_weights_the_coordinates():
    """One value for coordinates at 0 and 1, the second weighted threefold: 3 / 4."""
    trainer = make_trainer(
        ProductManifold([EuclideanBlock(2)]), metric=torch.tensor([1.0, 3.0]), prediction="target"
    )
    fitted, _ = fit(trainer, Constant(), torch.tensor([[0.0, 1.0]]), None)
    # The loss is the same in every batch, so only the optimiser's last steps are left.
    assert fitted.value.item() == pytest.approx(0.75, abs=1e-3)


def test_the_kept_parameters_are_the_exponential_average_over_steps(line):
    """With the decay held down to (1 + n) / (10 + n) while only n steps are in the average."""
    decay, predictor = 0.7, Constant()
    trainer = make_trainer(line, max_iter=15, ema_decay=decay)
    kept, _ = fit(trainer, predictor, torch.full((8, 1), 5.0), None)
    after_steps = [*predictor.seen[1:], predictor.value.item()]
    average = after_steps[0]
    for n, value in enumerate(after_steps[1:], start=1):
        kept_share = min(decay, (1 + n) / (10 + n))
        average = kept_share * average + (1 - kept_share) * value
    assert len(after_steps) == 15
    assert kept.value.item() == pytest.approx(average, rel=1e-6)
    assert kept.value.item() != pytest.approx(predictor.value.item(), rel=1e-3)


@pytest.mark.parametrize("n_held_out", [0, 4])
def test_the_fitted_predictor_is_in_evaluation_mode(line, n_held_out):
    """With and without held-out chains, so that dropout is off."""
    x = torch.ones(8, 1)
    trainer = make_trainer(line, max_iter=2)
    fitted, _ = fit(trainer, Constant(), x, x[:n_held_out] if n_held_out else None)
    assert not fitted.training


def test_a_module_may_ask_for_a_higher_learning_rate(line):
    """The first step of Adam has the length of the learning rate."""
    predictor = nn.Module()
    predictor.slow, predictor.fast = Constant(), Constant()
    predictor.fast.learning_rate_factor = 10.0
    predictor.forward = lambda t, x: predictor.slow(t, x) + predictor.fast(t, x)
    trainer = make_trainer(line, max_iter=1, learning_rate=0.01)
    fit(trainer, predictor, torch.full((8, 1), 5.0), None)
    assert predictor.slow.value.item() == pytest.approx(0.01, rel=1e-5)
    assert predictor.fast.value.item() == pytest.approx(0.1, rel=1e-5)


@pytest.fixture
def drifting(line):
    """Training moves the constant from 0 to 5; the held-out chains are at 1."""

    def fit_with(**options):
        trainer = make_trainer(line, max_iter=500, prediction="target", **options)
        return fit(trainer, Constant(), torch.full((8, 1), 5.0), torch.full((4, 1), 1.0))

    return fit_with


def test_early_stopping_keeps_the_best_and_stops(drifting):
    fitted, history = drifting(early_stopping=True, n_iter_no_change=3)
    best = history.validation_loss.index(min(history.validation_loss))
    assert history.iterations[best] == history.best_iteration
    assert len(history.iterations) == best + 1 + 3
    assert history.iterations[-1] < 500
    # The held-out loss of a constant c is (c - 1)^2 for a target that is a point: that of what came
    # back is that of the best check, not of the last.
    loss = (fitted.value.item() - 1) ** 2
    assert loss == pytest.approx(history.validation_loss[best], rel=1e-4)
    assert loss < 0.5 * history.validation_loss[-1]


def test_a_start_that_no_training_improves_is_kept(line):
    """Held-out chains are where the constant starts: every step leads away from them."""
    trainer = make_trainer(line, max_iter=500, prediction="target", n_iter_no_change=3)
    fitted, history = fit(trainer, Constant(), torch.full((8, 1), 5.0), torch.zeros(4, 1))
    assert fitted.value.item() == 0 == history.best_iteration
    assert len(history.iterations) == 1 + 3


def test_without_early_stopping_the_last_average_is_kept(drifting):
    fitted, history = drifting(early_stopping=False)
    assert history.best_iteration == history.iterations[-1] == 500
    assert min(history.validation_loss) < 1 < history.validation_loss[-1]
    # The average lags behind the last steps, which are small.
    assert fitted.value.item() == pytest.approx(5, abs=0.2)


def test_the_history_records_mean_training_losses(line):
    trainer = make_trainer(line, max_iter=50, learning_rate=1e-12, prediction="target")
    _, history = fit(trainer, Constant(2.0), torch.full((8, 1), 5.0), None)
    # A constant that does not move is 3 from the target at every step.
    assert history.iterations == list(range(2, 51, 2))
    assert history.training_loss == pytest.approx([9.0] * 25, rel=1e-5)
    assert all(math.isnan(loss) for loss in history.validation_loss)


def test_a_nan_loss_is_an_error_that_names_the_iteration(line):
    trainer = make_trainer(line, learning_rate=0.25)
    message = "became nan at iteration 0; lower learning_rate .now 0.25. or look for outliers"
    with pytest.raises(FloatingPointError, match=message):
        fit(trainer, Constant(math.nan), torch.ones(4, 1), None)


def test_the_same_seed_gives_the_same_parameters(generator):
    """With dropout too, and without touching torch's global generator."""
    manifold = ProductManifold([SphereBlock(1, 3), EuclideanBlock(2)])
    x = manifold.random_source(40, generator)

    def fit_from(seed):
        trainer = make_trainer(manifold, seed=seed, max_iter=10, early_stopping=False)
        model = MLPVelocity(make_problem(trainer.path, x), hidden_size=8, dropout=0.5)
        state = torch.get_rng_state()
        fitted, _ = fit(trainer, model, x[:30], x[30:])
        assert torch.equal(torch.get_rng_state(), state)
        return nn.utils.parameters_to_vector(fitted.parameters())

    first = fit_from(0)
    torch.rand(1)
    assert torch.equal(fit_from(0), first)
    assert not torch.equal(fit_from(1), first)


def test_a_sphere_is_learned(generator):
    """Directions around two poles of S^2: the samples have the first and second moments."""
    manifold = ProductManifold([SphereBlock(1, 3)])
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    noise = 0.3 * torch.randn(4000, 3, generator=generator)
    x = manifold.projx(poles.repeat(2000, 1) + noise)
    trainer = make_trainer(manifold, sigma=0.01, max_iter=600, learning_rate=5e-3)
    model = MLPVelocity(make_problem(trainer.path, x), hidden_size=64, dropout=0.0)
    field = FlowField(trainer.path, fit(trainer, model, x, None)[0].requires_grad_(False))
    x_0 = trainer.source.sample(4000, generator=generator, like=x)
    y = field.denoise(integrate(field, x_0, n_steps=16))
    # Two sets of 4,000 entries of variance below 0.5 differ by 0.016 (one standard error); the
    # source is off by 0.45 in its mean.
    torch.testing.assert_close(y.mean(0), x.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(y.T @ y / 4000, x.T @ x / 4000, atol=0.06, rtol=0)


def test_biases_that_go_with_their_rows_keep_their_spread(generator):
    """The affine part alone carries rows on a sphere and correlated biases to their covariance."""
    manifold = ProductManifold([SphereBlock(1, 60), EuclideanBlock(10)])
    n = 4000
    bias = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    row = torch.randn(n, 60, generator=generator, dtype=torch.float64)
    row[:, :10] = (row[:, :10] + bias) / math.sqrt(2)
    x = manifold.projx(torch.cat([row, bias], 1))
    scale = torch.where(manifold.sphere_mask, math.sqrt(60), 1.0).double()
    path = GeodesicPath(manifold, 1e-3)
    denoiser = AffineDenoiser(x * scale, None, path.schedule)
    field = FlowField(path, lambda t, x: denoiser(t, x * scale).mean / scale)
    x_0 = StandardSource(manifold).sample(n, generator=generator, like=x)
    y = field.denoise(integrate(field, x_0))
    # A ratio of standard deviations of n draws has the standard error 1 / sqrt(n) = 0.016, its
    # mean over ten coordinates 0.005; orthogonality in 60 dimensions is off by 1 / 60 at most.
    ratio = y.std(0) / x.std(0)
    assert ratio[:10].mean().item() == pytest.approx(1, abs=0.03)
    assert ratio[60:].mean().item() == pytest.approx(1, abs=0.03)


def test_gaussian_to_gaussian_keeps_the_variance():
    """[E25] 7.1: N(0, I) to N(1, I) on the 802 weights of 30-16-16-2, deterministic samples.

    Bounds: mean within 0.02, standard deviation per coordinate within 5 %.
    """
    n_train, n_pairs, n_weights = 8000, 2000, 802
    generator = torch.Generator().manual_seed(0)
    manifold = ProductManifold([EuclideanBlock(n_weights)])
    x = 1 + torch.randn(n_train, n_weights, generator=generator)
    trainer = make_trainer(manifold, sigma=1e-3, max_iter=300, learning_rate=1e-3)
    model = MLPVelocity(make_problem(trainer.path, x), hidden_size=64)
    field = FlowField(trainer.path, fit(trainer, model, x, None)[0].requires_grad_(False))
    half = trainer.source.sample(n_pairs, generator=generator, like=x)
    # Antithetic pairs: their mean is free of the source's noise, up to what is not affine.
    y = field.denoise(integrate(field, torch.cat([half, -half]), n_steps=8))
    error_of_mean, ratio_of_std = y.mean(0) - 1, y.std(0)
    # Averages over the 802 coordinates are known to better than 0.001 and judge the flow itself.
    assert error_of_mean.mean().abs() < 0.02
    assert (ratio_of_std.mean() - 1).abs() < 0.05
    # Root mean squares over coordinates include sampling noise: 1 / sqrt(8000) = 0.011 of the
    # training means; sqrt(1 / 16,000 + 1 / 4,000) = 0.018 of the standard deviations. Being means
    # of 802 squares they vary by 3 % of that; the flow's own error makes the first one 0.014.
    assert error_of_mean.square().mean().sqrt() < 0.02
    assert (ratio_of_std - 1).square().mean().sqrt() < 0.05
