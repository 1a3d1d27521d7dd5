"""ModuleScaleCanonicalizer: the function of any module stays, the scales of its units go."""

import numpy as np
import pytest
import symmetric_modules as modules
import torch
from sklearn.base import clone
from torch import nn

from bayesflow_nn.symmetry.module_scaling import ModuleScaleCanonicalizer
from bayesflow_nn.symmetry.scale_discovery import discover_scales
from bayesflow_nn.symmetry.scale_groups import scale, settled_weights
from bayesflow_nn.symmetry.scaling import ScaleCanonicalizer
from bayesflow_nn.weights import Architecture, WeightPopulation

IMAGE = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class PlainResidual(nn.Module):
    """Blocks without batch norm: what writes to the stream reads units that read the stream."""

    def __init__(self, width=6, depth=2):
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 2)
        self.read = nn.ModuleList(nn.Linear(width, 9) for _ in range(depth))
        self.write = nn.ModuleList(nn.Linear(9, width) for _ in range(depth))

    def forward(self, x):
        x = self.first(x).relu()
        for read, write in zip(self.read, self.write, strict=True):
            x = x + write(read(x).relu()).relu()
        return self.last(x)


def dense(activation):
    return nn.Sequential(
        nn.Linear(5, 7), activation, nn.Linear(7, 6), activation, nn.Linear(6, 3)
    )  # fmt: skip


VECTORS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
MODULES = {
    "relu": (lambda: dense(nn.ReLU()), VECTORS),
    "prelu": (lambda: dense(nn.PReLU()), VECTORS),
    "tanh": (lambda: dense(nn.Tanh()), VECTORS),
    "gelu": (lambda: dense(nn.GELU()), VECTORS),
    "plain residual": (PlainResidual, VECTORS),
    "small cnn": (modules.SmallCNN, IMAGE[:, :1, :12, :12]),
    "resnet20": (lambda: modules.resnet20(4), IMAGE),
    "vgg": (lambda: modules.vgg(4), IMAGE),
    "vit": (lambda: modules.ViT(12, 2, 3, size=8), IMAGE[..., :8, :8]),
    "library attention": (modules.LibraryAttention, torch.randn(3, 6, 5)),
    "dense block": (modules.DenseBlock, IMAGE[..., :8, :8]),
    "depthwise": (modules.DepthwiseSeparable, IMAGE[..., :9, :9]),
}


def population(name, n=3, dtype=torch.float64):
    """Networks with normal weights of the size that keeps activations of order one."""
    make, example = MODULES[name]
    architecture = Architecture(make(), example_input=example)
    generator = torch.Generator().manual_seed(1)
    named = {
        name: torch.randn(n, *shape, generator=generator, dtype=torch.float64)
        * (shape[1:].numel() ** -0.5 if len(shape) > 1 else 1.0)
        for name, shape in zip(architecture.names, architecture.shapes, strict=True)
    }
    buffers = {}
    for name, shape in architecture.buffer_shapes.items():
        if name.endswith(("mean", "var")):
            buffers[name] = 0.5 + torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    return WeightPopulation(
        architecture.flatten(named).to(dtype),
        architecture=architecture,
        buffers={name: buffer.to(dtype) for name, buffer in buffers.items()},
    )


def rescaled(networks, seed=2):
    """The same functions with other scales, from 1/9 to 9."""
    architecture = networks.architecture
    groups = discover_scales(architecture.module, architecture.example_input)
    generator = torch.Generator().manual_seed(seed)
    n = networks.n_networks
    uniform = [2 * torch.rand(n, g.size, generator=generator).double() - 1 for g in groups]
    factors = [
        u.sign() if group.kind == "odd" else 9**u for u, group in zip(uniform, groups, strict=True)
    ]
    state = architecture.unflatten(networks.weights) | (networks.buffers or {})
    state = scale(groups, state, factors)
    return networks.replace(
        architecture.flatten({name: state[name] for name in architecture.names}),
        buffers={name: state[name] for name in networks.buffers or {}},
    )


def outputs(networks, X):
    """Outputs ``(n_networks, n_inputs, n_outputs)``, one network after the other."""
    buffers = networks.buffers or {}
    return torch.stack(
        [
            networks.architecture.call(row, X, buffers={n: b[i] for n, b in buffers.items()})
            for i, row in enumerate(networks.weights)
        ]
    )


