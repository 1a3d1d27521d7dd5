"""FlowPosterior keeps scikit-learn's contract, its own, and the laws of probability densities."""

import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from torch import nn

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, train_population
from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.velocity import MLPVelocity, ProbeVelocity

# Facts of the contract hold for any velocity: one of 16 hidden units, trained for a few steps, is
# as good as the default one and a hundred times faster.
TINY = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
TINY_PROBES = functools.partial(ProbeVelocity, n_probes=8)
FAST = {"velocity": TINY, "max_iter": 3, "n_steps": 4, "random_state": 0}
MLP = Architecture.mlp([4, 5, 3])
GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
OUTPUT_LAYERS = ["polar", "sphere", "euclidean"]

CHECKED = FlowPosterior(geometry="euclidean", max_iter=2, n_steps=2)


def make_posterior(**parameters):
    return FlowPosterior(**(FAST | parameters))


@pytest.fixture(scope="module")
def inputs():
    X = load_iris().data.astype(np.float32)
    return (X - X.mean(0)) / X.std(0)


@pytest.fixture(scope="module")
def population(inputs):
    return train_population(
        MLP, inputs, load_iris().target, n_networks=40, n_epochs=5, random_state=0
    )


@pytest.fixture(scope="module")
def posterior(population):
    return make_posterior().fit(population)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def density(points):
    return make_posterior(geometry="euclidean").fit(points)


# scikit-learn's contract


@pytest.mark.filterwarnings("ignore:.*chains are too few for validation_fraction:UserWarning")
@parametrize_with_checks([CHECKED])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_the_contract_is_that_of_scikit_learn_in_full():
    listed = {
        getattr(check, "func", check).__name__ for _, check in estimator_checks_generator(CHECKED)
    }
    (mark,) = (m for m in test_scikit_learn_contract.pytestmark if m.name == "parametrize")
    ran = [parameters[1] for parameters in mark.args[1]]
    assert {getattr(check, "func", check).__name__ for check in ran} == listed
    # scikit-learn 1.6 has 38 checks for a density estimator, 1.9 has 41.
    assert len(ran) >= 38
    assert {
        "check_methods_subset_invariance",
        "check_methods_sample_order_invariance",
        "check_fit_idempotent",
        "check_estimators_pickle",
        "check_n_features_in_after_fitting",
    } <= listed


def test_clones_have_equal_parameters_and_no_fit(posterior, population):
    copy = clone(posterior)
    assert repr(copy.get_params()) == repr(posterior.get_params())
    with pytest.raises(NotFittedError):
        copy.sample()
    assert np.array_equal(draw(copy.fit(population)), draw(posterior))


def test_parameters_are_stored_unchanged():
    parameters = make_posterior().get_params()
    other = FlowPosterior().set_params(**parameters)
    assert all(other.get_params()[name] is value for name, value in parameters.items())
    with pytest.raises(ValueError, match="Invalid parameter 'temperature'"):
        other.set_params(temperature=1.0)


@pytest.mark.parametrize("velocity", [TINY, TINY_PROBES], ids=["mlp", "probe"])
def test_a_pickled_posterior_is_the_same_posterior(population, inputs, velocity):
    original = make_posterior(velocity=velocity, max_iter=30, batch_size=32).fit(population)
    copy = pickle.loads(pickle.dumps(original))
    assert np.array_equal(draw(original), draw(copy))
    rows = population.weights[:5]
    assert np.array_equal(original.log_prob(rows), copy.log_prob(rows))
    assert np.array_equal(original.predict_proba(inputs), copy.predict_proba(inputs))


# Determinism


def draw(posterior, n_samples=5, **options):
    return posterior.sample(n_samples, random_state=0, **options)


