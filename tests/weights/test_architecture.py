"""`Architecture`: flat order, batched forward against the module itself, derivatives, errors."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from bayesflow_nn.weights import Architecture

ACTIVATIONS = ["relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "identity"]


class Convolutional(nn.Module):
    """Nested, with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(3 * 16, 2))

    def forward(self, X):
        return self.head(self.features(X).flatten(1))


class SharedModule(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, X):
        return self.second(torch.relu(self.first(X)))


class SharedParameter(nn.Module):
    """Two layers with one weight matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, X):
        return self.second(torch.relu(self.first(X)))


MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
    "linear": lambda: nn.Linear(4, 3),
    "mixed activations": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    ),
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrize.register_parametrization(nn.Linear(4, 6), "weight", nn.Softplus()),
        nn.ReLU(),
        nn.Linear(6, 3),
    ),
    "convolutional": Convolutional,
    "shared module": SharedModule,
    "shared parameter": SharedParameter,
    "shared in sequence": lambda: nn.Sequential(*[linear := nn.Linear(4, 4), nn.ReLU(), linear]),
}


def inputs_for(name, n_inputs=7):
    shape = (n_inputs, 1, 6, 6) if name == "convolutional" else (n_inputs, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def random_module(name, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MODULES[name]().double()
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return module.eval()


@pytest.mark.parametrize("name", MODULES)
def test_apply_equals_every_module_by_itself(name):
    modules = [random_module(name, seed) for seed in range(3)]
    X = inputs_for(name)
    architecture = Architecture(modules[0], X)
    weights = torch.stack([parameters_to_vector(m.parameters()) for m in modules]).detach()
    buffers = {
        key: torch.stack([dict(m.named_buffers())[key] for m in modules])
        for key in architecture.buffer_shapes
    }
    expected = torch.stack([module(X) for module in modules])
    outputs = architecture.apply(weights, X, buffers=buffers)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    for chunk_size in (1, 2):
        chunked = architecture.apply(weights, X, buffers=buffers, chunk_size=chunk_size)
        torch.testing.assert_close(chunked, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_to_module_is_the_network_of_that_row(name):
    module = random_module(name, seed=0)
    architecture = Architecture(random_module(name, seed=1))
    row = parameters_to_vector(module.parameters()).detach()
    built = architecture.to_module(row, dict(module.named_buffers()))
    assert torch.equal(parameters_to_vector(built.parameters()), row)
    torch.testing.assert_close(built(inputs_for(name)), module(inputs_for(name)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(4, 3), (4, 6, 3), (4, 6, 5, 6, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_equals_its_module(activation, sizes, bias):
    mlp = Architecture.mlp(sizes, activation, bias=bias)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, mlp.n_weights, generator=generator, dtype=torch.float64)
    X = inputs_for("mlp")
    expected = torch.stack([mlp.to_module(row)(X) for row in weights])
    torch.testing.assert_close(mlp.apply(weights, X), expected, rtol=0, atol=1e-12)
    assert mlp.is_mlp and mlp.sizes == sizes and mlp.n_outputs == 3


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), n=st.integers(1, 4))
def test_flatten_inverts_unflatten_and_layers_locate_the_tensors(sizes, n):
    mlp = Architecture.mlp(sizes)
    weights = torch.arange(float(n * mlp.n_weights)).view(n, mlp.n_weights)
    tensors = mlp.unflatten(weights)
    assert torch.equal(mlp.flatten(tensors), weights)
    for i, layer in enumerate(mlp.layers):
        matrix = weights[:, layer.weight].view(n, layer.n_out, layer.n_in)
        assert torch.equal(matrix, tensors[f"{2 * i}.weight"])
        assert torch.equal(weights[:, layer.bias], tensors[f"{2 * i}.bias"])


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_apply_is_twice_differentiable_in_weights_and_inputs(name):
    architecture = Architecture(random_module(name, 0))
    weights = architecture.own_weights.repeat(2, 1).requires_grad_()
    X = inputs_for(name, n_inputs=2).requires_grad_()

    # A random direction keeps the check small; tanh of the outputs gives curvature.
    def function(weights, X):
        return torch.tanh(architecture.apply(weights, X)).sum()

    assert torch.autograd.gradcheck(function, (weights, X))
    (gradient,) = torch.autograd.grad(function(weights, X), weights, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), weights)
    assert second.shape == weights.shape and second.abs().sum() > 0


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_apply_composes_with_func_transforms(name):
    architecture = Architecture(random_module(name, 0))
    weights, X = architecture.own_weights.repeat(3, 1), inputs_for(name)
    direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)).double()
    outputs, tangents = torch.func.jvp(lambda w: architecture.apply(w, X), (weights,), (direction,))
    step = 1e-6
    ahead = architecture.apply(weights + step * direction, X)
    behind = architecture.apply(weights - step * direction, X)
    torch.testing.assert_close(tangents, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    by_row = torch.vmap(lambda row: architecture.apply(row[None], X)[0])(weights)
    torch.testing.assert_close(by_row, outputs)
    torch.testing.assert_close(architecture.call(weights[0], X), outputs[0])


def test_dropout_is_off_and_the_given_module_is_left_alone():
    module = Convolutional().train()
    architecture = Architecture(module)
    weights, X = architecture.own_weights[None], inputs_for("convolutional").float()
    assert torch.equal(architecture.apply(weights, X), architecture.apply(weights, X))
    assert module.training and all(p.requires_grad for p in module.parameters())


def test_float32_inputs_follow_float64_weights():
    mlp = Architecture.mlp([2, 3, 1])
    outputs = mlp.apply(torch.ones(1, mlp.n_weights, dtype=torch.float64), torch.ones(1, 2))
    assert outputs.dtype == torch.float64


def test_equal_architectures_are_equal_and_survive_pickling():
    mlp = Architecture.mlp([4, 6, 3], "tanh")
    same = Architecture(MODULES["mlp"]())
    assert mlp == same and hash(mlp) == hash(same)
    assert pickle.loads(pickle.dumps(mlp)) == mlp == copy.deepcopy(mlp)
    assert mlp != Architecture.mlp([4, 6, 3]) and mlp != Architecture.mlp([4, 5, 3], "tanh")
    assert repr(mlp) == "Architecture.mlp([4, 6, 3], activation='tanh')"


def test_building_an_mlp_draws_no_random_numbers():
    state = torch.get_rng_state()
    Architecture.mlp([4, 6, 3])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [n for n in MODULES if n != "mlp"])
def test_only_plain_stacks_are_mlps(name):
    assert not Architecture(random_module(name, 0)).is_mlp


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Architecture("mlp"), TypeError, "module must be a torch.nn.Module"),
        (lambda: Architecture(nn.ReLU()), ValueError, "module must have parameters"),
        (lambda: Architecture(nn.LazyLinear(3)), ValueError, "lazy parameters"),
        (
            lambda: Architecture(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())),
            ValueError,
            "one dtype",
        ),
        (
            lambda: Architecture(nn.Linear(2, 2), torch.ones(3, 4, 2)),
            ValueError,
            r"must return a tensor of shape \(n_inputs, n_outputs\), got \(3, 4, 2\)",
        ),
        (lambda: Architecture.mlp([3]), ValueError, "sizes must be at least two positive"),
        (lambda: Architecture.mlp([3, 0, 2]), ValueError, "sizes must be at least two positive"),
        (lambda: Architecture.mlp([3, 2], "swish"), ValueError, "activation must be one of"),
    ],
)
def test_bad_modules_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m: m.apply([[0.0]], torch.ones(1, 2)), TypeError, "weights must be a torch.Tensor"),
        (
            lambda m: m.apply(torch.zeros(13), torch.ones(1, 2)),
            ValueError,
            r"weights must have shape \(n_networks, 13\)",
        ),
        (lambda m: m.apply(torch.zeros(2, 12), torch.ones(1, 2)), ValueError, r"got \(2, 12\)"),
        (lambda m: m.apply(torch.zeros(0, 13), torch.ones(1, 2)), ValueError, "at least one"),
        (lambda m: m.apply(torch.zeros(2, 13), [[1.0, 1.0]]), TypeError, "X must be a torch.Tens"),
        (
            lambda m: m.apply(torch.zeros(2, 13), torch.ones(1, 3)),
            ValueError,
            r"X must have shape \(n_inputs, 2\), got \(1, 3\)",
        ),
        (
            lambda m: m.apply(torch.zeros(2, 13), torch.ones(1, 2), chunk_size=0),
            ValueError,
            "chunk_size must be an integer of at least 1",
        ),
        (
            lambda m: m.apply(torch.zeros(2, 13), torch.ones(1, 2), buffers={"a": torch.ones(2)}),
            ValueError,
            "buffers has 'a'",
        ),
        (lambda m: m.to_module(torch.zeros(2, 13)), ValueError, "pick one network"),
        (lambda m: m.flatten({"0.weight": torch.zeros(1, 3, 2)}), ValueError, "exactly the names"),
        (
            lambda m: m.flatten({n: torch.zeros(1, 5) for n in m.names}),
            ValueError,
            r"must have shape \(1, 3, 2\)",
        ),
    ],
)
def test_bad_inputs_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call(Architecture.mlp([2, 3, 1]))


def test_a_buffer_of_wrong_shape_is_named():
    architecture = Architecture(Convolutional())
    with pytest.raises(ValueError, match="running_mean'] must have shape"):
        architecture.apply(
            architecture.own_weights[None],
            inputs_for("convolutional"),
            buffers={"features.1.running_mean": torch.zeros(3)},
        )
