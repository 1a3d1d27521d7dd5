"""`train_population` against a plain loop over networks with ``torch.optim``."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    WeightPopulation,
    train_population,
)
from bayesflow_nn.weights.minibatches import MinibatchOrder
from bayesflow_nn.weights.training_data import check_data

SEED = 3


def classification_data(n_inputs=37, n_in=5, n_classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_inputs, n_in, generator=generator, dtype=dtype)
    return X, torch.randint(n_classes, (n_inputs,), generator=generator)


def loop(architecture, X, y, initial, *, loss, make, n_epochs, batch_size, schedule=None):
    """Train one network after the other, each by ``torch.optim``, on the minibatches of SEED."""
    n_steps = n_epochs * -(-len(X) // batch_size)
    rows = []
    for i, row in enumerate(initial):
        module = architecture.to_module(row)
        optimizer = make(module.parameters())
        scheduler = schedule(optimizer, n_steps) if schedule else None
        order = MinibatchOrder(
            SEED, range(i, i + 1), n_inputs=len(X), batch_size=batch_size, shared=False
        )
        for _ in range(n_epochs):
            for (batch,) in order.next_epoch():
                optimizer.zero_grad()
                loss(module(X[batch]), y[batch]).backward()
                optimizer.step()
                if scheduler:
                    scheduler.step()
        rows.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    return torch.stack(rows)


def random_weights(architecture, n_networks=5):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(
        n_networks, architecture.n_weights, generator=generator, dtype=torch.float64
    )
    return weights * 0.1**0.5


OPTIMIZERS = {
    "adam": ({"learning_rate": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam with weight decay": (
        {"learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    ),
    "adamw": (
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    "sgd": (
        {"optimizer": "sgd", "learning_rate": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.1),
    ),
    "sgd with momentum and weight decay": (
        {"optimizer": "sgd", "learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_a_loop_with_torch_optim(name):
    options, make = OPTIMIZERS[name]
    architecture = Architecture.mlp([5, 8, 6, 3])
    X, y = classification_data()  # 37 inputs in minibatches of 8: the last holds 5
    initial = random_weights(architecture)
    population = train_population(
        architecture, X, y, init=initial, n_epochs=4, batch_size=8, random_state=SEED, **options
    )
    expected = loop(
        architecture, X, y, initial, loss=F.cross_entropy, make=make, n_epochs=4, batch_size=8
    )
    assert population.weights.dtype == torch.float64
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


def gaussian_loss(outputs, y):
    """PyTorch's own loss of a mean and a log scale per target, and its constant."""
    variance = (0.2 + outputs[:, 2:].exp()).square()
    return 2 * F.gaussian_nll_loss(outputs[:, :2], y, variance, full=True)


@pytest.mark.parametrize("is_mlp", [True, False])
def test_a_likelihood_is_maximised_and_remembered(is_mlp):
    architecture = Architecture.mlp([5, 8, 4])
    X, _ = classification_data()
    y = torch.stack([X[:, 0], X[:, 1:].sum(1)], 1)
    initial = random_weights(architecture)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4), nn.Identity()).double()
    likelihood = HeteroscedasticNormal(min_scale=0.2)
    population = train_population(
        architecture if is_mlp else Architecture(module),
        X,
        y,
        init=initial,
        loss=likelihood,
        n_epochs=3,
        batch_size=16,
        validation_data=(X, y),
        random_state=SEED,
    )
    adam = {"n_epochs": 3, "batch_size": 16, "make": torch.optim.Adam}
    expected = loop(architecture, X, y, initial, loss=gaussian_loss, **adam)
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-9)
    assert population.likelihood == likelihood
    outputs = architecture.apply(expected, X)
    nll = torch.stack([gaussian_loss(f, y) for f in outputs])
    torch.testing.assert_close(population.metrics["nll"], nll)
    mse = (outputs[..., :2] - y).square().mean((1, 2))
    torch.testing.assert_close(population.metrics["mse"], mse)


def test_a_population_of_classifiers_has_the_likelihood_of_classes():
    X, y = classification_data()
    options = {"n_networks": 2, "n_epochs": 1, "random_state": 0}
    mlp = Architecture.mlp([5, 3])
    population = train_population(mlp, X, y, **options)
    assert population.likelihood == Categorical()
    other = train_population(mlp, X, y, loss=Categorical(), **options)
    assert torch.equal(other.weights, population.weights)
    assert train_population(mlp, X, X[:, :3], **options).likelihood is None