@pytest.mark.parametrize("velocity", ["auto", "mlp"])
def test_the_same_seed_gives_the_same_bytes(population, velocity):
    options = {"velocity": velocity, "max_iter": 2, "batch_size": 8, "n_steps": 2}
    first, second = (FlowPosterior(**options, random_state=7).fit(population) for _ in range(2))
    assert draw(first).tobytes() == draw(second).tobytes()
    rows = population.weights[:3]
    assert first.log_prob(rows).tobytes() == second.log_prob(rows).tobytes()
    other = FlowPosterior(**options, random_state=8).fit(population)
    assert not np.array_equal(draw(first), draw(other))
    assert not np.array_equal(draw(first), first.sample(5, random_state=1))


def test_global_random_states_are_not_touched(population, inputs):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    made = make_posterior().fit(population)
    made.predict_proba(inputs[:2])
    made.novelty(n_samples=2, random_state=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_density_of_a_row_does_not_depend_on_other_rows(population, trace):
    made = make_posterior(trace=trace, n_probes=3).fit(population)
    rows = population.weights[:10]
    together = made.log_prob(rows)
    alone = np.concatenate([made.log_prob(row[None]) for row in rows])
    # Products of matrices of another size round differently in float64; values are of order 100.
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-9)
    np.testing.assert_allclose(made.log_prob(rows.flip(0))[::-1], together, rtol=0, atol=1e-9)


def test_predictions_repeat_unless_asked_otherwise(posterior, inputs):
    proba = posterior.predict_proba(inputs)
    assert np.array_equal(posterior.predict_proba(inputs), proba)
    np.testing.assert_allclose(posterior.predict_proba(inputs[:7]), proba[:7], atol=1e-6)
    assert not np.array_equal(posterior.predict_proba(inputs, random_state=1), proba)


# Networks in, networks out


