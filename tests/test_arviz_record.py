"""Records for ArviZ, and convergence of functions, against closed forms and brute force."""

import functools
import math
import sys
from types import SimpleNamespace

import arviz as az
import matplotlib
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import norm, rankdata
from torch import nn

from bayesflow_nn import Architecture, FlowPosterior, WeightPopulation, inference_data, pointwise
from bayesflow_nn.arviz_record import function_diagnostics, population_record, posterior_record
from bayesflow_nn.flow import Refresh
from bayesflow_nn.inference_data import convergence, to_inference_data
from bayesflow_nn.velocity import MLPVelocity
from bayesflow_nn.weights import Categorical

NOISE = 0.5
# ArviZ 0.23 calls what matplotlib 3.11 and pandas 3.1 have announced to remove.
LEGACY = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make_population(n_chains=3, n_draws=5, sizes=(2, 4, 3), task="classification", seed=0):
    mlp = Architecture.mlp(sizes)
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(n_chains, n_draws, mlp.n_weights))
    return WeightPopulation.from_array(draws, architecture=mlp, task=task)


@pytest.fixture
def classifiers():
    rng = np.random.default_rng(1)
    return make_population(), rng.normal(size=(6, 2)), np.array([0, 1, 2, 2, 1, 0])


@pytest.fixture(scope="module")
def line():
    """Bayesian linear regression y = a x + b: exact posterior draws, exact leave-one-out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    y = 0.8 * x[:, 0] - 0.3 + NOISE * rng.normal(size=30)
    design = np.hstack([x, np.ones_like(x)])
    covariance = np.linalg.inv(design.T @ design / NOISE**2 + np.eye(2))
    mean = covariance @ design.T @ y / NOISE**2
    draws = rng.multivariate_normal(mean, covariance, size=4000)
    population = WeightPopulation.from_array(
        draws, architecture=Architecture.mlp([1, 1]), task="regression"
    )
    # Without input i, target i is normal with these moments: a row of a Gaussian's precision.
    precision = np.linalg.inv(design @ design.T + NOISE**2 * np.eye(30))
    variance = 1 / precision.diagonal()
    elpd = norm.logpdf(y, y - variance * (precision @ y), np.sqrt(variance))
    return population, x, y, elpd


@pytest.fixture(scope="module")
def line_record(line):
    population, x, y, _ = line
    return population_record(population, x, y, likelihood=NOISE, random_state=0)


@pytest.fixture(scope="module")
def posterior():
    """A flow over classifiers."""
    fast = functools.partial(MLPVelocity, hidden_size=16, n_blocks=1)
    return FlowPosterior(velocity=fast, max_iter=20, n_steps=4, random_state=0).fit(
        make_population(60, 1)
    )


def test_parameters_have_their_names_shapes_chains_and_draws(classifiers):
    population, _, _ = classifiers
    record = population_record(population)
    assert record.groups() == ["posterior"]
    names = dict(population.architecture.module.named_parameters())
    assert (
        set(record.posterior.data_vars)
        == set(names)
        == {"0.weight", "0.bias"}
        | {
            "2.weight",
            "2.bias",
        }
    )
    weight = record.posterior["2.weight"]
    assert weight.dims == ("chain", "draw", "2.weight_dim_0", "2.weight_dim_1")
    module = population.architecture.to_module(population.weights[1 * 5 + 3])
    assert np.array_equal(weight.sel(chain=1, draw=3), module[2].weight.detach())


def test_chains_and_draws_keep_their_labels_in_any_order_of_rows():
    population = make_population(2, 3)
    labelled = WeightPopulation(
        population.weights,
        architecture=population.architecture,
        chain=[7, 4, 7, 4, 7, 4],
        draw=[30, 10, 10, 20, 20, 30],
        metrics={"loss": torch.arange(6.0)},
    )
    record = population_record(labelled)
    assert record.posterior.chain.values.tolist() == [4, 7]
    assert record.posterior.draw.values.tolist() == [10, 20, 30]
    assert record.sample_stats["loss"].values.tolist() == [[1, 3, 5], [2, 4, 0]]


def test_an_ensemble_is_one_chain():
    ensemble = make_population(8, 1)
    assert population_record(ensemble).posterior["0.bias"].shape == (1, 8, 4)


def test_ragged_chains_are_cut_to_their_last_draws():
    population = make_population(1, 9)
    ragged = WeightPopulation(
        population.weights,
        architecture=population.architecture,
        chain=[0] * 5 + [1] * 4,
        draw=[*range(5), *range(4)],
        metrics={"row": torch.arange(9)},
    )
    with pytest.warns(UserWarning, match="4 to 5 draws and were cut .*: 1 of 9 draws were dropped"):
        record = population_record(ragged)
    assert record.sample_stats["row"].values.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_log_likelihoods_of_labels(classifiers):
    population, X, y = classifiers
    record = population_record(population, X, y, random_state=0)
    got = record.log_likelihood["y"]
    assert got.dims == ("chain", "draw", "input")
    for chain, draw in [(0, 0), (1, 4), (2, 2)]:
        module = population.architecture.to_module(population.weights[5 * chain + draw])
        logits = module(torch.tensor(X)).detach().numpy()
        expected = log_softmax(logits, axis=1)[np.arange(6), y]
        np.testing.assert_allclose(got.sel(chain=chain, draw=draw), expected, rtol=1e-12)
    assert np.array_equal(record.observed_data["y"], y)
    assert np.array_equal(record.constant_data["X"], X)


def test_log_likelihoods_of_targets_are_summed_over_outputs():
    population = make_population(2, 4, (2, 3, 2), "regression")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    record = population_record(population, X, y, likelihood=0.3, random_state=0)
    means = population.apply(torch.tensor(X)).numpy()
    expected = norm.logpdf(y, means, 0.3).sum(-1).reshape(2, 4, 5)
    np.testing.assert_allclose(record.log_likelihood["y"], expected, rtol=1e-12)
    assert record.posterior_predictive["y"].dims == ("chain", "draw", "input", "y_dim_0")
    assert record.observed_data["y"].dims == ("input", "y_dim_0")


def test_networks_run_with_their_own_buffers():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    architecture = Architecture(module, torch.zeros(1, 2))
    generator = torch.Generator().manual_seed(0)
    population = WeightPopulation(
        torch.randn(4, architecture.n_weights, generator=generator),
        architecture=architecture,
        task="classification",
        buffers={"1.running_mean": torch.randn(4, 3, generator=generator)},
    )
    X, y = torch.randn(5, 2, generator=generator), torch.tensor([0, 1, 0, 1, 1])
    record = population_record(population, X, y, random_state=0)
    for k in range(4):
        own = {"1.running_mean": population.buffers["1.running_mean"][k]}
        logits = architecture.to_module(population.weights[k], own)(X)
        expected = logits.log_softmax(1)[range(5), y].detach()
        np.testing.assert_allclose(record.log_likelihood["y"][0, k], expected, atol=1e-5)


def test_drawn_labels_have_the_predicted_frequencies():
    mlp = Architecture.mlp([1, 3], bias=False)
    row = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    same = WeightPopulation(row.repeat(20_000, 1), architecture=mlp, task="classification")
    record = population_record(same, [[1.0]], random_state=0)
    assert set(record.groups()) == {"posterior", "posterior_predictive", "constant_data"}
    share = np.bincount(record.posterior_predictive["y"].values.ravel(), minlength=3) / 20_000
    p = softmax([0.5, -1.0, 2.0])
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 20_000)).all()


def test_drawn_targets_have_the_mean_and_noise_of_the_model(line):
    population, x, _, _ = line
    record = population_record(population, x, likelihood=2.0, random_state=0)
    drawn = record.posterior_predictive["y"]
    rest = drawn.values[0] - population.apply(torch.tensor(x)).numpy()[..., 0]
    n = rest.size  # 120,000
    assert abs(rest.mean()) < 4 * 2.0 / math.sqrt(n)
    assert abs(rest.std() - 2.0) < 4 * 2.0 / math.sqrt(2 * n)


def test_draws_depend_on_the_seed_and_not_on_the_blocks(classifiers, monkeypatch):
    population, X, y = classifiers
    first, other = (population_record(population, X, y, random_state=seed) for seed in (0, 1))
    monkeypatch.setattr(pointwise, "_CHUNK", 4)  # less than the inputs of one network
    again = population_record(population, X, y, random_state=0)
    for group in ("posterior_predictive", "log_likelihood"):
        np.testing.assert_allclose(first[group]["y"], again[group]["y"], rtol=1e-12)
    assert not np.array_equal(first.posterior_predictive["y"], other.posterior_predictive["y"])


def test_a_posterior_is_one_chain_with_its_log_densities(posterior, classifiers):
    _, X, y = classifiers
    record = posterior_record(posterior, X, y, n_samples=6, log_prob=True, random_state=3)
    networks = posterior.sample(6, random_state=3)
    assert np.array_equal(record.posterior["2.bias"], networks[None, :, -3:])
    assert np.array_equal(record.sample_stats["lp"], posterior.log_prob(networks)[None])
    logits = posterior.architecture_.apply(torch.tensor(networks), torch.tensor(X))
    expected = log_softmax(logits.double().numpy(), axis=-1)[:, np.arange(6), y]
    np.testing.assert_allclose(record.log_likelihood["y"][0], expected, atol=1e-6)
    again = posterior_record(posterior, X, y, n_samples=6, random_state=3)
    assert np.array_equal(again.posterior_predictive["y"], record.posterior_predictive["y"])
    assert list(again.sample_stats) == ["n_evaluations"]


STAGES = {"exponential_euler": 1, "euler": 1, "midpoint": 2, "rk4": 4}


def test_a_record_says_how_often_the_flow_was_evaluated(posterior):
    for solver, stages in STAGES.items():
        # After the last step one evaluation removes the width floor; noise is drawn anew before
        # every step but the first, or by default from t = 0.6 on.
        for noise, n_draws in {0: 0, Refresh(1.0, start=0.0): 4, 1: 2}.items():
            record = posterior_record(posterior, n_samples=3, solver=solver, n_steps=5, noise=noise)
            assert (record.sample_stats["n_evaluations"] == 5 * stages + 1 + n_draws).all()
    fast = posterior.distill(2, n_trajectories=20, max_iter=2, random_state=0)
    assert (posterior_record(fast, n_samples=3).sample_stats["n_evaluations"] == 2).all()
    assert not posterior.field_.predictor._forward_pre_hooks


def test_arviz_1_smooths_the_same_ratios(monkeypatch):
    ratios = np.random.default_rng(0).standard_t(3, size=500)
    smoothed, pareto_k = inference_data.pareto_smoothed(ratios)

    def psislw(log_likelihood):  # takes minus the ratios, and gives weights of sum one
        weights, k = az.psislw(-log_likelihood)
        return weights, k

    base = SimpleNamespace(array_stats=SimpleNamespace(psislw=psislw))
    monkeypatch.setitem(sys.modules, "arviz_stats", SimpleNamespace(base=base))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    monkeypatch.setattr(inference_data, "_import_arviz", SimpleNamespace)
    again, k = inference_data.pareto_smoothed(ratios)
    assert k == pareto_k
    np.testing.assert_allclose(again, smoothed, atol=1e-12)
    assert np.array_equal(np.argsort(again), np.argsort(ratios))


def test_conditions_reach_sampling_and_densities_and_wrong_data_cost_no_density():
    calls = []

    def sample(n, *, random_state, condition):
        calls.append(("sample", condition))
        return make_population(n, 1).weights.numpy()

    def log_prob(networks, *, condition):
        calls.append(("log_prob", condition))
        return np.arange(float(len(networks)))

    mlp = make_population().architecture
    stub = SimpleNamespace(
        architecture_=mlp,
        task_="classification",
        likelihood_=Categorical(),
        field_=SimpleNamespace(predictor=torch.nn.Identity()),
        sample=sample,
        log_prob=log_prob,
    )
    record = posterior_record(stub, n_samples=3, log_prob=True, condition="a")
    assert calls == [("sample", "a"), ("log_prob", "a")]
    assert record.sample_stats["lp"].values.tolist() == [[0, 1, 2]]
    assert not record.sample_stats["n_evaluations"].any()
    with pytest.raises(ValueError, match="likelihood must be None or Categorical"):
        posterior_record(stub, np.zeros((1, 2)), likelihood=1.0, log_prob=True, condition="b")
    assert calls[2:] == [("sample", "b")]


def test_a_posterior_of_plain_rows_is_recorded_as_rows():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    plain = FlowPosterior(geometry="euclidean", max_iter=5, random_state=0).fit(rows)
    record = posterior_record(plain, n_samples=5, random_state=0)
    assert np.array_equal(record.posterior["weights"][0], plain.sample(5, random_state=0))
    with pytest.raises(ValueError, match="X and y must be None for a posterior without an arch"):
        posterior_record(plain, [[0.0]])


def test_leave_one_out_agrees_with_the_closed_form(line, line_record):
    exact = line[3]
    loo = az.loo(line_record, pointwise=True)
    assert (loo.pareto_k < 0.7).all()
    # Each input's density is a harmonic mean over draws; by the delta method the error of the sum
    # of their logarithms is that of the mean over draws of the summed relative inverse densities.
    inverse = np.exp(-line_record.log_likelihood["y"].values[0])
    relative = inverse / inverse.mean(0)
    error = relative.sum(1).std() / math.sqrt(len(relative))
    assert error < 0.05
    assert abs(loo.elpd_loo - exact.sum()) < 2 * error
    pointwise_error = relative.std(0) / math.sqrt(len(relative))
    assert (np.abs(loo.loo_i - exact) < 4 * pointwise_error).all()


@LEGACY
def test_records_are_compared_by_leave_one_out(line, line_record):
    population, x, y, _ = line
    wide = population_record(population, x, y, likelihood=2.0, random_state=0)
    table = az.compare({"wide": wide, "true": line_record})
    assert table.index.tolist() == ["true", "wide"]
    assert table.elpd_loo["true"] == pytest.approx(az.loo(line_record).elpd_loo)


@LEGACY
def test_a_record_can_be_summarised_and_drawn(line, line_record):
    matplotlib.use("Agg")
    summary = az.summary(line_record, kind="stats", hdi_prob=0.94, round_to="none")
    assert summary.index.tolist() == ["0.weight[0, 0]", "0.bias[0]"]
    np.testing.assert_allclose(summary["mean"], line[0].weights.mean(0))
    assert az.plot_trace(line_record).shape == (2, 2)
    az.plot_ppc(line_record, num_pp_samples=5)
    matplotlib.pyplot.close("all")


def test_a_record_survives_a_netcdf_file(classifiers, tmp_path):
    pytest.importorskip("h5netcdf", reason="the backend with which ArviZ writes netCDF")
    population, X, y = classifiers
    record = population_record(population, X, y, random_state=0)
    record.to_netcdf(str(tmp_path / "record.nc"))
    back = az.from_netcdf(str(tmp_path / "record.nc"))
    assert back.groups() == record.groups()
    assert all(back[group].identical(record[group]) for group in record.groups())


def test_arviz_1_gets_a_tree_of_the_same_groups(classifiers, monkeypatch):
    population, X, y = classifiers
    record = population_record(population, X, y, random_state=0)
    monkeypatch.setattr(
        inference_data, "_import_arviz", lambda: SimpleNamespace(__version__="1.0.0")
    )
    tree = population_record(population, X, y, random_state=0)
    assert list(tree.children) == record.groups()
    assert all(tree[group].to_dataset().identical(record[group]) for group in tree.children)


def split_r_hat(draws):
    """R-hat of draws ``(n_chains, n_draws)`` as defined, on ranks and on folded ranks."""

    def plain(values):
        z = norm.ppf((rankdata(values).reshape(values.shape) - 3 / 8) / (values.size + 1 / 4))
        n = z.shape[1]
        within = z.var(1, ddof=1).mean()
        between = n * z.mean(1).var(ddof=1)
        return math.sqrt(((n - 1) / n * within + between / n) / within)

    halves = np.concatenate(np.split(draws, 2, axis=1))
    return max(plain(halves), plain(np.abs(halves - np.median(halves))))


def test_r_hat_is_the_one_of_the_definition():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 50, 3))
    draws[0, :, 1] += 1.0  # another place
    draws[0, :, 2] *= 4.0  # another width, which only folding sees
    got = convergence(draws).r_hat
    np.testing.assert_allclose(got, [split_r_hat(draws[..., i]) for i in range(3)], rtol=1e-6)
    assert got[0] < 1.05 < got[1:].min()


def test_effective_sample_sizes_are_those_of_autoregressive_chains():
    rho, rng = 0.8, np.random.default_rng(0)
    x = np.empty((4, 4000))
    x[:, 0] = rng.normal(size=4)
    for t in range(1, 4000):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=4)
    # Autocorrelation rho^t makes n draws worth n (1 - rho) / (1 + rho); their estimate from
    # 1,800 effective draws is off by some ten percent.
    assert convergence(x).ess_bulk == pytest.approx(16_000 * (1 - rho) / (1 + rho), rel=0.2)
    assert convergence(rng.normal(size=(4, 4000))).ess_tail == pytest.approx(16_000, rel=0.2)


def test_functions_of_a_line_converge_as_its_slope():
    slope = np.random.default_rng(0).normal(size=(4, 40, 1)) + np.array([[[0.0]], [[1.0]]] * 2)
    population = WeightPopulation.from_array(
        slope, architecture=Architecture.mlp([1, 1], bias=False), task="regression"
    )
    found = function_diagnostics(population, [[1.0], [3.0]], [0.0, 100.0], likelihood=1.0)
    assert (found.n_chains, found.n_draws) == (4, 40)
    np.testing.assert_allclose(found.predictions.r_hat, split_r_hat(slope[..., 0]), rtol=1e-6)
    log_density = norm.logpdf([0.0, 100.0], slope * [1.0, 3.0], 1.0)
    expected = [split_r_hat(log_density[..., i]) for i in range(2)]
    np.testing.assert_allclose(found.log_density.r_hat, expected, rtol=1e-6)


def test_chains_of_permuted_networks_agree_as_functions():
    """Swapping two hidden neurons changes every weight and no prediction."""
    mlp = Architecture.mlp([1, 2, 2], "tanh")
    rng = np.random.default_rng(0)
    draws = np.array([2.0, -1, 1, 0, 1, -2, 0, 1, 0, 0]) + 0.1 * rng.normal(size=(4, 50, 10))
    draws[2:] = draws[2:][..., [1, 0, 3, 2, 5, 4, 7, 6, 8, 9]]
    population = WeightPopulation.from_array(draws, architecture=mlp, task="classification")
    X = rng.normal(size=(5, 1))
    assert convergence(draws).r_hat[:4].min() > 1.5
    found = function_diagnostics(population, X, [0, 1, 0, 1, 1])
    assert found.predictions.r_hat.shape == (5, 2)
    assert max(found.predictions.r_hat.max(), found.log_density.r_hat.max()) < 1.06
    p = population.apply(torch.tensor(X)).softmax(-1).numpy().reshape(4, 50, 5, 2)
    assert found.predictions.r_hat[3, 1] == pytest.approx(split_r_hat(p[..., 3, 1]), rel=1e-6)
    assert f"({found.predictions.r_hat.max():.3f})" in str(found)
    assert f"{np.median(found.log_density.r_hat):.3f} (" in str(found)


def test_what_never_changes_is_left_out_of_the_summary():
    mlp = Architecture.mlp([1, 1], bias=False)
    slope = np.random.default_rng(0).normal(size=(2, 20, 1))
    population = WeightPopulation.from_array(slope, architecture=mlp, task="regression")
    found = function_diagnostics(population, [[0.0], [1.0]])
    assert np.isnan(found.predictions.r_hat[0, 0])
    assert "(1 the same in all draws left out)" in str(found) and "nan" not in str(found)
    assert "the same in all draws" in str(function_diagnostics(population, [[0.0]]))


@pytest.mark.parametrize(
    ("n_chains", "n_draws", "got"), [(1, 20, "1 of 20"), (5, 3, "5 of 3"), (9, 1, "9 of 1")]
)
def test_too_few_chains_or_draws_are_refused(n_chains, n_draws, got):
    with pytest.raises(ValueError, match=f"at least 2, of at least 4 draws .* got {got}"):
        function_diagnostics(make_population(n_chains, n_draws), np.zeros((3, 2)))


def test_wrong_data_are_refused(classifiers):
    population, X, y = classifiers
    targets = make_population(task="regression", sizes=(2, 1))
    cases = [
        (population, None, y, {}, "X must be given with y, got None"),
        (
            population,
            X,
            y,
            {"likelihood": 1.0},
            "likelihood must be None or Categorical\\(\\) for classification, got 1.0",
        ),
        (population, X, y[:4], {}, "X and y must have the same number of rows"),
        (population, X, y + 1, {}, "y must hold labels from 0 to 2"),
        (population, X[:, :1], y, {}, r"X must have shape \(n_inputs, 2\), got \(6, 1\)"),
        (population, X[:0], None, {}, "X must hold at least one input"),
        (population, X * np.nan, None, {}, "X in rows 0, 1, .* must be finite"),
        (targets, X, None, {}, "likelihood must be the standard deviation .* got None"),
        (targets, X, None, {"likelihood": 0.0}, "scale must be finite and > 0"),
        (make_population(task=None), X, y, {}, "population.task must be one of .* got None"),
        (make_population(sizes=(2, 1)), X, None, {}, "one output per class, at least 2, .* got 1"),
    ]
    for networks, inputs, labels, options, message in cases:
        with pytest.raises(ValueError, match=message):
            population_record(networks, inputs, labels, **options)
    with pytest.raises(ValueError, match="likelihood must be the standard deviation"):
        function_diagnostics(targets, X, np.zeros(6))


def test_diverged_networks_are_refused():
    weights = make_population().weights.clone()
    weights[3, 0] = np.nan
    diverged = WeightPopulation(
        weights, architecture=Architecture.mlp([2, 4, 3]), allow_nonfinite=True
    )
    with pytest.raises(ValueError, match="weights of networks 3 must be finite"):
        population_record(diverged)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"lp must have one row per network, 4 .* shape \(3,\)"):
        to_inference_data({"w": np.zeros((4, 2))}, sample_stats={"lp": np.zeros(3)})
    with pytest.raises(ValueError, match="must not be named .* got 'draw'"):
        to_inference_data({"draw": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"chain must have one entry per network, shape \(4,\)"):
        to_inference_data({"w": np.zeros((4, 2))}, chain=[0, 1])


def test_parameters_may_be_called_as_the_data():
    record = to_inference_data({"X": np.zeros((4, 2)), "y": np.zeros(4)}, y=np.zeros(3))
    assert record.posterior["X"].dims == ("chain", "draw", "X_dim_0")
    assert record.posterior["y"].dims == ("chain", "draw")
    assert record.observed_data["y"].dims == ("input",)


def test_more_chains_than_draws_are_nothing_to_warn_of():
    """ArviZ takes them for transposed; warnings are errors here."""
    draws = np.random.default_rng(0).normal(size=(60, 20, 3))
    found = convergence(draws)
    # Independent draws: 1,200 of them, of which an estimate may be off by a quarter.
    assert found.ess_bulk == pytest.approx(1200, rel=0.25)
