"""Loss on the line between two networks: closed forms, symmetries, and one network at a time."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesflow_nn.symmetry import PermutationAligner, barrier
from bayesflow_nn.symmetry.barrier import interpolation_losses, loss_barrier
from bayesflow_nn.weights import Architecture, WeightPopulation

LOSSES = {"classification": F.cross_entropy, "regression": F.mse_loss}
N_INPUTS = 23


def random_population(architecture, task, n=6, dtype=torch.float64, seed=0, **labels):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(n, architecture.n_weights, generator=generator, dtype=dtype)
    return WeightPopulation(weights, architecture=architecture, task=task, **labels)


def random_data(task, *shape, n_outputs=3):
    generator = torch.Generator().manual_seed(7)
    X = torch.randn(N_INPUTS, *shape, generator=generator, dtype=torch.float64)
    if task == "classification":
        return X, torch.randint(n_outputs, (N_INPUTS,), generator=generator)
    return X, torch.randn(N_INPUTS, n_outputs, generator=generator, dtype=torch.float64)


def normalised_population(task, n=4):
    """Convolutions with batch normalisation: running statistics, and a counter."""
    module = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )
    generator = torch.Generator().manual_seed(3)
    buffers = {
        "1.running_mean": torch.randn(n, 4, generator=generator, dtype=torch.float64),
        "1.running_var": 0.1 + torch.rand(n, 4, generator=generator, dtype=torch.float64),
        "1.num_batches_tracked": torch.arange(n),
    }
    return random_population(Architecture(module, torch.zeros(1, 1, 5)), task, n, buffers=buffers)


def shuffled_copies(mlp, n):
    """One network ``n`` times, each time with its hidden neurons in another order."""
    tensors = mlp.unflatten(random_population(mlp, None, 1).weights.repeat(n, 1))
    generator, rows = torch.Generator().manual_seed(5), torch.arange(n)[:, None]
    for k in range(0, len(mlp.names) - 2, 2):
        weight, bias, following = mlp.names[k : k + 3]
        order = torch.rand(tensors[bias].shape, generator=generator).argsort(1)
        tensors |= {name: tensors[name][rows, order] for name in (weight, bias)}
        tensors[following] = tensors[following].mT[rows, order].mT
    return mlp.flatten(tensors)


def losses_one_by_one(population, X, y, pairs, n_points):
    """Every network of every line as a module of its own."""
    loss = LOSSES[population.task]
    curves = []
    for a, b in pairs:
        for s in np.linspace(0, 1, n_points):
            weights = (1 - s) * population.weights[a] + s * population.weights[b]
            buffers = {
                name: (1 - s) * t[a] + s * t[b] if t.is_floating_point() else t[a]
                for name, t in (population.buffers or {}).items()
            }
            module = population.architecture.to_module(weights, buffers).double()
            curves.append(loss(module(X), y).item())
    return torch.tensor(curves, dtype=torch.float64).reshape(len(pairs), n_points)


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("kind", barrier.KINDS)
def test_equal_networks_have_no_barrier(task, kind):
    """Up to the rounding of a mean of 23 x 3 float64 terms."""
    population = random_population(Architecture.mlp([5, 7, 6, 3]), task)[[0, 0, 1, 1]]
    X, y = random_data(task, 5)
    losses = interpolation_losses(population, X, y)[:, 0]
    assert (loss_barrier(population, X, y, kind=kind).abs() < 1e-14 * losses).all()


def test_a_linear_model_has_the_barrier_of_a_quadratic():
    """f(x; w_s) is linear in s, so L(w_s) is (1 - s) L_a + s L_b - s (1 - s) mean (f_a - f_b)²."""
    linear = Architecture.mlp([5, 3])
    population = random_population(linear, "regression")
    X, y = random_data("regression", 5)
    f_a, f_b = (population.apply(X)[k::2] for k in (0, 1))
    loss_a, loss_b = ((f - y).square().mean((1, 2))[:, None] for f in (f_a, f_b))
    distance = (f_a - f_b).square().mean((1, 2))[:, None]
    s = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = (1 - s) * loss_a + s * loss_b - s * (1 - s) * distance
    torch.testing.assert_close(interpolation_losses(population, X, y, n_points=5), expected)
    torch.testing.assert_close(loss_barrier(population, X, y), -distance[:, 0] / 4)


def test_without_a_bias_the_linear_barrier_is_a_quadratic_form_of_the_weights():
    linear = Architecture.mlp([5, 1], bias=False)
    population = random_population(linear, "regression", 2)
    X, y = random_data("regression", 5, n_outputs=1)
    w_a, w_b = population.weights
    expected = -(X @ (w_a - w_b)).square().mean() / 4
    torch.testing.assert_close(loss_barrier(population, X, y[:, 0])[0], expected)


def test_cross_entropy_of_a_linear_classifier_is_convex():
    population = random_population(Architecture.mlp([5, 3]), "classification", 40)
    X, y = random_data("classification", 5)
    curves = interpolation_losses(population, X, y)
    assert loss_barrier(population, X, y).max() < 0
    assert curves.diff(dim=1).diff(dim=1).min() > 0


@pytest.mark.parametrize("kind", barrier.KINDS)
@pytest.mark.parametrize("sizes", [[5, 7, 3], [5, 7, 6, 3]], ids=len)
def test_alignment_removes_the_barrier_between_permuted_copies(sizes, kind):
    """Targets are what the network says, so that both ends have loss zero and nothing is below."""
    mlp = Architecture.mlp(sizes)
    weights = shuffled_copies(mlp, 12)
    population = WeightPopulation(weights, architecture=mlp, task="regression")
    X, _ = random_data("regression", 5)
    y = mlp.apply(weights[:1], X)[0]
    assert loss_barrier(population, X, y, kind=kind).min() > 0.01 * y.var()
    aligned = PermutationAligner(random_state=0).fit_transform(population)
    after = loss_barrier(aligned, X, y, kind=kind)
    torch.testing.assert_close(after, torch.zeros(6).double(), atol=1e-20, rtol=0)


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_batched_equals_one_module_at_a_time(task, activation):
    population = random_population(Architecture.mlp([5, 7, 6, 3], activation), task)
    X, y = random_data(task, 5)
    pairs = [(0, 3), (5, 1), (2, 2), (4, 0)]
    found = interpolation_losses(population, X, y, pairs, n_points=7)
    torch.testing.assert_close(found, losses_one_by_one(population, X, y, pairs, 7))


@pytest.mark.parametrize("task", LOSSES)
def test_buffers_are_interpolated_and_counters_kept(task):
    population = normalised_population(task)
    X, y = random_data(task, 1, 5)
    pairs = [(0, 1), (3, 2)]
    found = interpolation_losses(population, X, y, pairs, n_points=5)
    torch.testing.assert_close(found, losses_one_by_one(population, X, y, pairs, 5))
    plain = dataclasses.replace(population, buffers=None)
    assert not torch.allclose(found, interpolation_losses(plain, X, y, pairs, n_points=5))


@pytest.mark.parametrize("task", LOSSES)
def test_the_ends_are_the_losses_of_the_networks_themselves(task):
    population = random_population(Architecture.mlp([5, 7, 3]), task)
    X, y = random_data(task, 5)
    own = torch.stack([LOSSES[task](outputs, y) for outputs in population.apply(X)])
    curves = interpolation_losses(population, X, y, [[0, 1], [4, 2]], n_points=3)
    torch.testing.assert_close(curves[:, [0, -1]], own[torch.tensor([[0, 1], [4, 2]])])


def test_barriers_are_read_off_the_curve():
    population = random_population(Architecture.mlp([5, 7, 3]), "classification", 20)
    X, y = random_data("classification", 5)
    curves = interpolation_losses(population, X, y, n_points=9)
    ends = (curves[:, 0] + curves[:, 8]) / 2
    midpoint = loss_barrier(population, X, y)
    maximum = loss_barrier(population, X, y, kind="maximum", n_points=9)
    torch.testing.assert_close(midpoint, curves[:, 4] - ends)
    torch.testing.assert_close(maximum, curves.max(1).values - ends)
    assert (maximum > midpoint).any()
    assert midpoint.min() < 0 <= maximum.min()


def test_pairs_are_neighbours_by_default_and_an_odd_network_is_left_out():
    population = random_population(Architecture.mlp([5, 7, 3]), "classification", 5)
    X, y = random_data("classification", 5)
    expected = loss_barrier(population, X, y, np.array([[0, 1], [2, 3]]))
    assert torch.equal(loss_barrier(population, X, y), expected)


@pytest.mark.parametrize("chunk_size", [1, 10, N_INPUTS, 60, 10_000])
@pytest.mark.parametrize("task", LOSSES)
def test_chunks_do_not_change_the_result(task, chunk_size):
    """Blocks of some inputs of one network, of several networks, and of all."""
    population = normalised_population(task)
    X, y = random_data(task, 1, 5)
    found = interpolation_losses(population, X, y, chunk_size=chunk_size)
    torch.testing.assert_close(found, interpolation_losses(population, X, y))


@pytest.mark.parametrize("n_bytes", [2_000, 20_000])
@pytest.mark.parametrize("n_inputs", [4, N_INPUTS])  # more weights, and more activations
def test_memory_is_bounded(monkeypatch, n_bytes, n_inputs):
    """Weights (at both ends and between) and activations, 16 numbers per input, are counted."""
    mlp = Architecture.mlp([5, 7, 6, 3])
    population = random_population(mlp, "regression", 20)
    X, y = (values[:n_inputs] for values in random_data("regression", 5))
    whole = interpolation_losses(population, X, y)
    sizes = []

    def apply(self, weights, X, **options):
        sizes.append((3 * weights.nbytes, 8 * 16 * len(weights) * len(X)))
        return original(self, weights, X, **options)

    original = Architecture.apply
    monkeypatch.setattr(Architecture, "apply", apply)
    monkeypatch.setattr(barrier, "_CHUNK_BYTES", n_bytes)
    torch.testing.assert_close(interpolation_losses(population, X, y), whole)
    weights, activations = map(max, zip(*sizes, strict=True))
    one_network = 3 * 8 * mlp.n_weights
    assert weights <= max(n_bytes, one_network)
    assert activations <= n_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_weights(dtype):
    mlp = Architecture.mlp([5, 7, 3])
    X, y = random_data("classification", 5)
    exact = random_population(mlp, "classification")
    population = exact.replace(exact.weights.to(dtype))
    for function in (interpolation_losses, loss_barrier):
        found = function(population, X, y)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), function(exact, X, y), atol=1e-5, rtol=1e-5)


def test_arrays_and_read_only_arrays_are_accepted():
    population = random_population(Architecture.mlp([5, 7, 3]), "classification")
    X, y = random_data("classification", 5)
    arrays = [values.numpy().copy() for values in (X, y, torch.tensor([[0, 1]]))]
    for array in arrays:
        array.setflags(write=False)
    expected = loss_barrier(population, X, y, torch.tensor([[0, 1]]))
    assert torch.equal(loss_barrier(population, *arrays), expected)


def test_real_targets_of_integer_inputs_are_not_rounded():
    """One embedding table of 2 tokens: its entries are the outputs."""
    module = nn.Sequential(nn.Embedding(2, 1), nn.Flatten())
    architecture = Architecture(module, torch.tensor([[0]]))
    population = WeightPopulation(
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]), architecture=architecture, task="regression"
    )
    curve = interpolation_losses(population, [[0], [1]], [0.5, 0.5], n_points=3)
    torch.testing.assert_close(curve, torch.tensor([[0.25, 0.0, 0.25]]))


X, LABELS = random_data("classification", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": X[:-1]}, r"same number of rows, at least one, got shapes \(22, 5\) and \(23,\)"),
        ({"X": X[:, :4]}, r"X must have shape \(n_inputs, 5\), got \(23, 4\)"),
        ({"X": X * np.nan}, "X must be finite, got NaN or inf in rows 0, 1"),
        ({"y": LABELS + 1}, "y must hold labels from 0 to 2 .* got 1 to 3"),
        ({"y": LABELS.double()}, "y must be integer labels .* use y.long()"),
        ({"pairs": [0, 1]}, r"pairs must be integers of shape \(n_pairs, 2\) .* \(2,\); pass"),
        ({"pairs": np.zeros((0, 2), int)}, r"with at least one pair, got .* \(0, 2\)"),
        ({"pairs": [[0.0, 1.0]]}, "pairs must be integers .* got torch.float64"),
        ({"pairs": [[0, 6]]}, "pairs must hold rows from 0 to 5 of the population, got 0 to 6"),
        ({"pairs": [[-1, 2]]}, "pairs must hold rows from 0 to 5 .* got -1 to 2"),
        ({"n_points": 2}, "n_points must be an integer of at least 3, got 2"),
        ({"n_points": 10}, "n_points must be odd, .* got 10; use 11"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("function", [interpolation_losses, loss_barrier])
def test_bad_arguments_are_refused(function, arguments, message):
    population = random_population(Architecture.mlp([5, 7, 3]), "classification")
    with pytest.raises(ValueError, match=message):
        function(**({"population": population, "X": X, "y": LABELS} | arguments))


def test_unknown_kinds_and_targets_that_do_not_fit_the_outputs_are_refused():
    population = random_population(Architecture.mlp([5, 7, 3]), "regression")
    with pytest.raises(ValueError, match=r"kind must be one of \['midpoint', 'maximum'\], got 'x'"):
        loss_barrier(population, X, X[:, :3], kind="x")
    with pytest.raises(ValueError, match=r"y must have 3 target\(s\) per input .* got 1"):
        loss_barrier(population, X, X[:, 0])


def test_bad_populations_are_refused():
    mlp = Architecture.mlp([5, 7, 3])
    population = random_population(mlp, "classification")
    with pytest.raises(TypeError, match="population must be a WeightPopulation, got Tensor; use"):
        loss_barrier(population.weights, X, LABELS)
    with pytest.raises(ValueError, match="population must have a task, .* got None; use"):
        loss_barrier(random_population(mlp, None), X, LABELS)
    with pytest.raises(ValueError, match="population must have at least 2 networks .* got 1"):
        loss_barrier(population[:1], X, LABELS)
    weights = population.weights.clone()
    weights[3, 0] = np.inf
    diverged = dataclasses.replace(population, weights=weights, allow_nonfinite=True)
    with pytest.raises(ValueError, match="weights of networks 3 are not finite .* drop these rows"):
        loss_barrier(diverged, X, LABELS)