@pytest.mark.parametrize("output_layer", OUTPUT_LAYERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry_gives_networks_densities_and_predictions(
    population, inputs, geometry, output_layer
):
    made = make_posterior(geometry=geometry, output_layer=output_layer).fit(population)
    weights = draw(made, 6)
    assert (weights.shape, weights.dtype) == ((6, MLP.n_weights), np.float32)
    proba = MLP.apply(torch.from_numpy(weights), torch.from_numpy(inputs)).softmax(-1)
    assert proba.shape == (6, len(inputs), 3)
    # The average is over the very networks that `sample` draws from this seed; float32.
    average = made.predict_proba(inputs, n_samples=6, random_state=0)
    np.testing.assert_allclose(average, proba.mean(0), atol=1e-6)
    labels = made.predict(inputs, n_samples=6, random_state=0)
    assert np.array_equal(labels, average.argmax(1))
    log_p, error = made.log_prob(weights, return_std=True)
    assert log_p.shape == (6,) and log_p.dtype == np.float64 and np.isfinite(log_p).all()
    assert not error.any()  # 39 coordinates or fewer: the trace is exact
    assert np.array_equal(made.score_samples(weights), log_p)
    assert made.score(weights) == log_p.mean()


@pytest.mark.parametrize("geometry", ["product_sphere", "normalized"])
def test_sampled_networks_are_canonical(population, geometry):
    weights = torch.from_numpy(draw(make_posterior(geometry=geometry).fit(population), 20))
    tensors = MLP.unflatten(weights)
    rows, _, output, shift = tensors.values()
    # Float32: a few roundings of numbers of order one.
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(20, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.mean(1), torch.zeros(20, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(shift.mean(1), torch.zeros(20), rtol=0, atol=1e-5)


def equivalent(weights):
    """The same functions: neurons reversed and rescaled, logits shifted."""
    rows, biases, output, shift = (t.double() for t in MLP.unflatten(weights).values())
    scale = torch.tensor([0.2, 3.0, 1.5, 0.7, 5.0], dtype=torch.float64)
    rows, biases, output = rows.flip(1) * scale[:, None], biases.flip(1) * scale, output.flip(2)
    layers = rows, biases, output / scale + 0.3, shift - 2.0
    return MLP.flatten(dict(zip(MLP.names, layers, strict=True)))


def test_networks_that_differ_by_symmetries_have_one_density(posterior, population, inputs):
    weights = population.weights[:8].double()
    twins = equivalent(weights)
    X = torch.from_numpy(inputs).double()
    torch.testing.assert_close(
        MLP.apply(twins, X).softmax(-1), MLP.apply(weights, X).softmax(-1), rtol=0, atol=1e-12
    )
    assert (twins - weights).abs().max() > 1
    # Both become the same points up to float64 rounding; the aligner's reference is float32.
    np.testing.assert_allclose(
        posterior.log_prob(twins), posterior.log_prob(weights), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("output_layer", OUTPUT_LAYERS)
def test_only_the_sphere_loses_probabilities_and_it_keeps_the_arg_max(
    population, inputs, output_layer
):
    made = make_posterior(output_layer=output_layer).fit(population)
    X = torch.from_numpy(inputs).double()
    before = MLP.apply(population.weights.double(), X)
    after = MLP.apply(made.chart_.to_weights(made.to_points(population)), X)
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    moved = (after.softmax(-1) - before.softmax(-1)).abs().max()
    # Exact charts: float64 rounding. The sphere changes the norm of the output layer, which is
    # well above one after training.
    assert moved > 0.05 if output_layer == "sphere" else moved < 1e-12


def test_a_regression_population_predicts_means(inputs):
    mlp = Architecture.mlp([3, 4, 1])
    population = train_population(
        mlp, inputs[:, :3], inputs[:, 3:], n_networks=30, n_epochs=2, random_state=0
    )
    made = make_posterior().fit(population)
    networks = torch.from_numpy(draw(made, 9))
    mean = mlp.apply(networks, torch.from_numpy(inputs[:, :3])).mean(0)
    predicted = made.predict(inputs[:, :3], n_samples=9, random_state=0)
    assert predicted.shape == (150,)
    np.testing.assert_allclose(predicted, mean[:, 0], atol=1e-5)  # float32 sums of order one
    assert not hasattr(made, "predict_proba") and not hasattr(made, "uncertainty")
    with pytest.raises(ValueError, match=r"got None; call fit_noise\(X, y\)"):
        made.predict(inputs[:, :3], return_std=True)


def test_a_network_that_sets_a_scale_alone_is_named(inputs):
    weights = torch.randn(1200, MLP.n_weights, generator=torch.Generator().manual_seed(0))
    weights[7, :4] *= 1e-6  # the first neuron is nearly dead, and its bias 1e6 times as large
    made = make_posterior(architecture=MLP, task="classification", validation_fraction=0.0)
    with pytest.warns(UserWarning, match="networks 7 have a coordinate more than 30 standard"):
        made.fit(weights)


def test_predictions_exist_once_architecture_and_task_are_known(points, population, density):
    assert not hasattr(FlowPosterior(), "predict")
    assert not hasattr(FlowPosterior(task="classification"), "predict_proba")
    assert not hasattr(density, "predict")
    made = make_posterior(task="regression", geometry="euclidean").fit(points)
    assert not hasattr(made, "predict")  # still without an architecture
    for method in ("predict", "predict_proba"):
        ready = FlowPosterior(architecture=MLP, task="classification")
        with pytest.raises(NotFittedError):
            getattr(ready, method)(np.zeros((1, 4)))
    made = make_posterior(architecture=MLP).fit(population.weights)
    assert not hasattr(made, "predict")  # still without a task
    with pytest.raises(AttributeError) as caught:
        getattr(made, "predict_proba")  # noqa: B009
    assert "predictions need an architecture and a task in ['classification']" in str(
        caught.value.__cause__
    )


def test_an_array_with_an_architecture_and_a_population_are_the_same(population):
    arrays = make_posterior(architecture=MLP, task="classification")
    arrays.fit(population.weights.numpy())
    assert np.array_equal(draw(arrays), draw(make_posterior().fit(population)))


def test_read_only_arrays_and_lists_are_read(density, points):
    frozen = points.copy()
    frozen.flags.writeable = False
    expected = density.log_prob(points)
    assert np.array_equal(density.log_prob(frozen), expected)
    assert np.array_equal(density.log_prob(points.tolist()), expected)
    assert np.array_equal(density.log_prob(torch.from_numpy(points)), expected)


def test_an_alignment_object_replaces_weight_matching(population):
    aligner = PermutationAligner(MLP, reference=population.weights[0], logit_shift=True)
    made = make_posterior(alignment=aligner).fit(population)
    assert made.aligner_ is not aligner and not hasattr(aligner, "reference_")
    # The reference is a network of the population: aligning it changes nothing.
    assert torch.equal(made.aligner_.transform(population.weights[:1]), population.weights[:1])
    free = make_posterior(alignment=None).fit(population)
    assert free.aligner_ is None
    assert not torch.equal(free.training_points_, made.training_points_)


def test_any_module_is_a_row_of_numbers_in_the_euclidean_geometry():
    modules = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(12)]
    generator = torch.Generator().manual_seed(0)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, generator=generator)
    population = WeightPopulation.from_modules(modules, task="classification")
    made = make_posterior(geometry="euclidean", alignment=None)
    with pytest.warns(UserWarning, match="population has buffers .*running_mean.* does not model"):
        made.fit(population)
    assert made.sample(2, random_state=0).shape == (2, population.architecture.n_weights)
    assert made.predict_proba(np.zeros((4, 3))).shape == (4, 2)


@pytest.mark.parametrize("geometry", ["product_sphere", "euclidean"])
def test_networks_on_token_indices(geometry):
    module = nn.Sequential(
        nn.Embedding(5, 6), nn.Linear(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)
    )
    architecture = Architecture(module)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 5, (9, 3), generator=generator)
    population = WeightPopulation(
        torch.randn(30, architecture.n_weights, generator=generator),
        architecture=architecture,
        task="classification",
        inputs=tokens,
    )
    made = make_posterior(geometry=geometry).fit(population)
    assert not made.inputs_.is_floating_point()
    assert made.sample(2, random_state=0).shape == (2, architecture.n_weights)


# Densities


def test_scaling_the_data_moves_the_log_density_by_the_volume(points, density):
    # Powers of two: the standardised points are bit for bit the same.
    scale = np.array([4.0, 0.5, 1024.0])
    scaled = make_posterior(geometry="euclidean").fit(points * scale)
    expected = density.log_prob(points) - np.log(scale).sum()
    np.testing.assert_allclose(scaled.log_prob(points * scale), expected, rtol=0, atol=1e-9)


def test_shifting_the_data_does_not_move_the_log_density(points, density):
    shifted = make_posterior(geometry="euclidean").fit(points + 8.0)
    # Training sees the points in float32, 8 eps = 1e-6 apart; densities are smooth there.
    np.testing.assert_allclose(
        shifted.log_prob(points + 8.0), density.log_prob(points), rtol=0, atol=1e-3
    )


MEAN = np.array([3.0, -1.0])
COVARIANCE = np.array([[4.0, 0.8], [0.8, 0.25]])  # standard deviations 2 and 0.5, correlation 0.8


def draw_gaussian(n, seed):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=n)