def test_outputs_must_fit_the_likelihood():
    X, _ = classification_data()
    with pytest.raises(ValueError, match=r"must have 4 outputs for 2 target\(s\).*got 3"):
        train_population(
            Architecture.mlp([5, 3]), X, X[:, :2], n_networks=2, loss=HeteroscedasticNormal()
        )


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "identity"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_loop_for_every_activation_and_regression(activation, bias):
    architecture = Architecture.mlp([5, 8, 7, 2], activation, bias=bias)
    X, _ = classification_data()
    y = torch.stack([X[:, 0], X[:, 1:].sum(1)], 1)
    initial = random_weights(architecture)
    population = train_population(
        architecture, X, y, init=initial, n_epochs=2, batch_size=16, random_state=SEED
    )
    expected = loop(
        architecture,
        X,
        y,
        initial,
        loss=F.mse_loss,
        n_epochs=2,
        batch_size=16,
        make=lambda p: torch.optim.Adam(p, lr=1e-3),
    )
    assert population.task == "regression"
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("sizes", [[5, 3], [5, 4, 3], [5, 4, 4, 4, 4, 3]])
def test_equals_the_loop_at_every_depth(sizes):
    architecture = Architecture.mlp(sizes)
    X, y = classification_data()
    initial = random_weights(architecture)
    population = train_population(architecture, X, y, init=initial, n_epochs=2, random_state=SEED)
    expected = loop(
        architecture,
        X,
        y,
        initial,
        loss=F.cross_entropy,
        n_epochs=2,
        batch_size=32,
        make=lambda p: torch.optim.Adam(p, lr=1e-3),
    )
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


def module_of_another_kind():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, X):
            return self.b(torch.sin(self.a(X)))

    return Net()


def test_any_module_equals_the_loop():
    X, y = classification_data()
    architecture = Architecture(module_of_another_kind().double(), X[:2])
    initial = random_weights(architecture)
    population = train_population(
        architecture, X, y, init=initial, n_epochs=2, batch_size=16, random_state=SEED
    )
    expected = loop(
        architecture,
        X,
        y,
        initial,
        loss=F.cross_entropy,
        n_epochs=2,
        batch_size=16,
        make=lambda p: torch.optim.Adam(p, lr=1e-3),
    )
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("minibatches", ["independent", "shared"])
def test_a_callable_loss_equals_the_named_one(minibatches):
    X, y = classification_data()
    options = {"n_networks": 4, "n_epochs": 2, "minibatches": minibatches, "random_state": SEED}
    architecture = Architecture.mlp([5, 8, 3])
    named = train_population(architecture, X, y, **options)
    called = train_population(architecture, X, y, loss=F.cross_entropy, **options)
    assert called.task == "classification"
    torch.testing.assert_close(called.weights, named.weights, rtol=0, atol=1e-10)


def breast_cancer_like(n_inputs=100):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_inputs, 4, generator=generator)
    return X, (X[:, 0] * X[:, 1] > 0).long()


MLP = Architecture.mlp([4, 8, 2])


@pytest.mark.parametrize("minibatches", ["independent", "shared"])
@pytest.mark.parametrize("chunk_size", [1, 7, 16, 40])
def test_the_result_does_not_depend_on_the_chunk_size(minibatches, chunk_size):
    X, y = breast_cancer_like()
    options = {"n_epochs": 3, "minibatches": minibatches, "random_state": 0}
    whole = train_population(MLP, X, y, n_networks=40, chunk_size=40, **options)
    parts = train_population(MLP, X, y, n_networks=40, chunk_size=chunk_size, **options)
    assert torch.equal(parts.weights, whole.weights)


def test_a_network_does_not_depend_on_how_many_others_there_are():
    X, y = breast_cancer_like()
    for init in ("normal", "module"):
        few, many = (
            train_population(MLP, X, y, n_networks=n, n_epochs=2, init=init, random_state=0)
            for n in (5, 50)
        )
        assert torch.equal(few.weights, many.weights[:5])


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads():
    X, y = breast_cancer_like()
    n_threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(train_population(MLP, X, y, n_networks=99, n_epochs=2, random_state=5))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(result.weights, results[0].weights) for result in results)
    other = train_population(MLP, X, y, n_networks=99, n_epochs=2, random_state=6)
    assert not torch.equal(other.weights, results[0].weights)


def test_global_random_states_are_left_alone():
    X, y = breast_cancer_like()
    module = Architecture(module_of_another_kind())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_population(MLP, X, y, n_networks=3, n_epochs=1)
    train_population(module, torch.ones(9, 5), [0] * 9, n_networks=3, n_epochs=1, init="module")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ("cosine", lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=n)),
        ("step", lambda o, n: torch.optim.lr_scheduler.MultiStepLR(o, [n // 2, 3 * n // 4])),
        (lambda t: 1 - t, lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1 - i / n)),
    ],
)
def test_schedules_equal_those_of_torch(schedule, reference):
    architecture = Architecture.mlp([5, 8, 3])
    X, y = classification_data(n_inputs=32)
    initial = random_weights(architecture)
    population = train_population(
        architecture,
        X,
        y,
        init=initial,
        schedule=schedule,
        n_epochs=4,
        batch_size=8,
        random_state=SEED,
    )
    expected = loop(
        architecture,
        X,
        y,
        initial,
        loss=F.cross_entropy,
        n_epochs=4,
        batch_size=8,
        make=lambda p: torch.optim.Adam(p, lr=1e-3),
        schedule=reference,
    )
    torch.testing.assert_close(population.weights, expected, rtol=0, atol=1e-8)