def assert_equal(one, other, **options):
    torch.testing.assert_close(one.weights, other.weights, **options)
    for name in other.buffers or {}:
        torch.testing.assert_close(one.buffers[name], other.buffers[name], **options)


@pytest.mark.parametrize("name", MODULES)
def test_function_stays_and_scales_go_in_one_pass(name):
    networks = population(name)
    X = networks.architecture.example_input.double()
    canonicalizer = ModuleScaleCanonicalizer()
    canonical = canonicalizer.fit_transform(networks)
    # Rounding of a random network of twenty layers; outputs are of order one.
    torch.testing.assert_close(outputs(canonical, X), outputs(networks, X), atol=1e-9, rtol=1e-9)
    assert torch.equal(canonical.weights, networks.weights) == (name == "gelu")
    assert_equal(canonicalizer.transform(canonical), canonical, atol=1e-12, rtol=1e-12)
    again = canonicalizer.transform(rescaled(networks))
    assert_equal(again, canonical, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["plain residual", "resnet20", "vgg", "vit", "dense block"])
def test_settled_weights_have_norm_one(name):
    networks = population(name)
    canonicalizer = ModuleScaleCanonicalizer().fit(networks)
    named = networks.architecture.unflatten(canonicalizer.transform(networks).weights)
    for measured in settled_weights(canonicalizer.groups_):
        squares = 0
        for slot in measured:
            rows = named[slot.parameter].movedim(slot.axis + 1, 1)[..., None].flatten(2)
            squares = squares + rows[:, torch.as_tensor(slot.positions)].square().sum((2, 3))
        torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-13, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_perceptrons_become_what_scale_canonicalizer_makes_of_them(activation):
    mlp = Architecture.mlp([5, 7, 6, 3], activation=activation)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(20, mlp.n_weights, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        ModuleScaleCanonicalizer(mlp).fit_transform(weights),
        ScaleCanonicalizer(mlp).fit_transform(weights),
        atol=1e-13,
        rtol=1e-13,
    )


def test_odd_units_have_a_positive_sum_of_weights():
    networks = population("tanh", n=9)
    named = networks.architecture.unflatten(networks.weights)
    canonical = ModuleScaleCanonicalizer().fit_transform(networks)
    after = networks.architecture.unflatten(canonical.weights)
    for name in ("0.weight", "2.weight"):
        assert (after[name].sum(-1) > 0).all()
        assert torch.equal(after[name].abs(), named[name].abs())  # nothing but signs has changed


def test_an_odd_unit_whose_weights_sum_to_zero_keeps_its_sign():
    module = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1))
    weights = torch.tensor([[-1.0, 1.0, 3.0, 2.0, 4.0], [-2.0, 1.0, 3.0, 2.0, 4.0]])
    architecture = Architecture(module, example_input=torch.zeros(2, 2))
    canonical = ModuleScaleCanonicalizer(architecture).fit_transform(weights)
    expected = [[-1.0, 1.0, 3.0, 2.0, 4.0], [2.0, -1.0, -3.0, -2.0, 4.0]]
    assert canonical.tolist() == expected


def test_batch_norm_by_hand():
    """Filter (3, 4), bias 10, mean 15, variance 100, affine (-2, 6), read by 5, and eps = 0.

    The filter is divided by 5, with bias and mean, its variance by 25; the affine weight by 2.
    """
    module = nn.Sequential(
        nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0.0), nn.ReLU(), nn.Linear(1, 1, bias=False)
    )
    networks = WeightPopulation(
        torch.tensor([[3.0, 4.0, 10.0, -2.0, 6.0, 5.0]]),
        architecture=Architecture(module, example_input=torch.zeros(2, 2)),
        buffers={
            "1.running_mean": torch.tensor([[15.0]]),
            "1.running_var": torch.tensor([[100.0]]),
        },
    )
    canonical = ModuleScaleCanonicalizer().fit_transform(networks)
    expected = torch.tensor([[0.6, 0.8, 2.0, -1.0, 3.0, 10.0]])
    torch.testing.assert_close(canonical.weights, expected)
    torch.testing.assert_close(canonical.buffers["1.running_mean"], torch.tensor([[3.0]]))
    torch.testing.assert_close(canonical.buffers["1.running_var"], torch.tensor([[4.0]]))