@pytest.fixture(scope="module")
def gaussian():
    return make_posterior(geometry="euclidean", max_iter=300, n_steps=16).fit(
        draw_gaussian(1000, seed=0)
    )


def test_the_density_of_gaussian_data_is_close_to_the_truth(gaussian):
    x = draw_gaussian(500, seed=1)
    centred = x - MEAN
    distance = (centred @ np.linalg.inv(COVARIANCE) * centred).sum(1)
    truth = -distance / 2 - np.log(2 * np.pi) - np.log(np.linalg.det(COVARIANCE)) / 2
    # The best fit of 5 parameters to 1,000 points loses 5 / 2000 = 0.0025 nats. Ten times that is
    # allowed; independent Gaussians, the next best model, lose -log(1 - 0.8²) / 2 = 0.51.
    assert -0.01 < (truth - gaussian.log_prob(x)).mean() < 0.025


def test_the_density_of_gaussian_data_integrates_to_one(gaussian):
    # Five standard deviations each way, 0.2 apart: 0.002 off by the grid (twice the spacing is
    # 0.015 off) and 0.001 by the 16 midpoint steps (against 64 of rk4).
    axes = [np.linspace(m - 5 * s, m + 5 * s, 51) for m, s in zip(MEAN, (2, 0.5), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(gaussian.log_prob(grid)).sum() * cell == pytest.approx(1, abs=0.01)


def test_samples_of_gaussian_data_have_its_moments(gaussian):
    x = gaussian.sample(4000, random_state=0)
    # Standard errors are 1.6 % of a standard deviation for the mean and 1.1 % for the deviation,
    # and those of the 1,000 training points twice that: three of both together.
    assert (np.abs(x.mean(0) - MEAN) < [0.2, 0.05]).all()
    np.testing.assert_allclose(x.std(0), [2, 0.5], rtol=0.08)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.8, abs=0.04)


def test_temperature_scales_the_noise(gaussian, posterior):
    spread = [
        np.linalg.norm(gaussian.sample(2000, random_state=0, temperature=t).std(0))
        for t in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 1e-3  # float32 rounding of standard deviations of numbers up to 3
    # For Gaussian data the flow is affine, and samples shrink as their noise does; the allowance
    # is for what the velocity has learned beyond that.
    assert spread[1] / spread[2] == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(draw(gaussian, temperature=1.0), draw(gaussian))
    # On spheres all noise meets in one point as well.
    assert np.ptp(draw(posterior, temperature=0.0), axis=0).max() < 1e-5


def test_hutchinson_agrees_with_the_exact_trace_within_its_error(population):
    made = make_posterior().fit(population)
    exact = made.log_prob(population.weights[:20])
    made.set_params(trace="hutchinson", n_probes=64)
    value, error = made.log_prob(population.weights[:20], return_std=True)
    # The probes, hence their errors, are shared by all rows: four standard errors for one draw.
    assert (error > 0).all() and (np.abs(value - exact) < 4 * error).all()
    made.set_params(n_probes=1)
    assert np.isnan(made.log_prob(population.weights[:1], return_std=True)[1]).all()


# Training networks, held-out networks, generated networks


@pytest.fixture(scope="module")
def all_fitted(population):
    return make_posterior(validation_fraction=0).fit(population[:30])


def test_few_networks_in_many_dimensions_keep_their_spread_on_principal_components():
    """Noise in R^400: ten components of 270 rows hold twice as much of these rows as of others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 400)) + 3 * rng.normal(size=(300, 2)) @ rng.normal(size=(2, 400))
    posterior = make_posterior(geometry="euclidean", reducer=10, max_iter=1).fit(x)
    rows = torch.as_tensor(x, dtype=torch.float32)
    latent = posterior.chart_.to_point(rows).std(0)
    assert latent[2:].max() > 1.3  # of training rows as they are
    # Thirty held-out networks know a deviation to 13 %; ten components and smoothing average that.
    assert posterior.novelty(n_samples=500, random_state=0).dispersion == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("velocity", ["probe", TINY])
def test_networks_on_principal_components_predict_and_have_densities(population, inputs, velocity):
    posterior = make_posterior(geometry="euclidean", reducer=6, velocity=velocity).fit(population)
    weights = posterior.sample(20, random_state=0)
    assert np.linalg.matrix_rank(weights - weights.mean(0), tol=1e-3) == 6
    assert posterior.to_points(weights).shape == (20, 6)
    assert posterior.predict_proba(inputs[:5]).shape == (5, 3)
    # In the subspace no residual is left: networks of the population are less likely by theirs.
    assert posterior.log_prob(weights).mean() > posterior.log_prob(population).mean() + 5
    with pytest.raises(ValueError, match="reducer must be None for geometry='product_sphere'"):
        make_posterior(reducer=6).fit(population)


def test_copies_of_training_networks_are_not_new(population, all_fitted):
    with pytest.warns(UserWarning, match="nearly copies of training networks"):
        report = all_fitted.novelty(population[30:], generated=population[:30])
    # Training points are float32, their copies float64: distances of 1e-6 instead of zero.
    assert report.novelty < 1e-5
    assert torch.equal(report.generated_nearest, torch.arange(30))


def test_held_out_networks_are_as_new_as_held_out_networks(population, all_fitted):
    report = all_fitted.novelty(population[30:], generated=population[30:])
    assert (report.novelty, report.dispersion) == (1.0, 1.0)


def test_rescaled_and_permuted_copies_are_found_out(population, all_fitted):
    with pytest.warns(UserWarning, match="nearly copies"):
        report = all_fitted.novelty(population[30:], generated=equivalent(population.weights[:30]))
    assert report.novelty < 1e-5


@pytest.mark.filterwarnings("ignore:(novelty|dispersion) is:UserWarning")
def test_novelty_judges_samples_against_the_validation_chains(population, posterior):
    report = posterior.novelty(n_samples=7, random_state=0)
    assert len(report.generated_distance) == 7
    assert len(report.held_out_distance) == 4  # a tenth of 40 chains
    drawn = posterior.novelty(generated=draw(posterior, 7))
    assert drawn.novelty == report.novelty


def test_novelty_needs_held_out_networks(all_fitted):
    with pytest.raises(ValueError, match="held_out must be given: the fit held out 0 networks"):
        all_fitted.novelty()


def test_chains_are_not_cut():
    # 20 chains of 5 networks; all weights of a network are near the number of its chain.
    chain = torch.arange(20).repeat_interleave(5)
    noise = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    mlp = Architecture.mlp([2, 1])
    population = WeightPopulation(chain[:, None] + 0.1 * noise, architecture=mlp, chain=chain)
    made = make_posterior(geometry="euclidean", alignment=None, validation_fraction=0.25)
    made.fit(population)
    train, held_out = (
        made.chart_.to_weights(points).mean(1).floor().int().tolist()
        for points in (made.training_points_, made.held_out_points_)
    )
    assert len(train) == 75 and len(held_out) == 25
    assert len(set(held_out)) == 5 and not set(train) & set(held_out)


# Errors


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_networks_that_are_not_finite_are_named(population, posterior, bad):
    weights = population.weights.double().clone()
    weights[[3, 7], 1] = bad
    with pytest.raises(ValueError, match=r"weights of networks 3, 7 are not finite in .*float32"):
        make_posterior(architecture=MLP).fit(weights)
    if bad != 1e300:  # densities are computed in float64, where this is finite
        with pytest.raises(ValueError, match=r"weights of networks 3, 7 are not finite"):
            posterior.log_prob(weights)
    diverged = WeightPopulation(weights, architecture=MLP, allow_nonfinite=True)
    with pytest.raises(ValueError, match=r"weights of networks 3, 7 .* drop these rows"):
        make_posterior().fit(diverged)


def first_rows(population, n):
    return population.weights[:n].numpy()


def test_wrong_lengths_are_refused(population, posterior, density, inputs):
    short = first_rows(population, 10)[:, :-1]
    with pytest.raises(ValueError, match=r"must have 43 columns for Architecture.mlp.*, got 42"):
        make_posterior(architecture=MLP).fit(short)
    with pytest.raises(ValueError, match="X has 42 features, but FlowPosterior is expecting 43"):
        posterior.log_prob(short)
    with pytest.raises(ValueError, match="X has 43 features, but FlowPosterior is expecting 3"):
        density.log_prob(population.weights)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        posterior.log_prob(population.weights[0])
    with pytest.raises(ValueError, match=r"X must have shape \(n_inputs, 4\), got"):
        posterior.predict_proba(inputs[:, :3])


def test_populations_of_no_use_are_refused(population):
    made = make_posterior(architecture=MLP)
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        made.fit(first_rows(population, 0))
    with pytest.raises(ValueError, match="at least 2 networks, got 1 sample; .*train_population"):
        made.fit(first_rows(population, 1))
    with pytest.raises(ValueError, match="must differ from each other, got 5 equal rows"):
        made.fit(np.repeat(first_rows(population, 1), 5, axis=0))
    with pytest.raises(ValueError, match="leave at least 2 networks to train on, got 0.9 for 5"):
        made.set_params(validation_fraction=0.9).fit(first_rows(population, 5))


def test_too_few_chains_are_reported(population, all_fitted):
    with pytest.warns(UserWarning, match="9 chains are too few for validation_fraction=0.1"):
        made = make_posterior().fit(population[:9])
    assert made.held_out_points_ is None
    one_chain = WeightPopulation(
        population.weights, architecture=MLP, chain=torch.zeros(40, dtype=torch.int64)
    )
    with pytest.warns(UserWarning, match="1 chains are too few"):
        make_posterior().fit(one_chain)


def test_one_posterior_holds_one_architecture(population, posterior):
    tanh = Architecture.mlp([4, 5, 3], activation="tanh")
    other = WeightPopulation(population.weights, architecture=tanh)
    for method in (make_posterior(architecture=MLP).fit, posterior.log_prob, posterior.to_points):
        with pytest.raises(ValueError, match="a population of .*'tanh'.*over .*'relu'.*one arch"):
            method(other)
    with pytest.raises(ValueError, match="a population of .*'tanh'.*over .*'relu'"):
        posterior.novelty(other)


def test_dead_neurons_are_reported_and_keep_their_function(population, inputs):
    weights = population.weights.clone()
    weights[4, 8:12] = 0  # incoming weights of the third hidden neuron
    dead = WeightPopulation(weights, architecture=MLP, task="classification")
    with pytest.warns(UserWarning, match=r"1 hidden neurons in 1 of .* are dead"):
        made = make_posterior().fit(dead)
    with pytest.warns(UserWarning, match=r"are dead .*networks 4\."):
        same = made.chart_.to_weights(made.to_points(dead))
    X = torch.from_numpy(inputs).double()
    torch.testing.assert_close(
        MLP.apply(same, X).softmax(-1), MLP.apply(weights.double(), X).softmax(-1)
    )


WRONG_PARAMETERS = [
    ("geometry", "torus", ValueError, "geometry must be one of .*'product_sphere'.* got 'torus'"),
    ("output_layer", "cone", ValueError, "output_layer must be one of .*'polar'.* got 'cone'"),
    ("coupling", "best", ValueError, "coupling must be one of .*'ot'.* got 'best'"),
    ("prediction", "noise", ValueError, "prediction must be one of .*'velocity'.* got 'noise'"),
    ("time_distribution", "fast", ValueError, "time_distribution must be one of .* got 'fast'"),
    ("solver", "leap", ValueError, "solver must be one of .*'rk4'.* got 'leap'"),
    ("time_grid", "even", ValueError, "time_grid must be one of .*'error'.* got 'even'"),
    ("condition_dropout", 1.0, ValueError, "condition_dropout must be a number in .* got 1.0"),
    ("trace", "full", ValueError, "trace must be one of .*'hutchinson'.* got 'full'"),
    ("task", "ranking", ValueError, "task must be one of .*'regression'.* got 'ranking'"),
    ("velocity", "mpl", ValueError, "velocity must be one of .*'mlp'.* got 'mpl'"),
    ("velocity", 3, TypeError, "velocity must be a name or a callable .* got int"),
    ("alignment", "sorted", ValueError, "alignment must be one of .*, None, or .*'sorted'"),
    ("architecture", nn.Linear(2, 2), TypeError, "architecture must be an Architecture, got Lin"),
    ("sigma", 0, ValueError, r"sigma must be a number in \(0, 1\), got 0"),
    ("sigma", float("nan"), ValueError, r"sigma must be a number in \(0, 1\), got nan"),
    ("sigma", "small", ValueError, r"sigma must be a number in \(0, 1\), got 'small'"),
    ("ema_decay", 1.0, ValueError, r"ema_decay must be a number in \(0, 1\), got 1.0"),
    ("validation_fraction", 1, ValueError, r"validation_fraction must be .* \[0, 1\), got 1"),
    ("max_iter", 0, ValueError, "max_iter must be an integer of at least 1, got 0"),
    ("batch_size", 2.5, ValueError, "batch_size must be an integer of at least 1, got 2.5"),
    ("n_iter_no_change", 0, ValueError, "n_iter_no_change must be an integer of at least 1"),
    ("n_steps", True, ValueError, "n_steps must be an integer of at least 1, got True"),
    ("n_probes", -1, ValueError, "n_probes must be an integer of at least 1, got -1"),
    ("learning_rate", 0.0, ValueError, "learning_rate must be finite and > 0, got 0.0"),
    ("weight_decay", -1.0, ValueError, "weight_decay must be finite and >= 0, got -1.0"),
    ("early_stopping", "yes", ValueError, "early_stopping must be one of .* got 'yes'"),
    ("device", "abacus", ValueError, "device must be a torch device .* got 'abacus'"),
    ("random_state", -1, ValueError, "random_state must be a non-negative integer"),
]


def test_hutch_plus_plus_needs_probes_beside_its_directions(population):
    with pytest.raises(ValueError, match=r"n_probes for trace='hutch\+\+' must be .* got 3"):
        make_posterior(trace="hutch++", n_probes=3).fit(population)


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG_PARAMETERS)
def test_wrong_parameters_are_refused_in_fit(population, name, value, error, message):
    made = FlowPosterior().set_params(**{name: value})  # the constructor takes anything
    with pytest.raises(error, match=message):
        made.fit(population)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 1.5}, r"temperature must be a number in \[0, 1\], got 1.5"),
        ({"temperature": None}, r"temperature must be a number in \[0, 1\], got None"),
        ({"n_samples": 0}, "n_samples must be an integer of at least 1, got 0"),
        ({"n_steps": 0}, "n_steps must be an integer of at least 1, got 0"),
        ({"solver": "leap"}, "solver must be one of .*'rk4'.* got 'leap'"),
    ],
)
def test_wrong_options_of_sample_are_refused(posterior, options, message):
    with pytest.raises(ValueError, match=message):
        posterior.sample(**options)


def test_geometries_that_do_not_exist_are_refused(points):
    with pytest.raises(ValueError, match="'product_sphere' needs an architecture.*'euclidean'"):
        make_posterior().fit(points)
    tanh = Architecture.mlp([1, 1], activation="tanh"), Architecture.mlp([4, 5, 3], "tanh")
    weights = torch.randn(20, tanh[1].n_weights, generator=torch.Generator().manual_seed(0))
    population = WeightPopulation(weights, architecture=tanh[1])
    with pytest.raises(ValueError, match="activations .*'relu'.* got 'tanh'; .*'euclidean'"):
        make_posterior().fit(population)
    assert make_posterior(geometry="euclidean").fit(population).sample(2).shape == weights[:2].shape


def test_a_probing_velocity_needs_a_perceptron(points):
    with pytest.raises(ValueError, match="velocity='probe' needs .* use velocity='mlp'"):
        make_posterior(geometry="euclidean", velocity="probe").fit(points)


def test_other_modules_are_told_which_alignment_and_geometry_they_have():
    convolution = Architecture(nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten()))
    weights = torch.randn(9, convolution.n_weights, generator=torch.Generator().manual_seed(0))
    options = {"architecture": convolution, "validation_fraction": 0}
    with pytest.raises(ValueError, match="found by running it; pass inputs"):
        make_posterior(**options, geometry="euclidean").fit(weights)
    with pytest.raises(ValueError, match="scales of .* are found by running it"):
        make_posterior(**options, alignment=None).fit(weights)