def test_shared_minibatches_train_equal_networks_equally():
    X, y = breast_cancer_like()
    init = torch.full((3, MLP.n_weights), 0.1) * torch.arange(1, MLP.n_weights + 1).remainder(7)
    options = {"init": init, "n_epochs": 2, "random_state": 0}
    shared = train_population(MLP, X, y, minibatches="shared", **options)
    own = train_population(MLP, X, y, minibatches="independent", **options)
    assert torch.equal(shared.weights[0], shared.weights[2])
    assert not torch.equal(own.weights[0], own.weights[2])


def test_snapshots_lie_on_the_trajectory():
    X, y = breast_cancer_like()  # 100 inputs, batches of 32: 4 iterations an epoch, 12 in all
    options = {"n_networks": 5, "random_state": 0}
    snapshots = train_population(MLP, X, y, n_epochs=3, burn_in=1, stride=3, **options)
    assert snapshots.n_chains == 5
    assert snapshots.draw.tolist() == [0, 1, 2] * 5  # iterations 7, 10 and, the last, 12
    last = train_population(MLP, X, y, n_epochs=3, **options)
    assert torch.equal(snapshots[snapshots.draw == 2].weights, last.weights)
    by_epoch = train_population(MLP, X, y, n_epochs=3, stride=4, **options)
    for epoch in (1, 2, 3):
        shorter = train_population(MLP, X, y, n_epochs=epoch, **options)
        assert torch.equal(by_epoch[by_epoch.draw == epoch - 1].weights, shorter.weights)


def test_validation_metrics_are_those_of_each_network():
    X, y = breast_cancer_like()
    population = train_population(
        MLP, X[:60], y[:60], n_networks=4, validation_data=(X[60:], y[60:]), random_state=0
    )
    for i, row in enumerate(population.weights):
        outputs = MLP.to_module(row)(X[60:])
        nll = F.cross_entropy(outputs, y[60:])
        torch.testing.assert_close(population.metrics["nll"][i], nll.detach())
        accuracy = (outputs.argmax(1) == y[60:]).float().mean()
        torch.testing.assert_close(population.metrics["accuracy"][i], accuracy)
    regression = train_population(
        Architecture.mlp([4, 8, 1]), X, X[:, 0], n_networks=2, validation_data=(X, X[:, 0])
    )
    errors = (regression.apply(X)[:, :, 0] - X[:, 0]).square().mean(1)
    torch.testing.assert_close(regression.metrics["mse"], errors)


def test_arrays_are_trained_in_the_dtype_of_the_architecture():
    X, y = breast_cancer_like()
    options = {"n_networks": 2, "n_epochs": 1, "random_state": 0}
    from_array = train_population(MLP, X.double().numpy(), y.numpy(), **options)
    from_tensor = train_population(MLP, X, y, **options)
    assert torch.equal(from_array.weights, from_tensor.weights)


def test_training_goes_on_from_a_population():
    X, y = breast_cancer_like()
    first = train_population(MLP, X, y, n_networks=3, n_epochs=1, random_state=0)
    frozen = train_population(MLP, X, y, init=first, n_epochs=1, learning_rate=1e-12)
    torch.testing.assert_close(frozen.weights, first.weights)


def test_a_single_input_and_a_batch_larger_than_the_data_are_fine():
    X, y = breast_cancer_like(n_inputs=1)
    assert len(train_population(MLP, X, y, n_networks=1, n_epochs=2, random_state=0)) == 1


def test_dropout_and_batch_norm_are_announced():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    X, y = breast_cancer_like()
    with pytest.warns(UserWarning, match="BatchNorm1d acts as in evaluation mode"):
        train_population(Architecture(module), X, y, n_networks=2, n_epochs=1)


def test_the_progress_bar_counts_epochs_of_networks(capsys):
    X, y = breast_cancer_like()
    train_population(MLP, X, y, n_networks=3, n_epochs=2, random_state=0, verbose=True)
    assert "6/6" in capsys.readouterr().err


def diverging(on_divergence, bad=(1,), n_networks=3):
    init = torch.full((n_networks, MLP.n_weights), 0.1)
    init[list(bad)] = 1e30
    X, y = breast_cancer_like()
    return train_population(
        MLP, X, y, init=init, n_epochs=2, stride=4, on_divergence=on_divergence, random_state=0
    )