def test_a_population_without_statistics_has_those_of_its_architecture():
    networks = population("vgg")
    bare = WeightPopulation(networks.weights, architecture=networks.architecture)
    canonical = ModuleScaleCanonicalizer().fit_transform(bare)
    X = networks.architecture.example_input.double()
    torch.testing.assert_close(canonical.apply(X), bare.apply(X), atol=1e-9, rtol=1e-9)


def test_dead_units_stay_as_they_are():
    networks = population("small cnn")
    named = networks.architecture.unflatten(networks.weights.clone())
    named["conv1.weight"][1, 2], named["conv2.weight"][0, 3] = 0, 1e-200
    networks = networks.replace(networks.architecture.flatten(named))
    canonical = ModuleScaleCanonicalizer().fit_transform(networks)
    after = networks.architecture.unflatten(canonical.weights)
    assert (after["conv1.weight"][1, 2] == 0).all()
    # Beside its bias it is nothing; its columns are those of units that have been scaled.
    assert (after["conv2.weight"][0, 3].abs() < 1e-190).all()
    for layer, network, unit in (("conv1", 1, 2), ("conv2", 0, 3)):
        own, other = (state[f"{layer}.bias"][network, unit] for state in (named, after))
        assert torch.equal(own, other)
    X = networks.architecture.example_input.double()
    torch.testing.assert_close(canonical.apply(X), networks.apply(X), atol=1e-9, rtol=1e-9)


def test_filters_whose_square_overflows_the_variance_stay():
    networks = population("vgg", dtype=torch.float32)
    named = networks.architecture.unflatten(networks.weights.clone())
    named["0.weight"][0, 1], named["0.bias"][0, 1] = 1e-25, 0.0
    networks = networks.replace(networks.architecture.flatten(named))
    canonical = ModuleScaleCanonicalizer().fit_transform(networks)
    after = networks.architecture.unflatten(canonical.weights)
    assert torch.equal(after["0.weight"][0, 1], named["0.weight"][0, 1])
    assert all(buffer.isfinite().all() for buffer in canonical.buffers.values())


def test_groups_by_hand_replace_discovery():
    networks = population("small cnn")
    architecture = networks.architecture
    groups = discover_scales(architecture.module, architecture.example_input)
    canonicalizer = ModuleScaleCanonicalizer(architecture, groups=groups[1:2]).fit(networks)
    assert canonicalizer.groups_ == groups[1:2]
    before = architecture.unflatten(networks.weights)
    after = architecture.unflatten(canonicalizer.transform(networks).weights)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["conv2.weight", "conv2.bias", "conv3.weight"]


def test_gradients_pass_and_are_finite_at_dead_rows():
    networks = population("small cnn")
    weights = networks.weights.clone()
    weights[:, :9] = 0
    weights.requires_grad_()
    canonicalizer = ModuleScaleCanonicalizer(networks.architecture).fit(weights)
    canonical = canonicalizer.transform(weights)
    (gradient,) = torch.autograd.grad(canonical.square().sum(), weights)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_arrays_go_in_and_come_out():
    networks = population("small cnn")
    architecture, inputs = networks.architecture, networks.architecture.example_input
    bare = Architecture(architecture.module)
    canonicalizer = clone(ModuleScaleCanonicalizer(bare, inputs=inputs))
    canonical = canonicalizer.fit_transform(networks.weights.numpy())
    assert isinstance(canonical, np.ndarray)
    expected = ModuleScaleCanonicalizer().fit_transform(networks).weights
    np.testing.assert_array_equal(canonical, expected.numpy())


def test_it_says_what_it_needs():
    cnn = Architecture(modules.SmallCNN())
    weights = torch.zeros(2, cnn.n_weights)
    with pytest.raises(ValueError, match=r"found by running it; pass inputs=X\[:2\]"):
        ModuleScaleCanonicalizer(cnn).fit(weights)
    with pytest.raises(ValueError, match="architecture must be given"):
        ModuleScaleCanonicalizer().fit(weights)
    with pytest.raises(ValueError, match=r"weights must have shape"):
        ModuleScaleCanonicalizer(cnn, groups=[]).fit(weights).transform(weights[:, 1:])