def test_diverged_networks_are_dropped_with_their_chain():
    with pytest.warns(UserWarning, match=r"1 of 3 networks diverged .*: 1\..* They are dropped"):
        population = diverging("drop")
    assert population.chain.tolist() == [0, 0, 2, 2]
    assert not population.diverged.any()


def test_diverged_networks_are_kept_on_request():
    with pytest.warns(UserWarning, match=r"networks diverged .*: 1\..* They are kept"):
        population = diverging("keep")
    assert population.chain[population.diverged].unique().tolist() == [1]


def test_diverged_networks_raise_on_request_and_when_none_is_left():
    with pytest.raises(ValueError, match=r"1 of 3 networks diverged .*: 1\. Lower learning_rate"):
        diverging("raise")
    with pytest.raises(ValueError, match=r"3 of 3 networks diverged .*: 0, 1, 2\."):
        diverging("drop", bad=(0, 1, 2))


X, Y = breast_cancer_like()
X_WITH_NAN, X_WITH_INF = X.clone(), X.clone()
X_WITH_NAN[[4, 9], 0], X_WITH_INF[2] = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"architecture": nn.Linear(4, 2)}, TypeError, "architecture must be an Architecture"),
        ({"X": X_WITH_NAN}, ValueError, "X must be finite, got NaN or inf in rows 4, 9"),
        ({"X": X_WITH_INF}, ValueError, "X must be finite, got NaN or inf in rows 2"),
        ({"X": X[:, :3]}, ValueError, r"X must have shape \(n_inputs, 4\), got \(100, 3\)"),
        ({"X": X[:50]}, ValueError, r"same number of rows.*\(50, 4\) and \(100,\)"),
        ({"X": X[:0], "y": Y[:0]}, ValueError, "at least one"),
        ({"y": Y + 1}, ValueError, "labels from 0 to 1 .* got 1 to 2"),
        ({"y": X[:, 0]}, ValueError, r"2 target\(s\) per input .* got 1"),
        ({"y": X[:, 0], "loss": "cross_entropy"}, ValueError, "y must be integer labels"),
        ({"y": X_WITH_NAN[:, 0]}, ValueError, "y must be finite.* rows 4, 9"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"n_networks": None}, ValueError, "n_networks must be an integer of at least 1"),
        ({"n_networks": 0}, ValueError, "n_networks must be an integer of at least 1"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be finite and > 0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number"),
        ({"momentum": 0.9}, ValueError, "momentum belongs to optimizer='sgd'"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be finite and >= 0"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of"),
        ({"n_epochs": 0}, ValueError, "n_epochs must be an integer of at least 1"),
        ({"batch_size": 1.5}, ValueError, "batch_size must be an integer of at least 1"),
        ({"init": "zeros"}, ValueError, "init must be one of"),
        ({"init_variance": 0}, ValueError, "init_variance must be finite and > 0"),
        ({"init": X}, ValueError, r"weights must have shape \(n_networks, 58\)"),
        ({"init": torch.zeros(3, 58)}, ValueError, "n_networks is 2, but init holds 3 networks"),
        (
            {"init": torch.full((2, 58), torch.nan)},
            ValueError,
            "init must be finite, got NaN or infinite weights in networks 0, 1",
        ),
        (
            {"init": WeightPopulation(torch.zeros(2, 3), architecture=Architecture.mlp([2, 1]))},
            ValueError,
            "init is a population of Architecture.mlp",
        ),
        ({"minibatches": "same"}, ValueError, "minibatches must be one of"),
        ({"burn_in": 10}, ValueError, "burn_in needs stride"),
        ({"burn_in": 50, "stride": 1}, ValueError, "burn_in must be less than n_epochs=50"),
        ({"stride": 0}, ValueError, "stride must be an integer of at least 1"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
        ({"on_divergence": "ignore"}, ValueError, "on_divergence must be one of"),
        ({"random_state": -1}, ValueError, "random_state must be a non-negative integer"),
        (
            {"validation_data": (X, Y[:3])},
            ValueError,
            "validation_data: X and y must have the same",
        ),
    ],
)
def test_bad_input_is_named(changes, error, match):
    arguments = {"architecture": MLP, "X": X, "y": Y, "n_networks": 2, **changes}
    with pytest.raises(error, match=match):
        train_population(**arguments)


def test_real_targets_of_token_inputs_stay_real():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
    tokens, y = torch.randint(0, 5, (8, 2)), torch.linspace(0.1, 0.9, 8)
    data = check_data(Architecture(module, example_input=tokens), tokens, y, "auto", None)
    assert data.task == "regression"
    assert torch.equal(data.y[:, 0], y)
