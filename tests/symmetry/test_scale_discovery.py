"""Scale groups of modules that are known by hand, and of functions that have none."""

from collections import Counter

import pytest
import symmetric_modules as modules
import torch
from torch import nn
from torch.nn import functional

from bayesflow_nn.symmetry.groups import Slot
from bayesflow_nn.symmetry.labelled import UnsupportedOperationError
from bayesflow_nn.symmetry.scale_discovery import discover_scales, verify_scales
from bayesflow_nn.symmetry.scale_groups import ScaleGroup, scale, settled_weights

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mlp(activation):
    return nn.Sequential(
        nn.Linear(5, 7), activation, nn.Linear(7, 6), activation, nn.Linear(6, 3)
    )  # fmt: skip


def homogeneous(*sizes):
    return Counter(("homogeneous", size) for size in sizes)


def invariant(*sizes):
    return Counter(("invariant", size) for size in sizes)


def odd(*sizes):
    return Counter(("odd", size) for size in sizes)


X = torch.randn(2, 5)
# Kinds and sizes of all groups, counted by hand.
KNOWN = {
    "relu": (lambda: mlp(nn.ReLU()), X, homogeneous(7, 6)),
    "leaky relu": (lambda: mlp(nn.LeakyReLU(0.2)), X, homogeneous(7, 6)),
    "prelu": (lambda: mlp(nn.PReLU()), X, homogeneous(7, 6)),
    "identity": (lambda: mlp(nn.Identity()), X, homogeneous(7, 6)),
    "tanh": (lambda: mlp(nn.Tanh()), X, odd(7, 6)),
    "hardtanh": (lambda: mlp(nn.Hardtanh()), X, odd(7, 6)),
    "lopsided hardtanh": (lambda: mlp(nn.Hardtanh(-1, 2)), X, Counter()),
    "gelu": (lambda: mlp(nn.GELU()), X, Counter()),
    "relu6": (lambda: mlp(nn.ReLU6()), X, Counter()),
    "small cnn": (modules.SmallCNN, torch.randn(2, 1, 12, 12), homogeneous(8, 16, 16, 32)),
    # Of each stage the stream and one inside of each block; every convolution meets batch norm.
    "resnet20": (
        lambda: modules.resnet20(4),
        IMAGE,
        homogeneous(*4 * [4], *4 * [8], *4 * [16]) + invariant(*7 * [4], *7 * [8], *7 * [16]),
    ),
    "vgg": (modules.vgg, IMAGE, homogeneous(8, 16, 32, 16) + invariant(8, 16)),
    # Of each block the two norms, and the values of the heads; and the last norm.
    "vit": (lambda: modules.ViT(24, 2, 3, size=8), IMAGE[..., :8, :8], homogeneous(*7 * [24])),
    # The norms write to the stream, which the next norm reads: the last alone is free.
    "bert": (
        lambda: modules.Bert(24, 2, 3, 48, 50, 16),
        torch.randint(0, 50, (2, 7)),
        homogeneous(24, 24, 24),
    ),
    "library attention": (modules.LibraryAttention, torch.randn(2, 6, 5), homogeneous(12, 12)),
    # The four parts of the stream, and the norms of 1, 2 and 3 parts.
    "dense block": (
        modules.DenseBlock,
        torch.randn(2, 3, 8, 8),
        homogeneous(6, 6, 6, 6, 6, 12, 18),
    ),
    # ReLU6 stops all but the last, in front of tanh.
    "depthwise": (modules.DepthwiseSeparable, torch.randn(2, 3, 9, 9), odd(15)),
    "grouped": (modules.grouped, torch.randn(2, 3, 8, 8), homogeneous(12, 6)),
}


def kinds(groups):
    return Counter((group.kind, group.size) for group in groups)


@pytest.mark.parametrize("name", KNOWN)
def test_known_groups_are_found_and_proved(name):
    make, example, expected = KNOWN[name]
    assert kinds(discover_scales(make(), example)) == expected


def test_the_slots_of_a_stream_are_all_that_write_and_read_it():
    groups = {group.name: group for group in discover_scales(modules.resnet20(4), IMAGE)}
    stream = groups["bn1.weight"]
    blocks = [f"stages.0.{i}" for i in range(3)]
    norms = ["bn1", *(f"{block}.bn2" for block in blocks)]
    readers = [*(f"{b}.conv1" for b in blocks), "stages.1.0.conv1", "stages.1.0.shortcut.0"]
    assert [slot.parameter for slot in stream.weights] == [f"{n}.weight" for n in norms]
    assert [slot.parameter for slot in stream.biases] == [f"{n}.bias" for n in norms]
    assert [slot.parameter for slot in stream.outgoing] == [f"{n}.weight" for n in readers]
    assert {slot.axis for slot in stream.outgoing} == {1}
    assert stream.incoming == stream.weights + stream.biases


def test_values_are_scaled_and_queries_and_keys_are_not():
    groups = discover_scales(modules.ViT(24, 1, 3, size=8), IMAGE[..., :8, :8])
    (values,) = (group for group in groups if group.name.endswith("qkv.weight"))
    assert values.weights[0].positions.flatten().tolist() == list(range(48, 72))
    assert values.outgoing[0].parameter == "blocks.0.attn.proj.weight"


class Function(nn.Module):
    """A hidden layer of eight units, and any function between it and the output."""

    def __init__(self, function, n_read=8):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(3, 8), nn.Linear(n_read, 2)
        self.vector = nn.Parameter(torch.randn(8))
        self.register_buffer("constant", torch.randn(8))
        self.square = nn.Linear(8, 8)
        self.lstm = nn.LSTM(8, 8)

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + 1,
        lambda m, x: 1 - x,
        lambda m, x: x + m.constant,
        lambda m, x: x + torch.arange(8.0),
        lambda m, x: x * x,
        lambda m, x: x / (1 + x * x),
        lambda m, x: 1 / x,
        lambda m, x: x * torch.sigmoid(x),
        lambda m, x: x.relu() + x.tanh(),
        lambda m, x: x.relu() * x.relu(),
        lambda m, x: x.softmax(-1),
        lambda m, x: x.clamp(0, 1),
        lambda m, x: x**2,
        lambda m, x: functional.softplus(x) - functional.softplus(-x),
        lambda m, x: torch.cumsum(x, -1),  # operations without a rule fix what they read
        lambda m, x: x.cumsum(-1),
        lambda m, x: x.sort(-1).values,
        lambda m, x: m.lstm(x)[0],
        lambda m, x: functional.layer_norm(x, (8,)),
        lambda m, x: x + functional.linear(x, m.square.weight * 2),
        # The vector would have to be scaled and to stay.
        lambda m, x: (x + m.vector) * m.vector.tanh(),
        lambda m, x: x @ m.square.weight + m.square(x),
    ],
)
def test_what_is_not_equivariant_may_not_be_scaled(function):
    assert discover_scales(Function(function), torch.randn(4, 3)) == ()


@pytest.mark.parametrize(
    ("function", "n_read", "expected"),
    [
        (lambda m, x: 2 * x / 3, 8, homogeneous(8)),
        (lambda m, x: x + 0, 8, homogeneous(8)),
        (lambda m, x: (x * m.vector).relu(), 8, homogeneous(8)),
        (lambda m, x: (x + m.vector).relu(), 8, homogeneous(8)),
        (lambda m, x: x * m.constant, 8, homogeneous(8)),
        (lambda m, x: x.clamp(min=0), 8, homogeneous(8)),
        (lambda m, x: x.clamp(-2, 2), 8, odd(8)),
        (lambda m, x: x.abs() - x.relu(), 8, homogeneous(8)),
        (lambda m, x: functional.hardtanh(x, -2, 2), 8, odd(8)),
        (lambda m, x: functional.leaky_relu(x, 0.3), 8, homogeneous(8)),
        (lambda m, x: torch.erf(x) + x.tanh(), 8, odd(8)),
        (lambda m, x: x.tanh() * m.constant, 8, odd(8)),
        (lambda m, x: torch.maximum(x[:, :4], x[:, 4:]), 4, homogeneous(4)),
        (lambda m, x: torch.cat([x[:, :4].relu(), x[:, 4:].tanh()], -1), 8,
         homogeneous(4) + odd(4)),
        (lambda m, x: torch.cat([x, x.relu()], -1), 16, homogeneous(8)),
        (lambda m, x: m.square(m.square(x).relu()).relu(), 8, homogeneous(8)),
        (lambda m, x: x + m.square(x).relu(), 8, homogeneous(8)),
        (lambda m, x: x.reshape(-1, 4, 2).mean(-1), 4, homogeneous(4)),
        (lambda m, x: x + x.mean(-1, keepdim=True), 8, homogeneous(1)),
        (lambda m, x: functional.pad(x, (1, 2)).relu(), 11, homogeneous(8)),
        (lambda m, x: m.square(x.sigmoid()).relu(), 8, homogeneous(8)),
        (lambda m, x: x.detach().relu_(), 8, homogeneous(8)),
    ],
)  # fmt: skip
def test_what_is_equivariant_is_scaled(function, n_read, expected):
    """All are proved by `discover_scales`."""
    assert kinds(discover_scales(Function(function, n_read), torch.randn(4, 3))) == expected


def test_convolutions_by_channel_and_transposed_ones_take_scales():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(),
        nn.ConvTranspose2d(8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 25, 2),
    )  # fmt: skip
    groups = discover_scales(net, IMAGE[..., :8, :8])
    assert kinds(groups) == homogeneous(4, 8, 5)
    (reader,) = groups[0].outgoing
    assert reader.axis == 0
    assert reader.positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_tied_weights_stay_unless_both_uses_agree():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.decode = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.decode.weight = self.words.weight

        def forward(self, x):
            return self.decode(self.words(x).relu())

    assert discover_scales(Tied(), torch.randint(0, 9, (2, 3))) == ()


def test_a_layer_that_changes_its_input_in_place_is_proved():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 7), nn.ReLU(inplace=True))
    example = torch.randn(2, 5)
    before = example.clone()
    assert kinds(discover_scales(nn.Sequential(net, nn.Linear(7, 2)), example)) == homogeneous(7)
    assert torch.equal(example, before)


def test_batch_norm_in_training_does_not_see_the_scale_of_its_input():
    """Up to eps, which is nothing here: the mean and variance of a batch follow the scale."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-30), nn.Flatten())
    net = net.double().train()
    (group,) = discover_scales(net, IMAGE[..., :8, :8])
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    scaled = group.scale(state, torch.tensor([0.1, 2.0, 3.0, 40.0]).double())
    own, other = (
        torch.func.functional_call(net, {n: t.clone() for n, t in s.items()}, IMAGE.double())
        for s in (state, state | scaled)
    )
    torch.testing.assert_close(other, own, atol=1e-9, rtol=1e-9)


def test_the_variance_and_eps_are_scaled_together():
    """(v + eps) c^2 - eps, for v = 2, eps = 1 and c = 3: 26; the mean 5 becomes 15."""
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=1.0))
    (group,) = discover_scales(net, torch.randn(4, 2))
    state = {"1.running_mean": torch.tensor([5.0]), "1.running_var": torch.tensor([2.0])}
    scaled = group.scale(state, torch.tensor([3.0]))
    assert scaled["1.running_mean"].item() == 15
    assert scaled["1.running_var"].item() == 26
    assert group.kind == "invariant"


def test_batch_norm_that_keeps_no_statistics_fixes_its_input():
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, track_running_stats=False))
    assert discover_scales(nn.Sequential(net, nn.GELU()), torch.randn(4, 5)) == ()


def test_scaling_many_networks_is_scaling_each():
    module = modules.DenseBlock()
    groups = discover_scales(module, torch.randn(2, 3, 8, 8))
    generator = torch.Generator().manual_seed(0)
    named = [*module.named_parameters(), *module.named_buffers()]
    state = {n: torch.rand(4, *t.shape, generator=generator) for n, t in named}
    factors = [1 + torch.rand(4, group.size, generator=generator) for group in groups]
    together = scale(groups, state, factors)
    for row in range(4):
        one = scale(groups, {n: t[row] for n, t in state.items()}, [f[row] for f in factors])
        assert all(torch.equal(together[name][row], one[name]) for name in one)


def test_weights_that_later_groups_scale_are_not_settled():
    """Without batch norm the block writes to the stream through units of its own."""
    groups = discover_scales(
        Function(lambda m, x: x.relu() + m.square(x.relu()).relu()), torch.randn(4, 3)
    )
    (group,) = groups
    assert [slot.parameter for slot in group.weights] == ["first.weight", "square.weight"]
    ((slot,),) = settled_weights(groups)
    assert slot.parameter == "first.weight"
    for settled, own in zip(
        settled_weights(discover_scales(modules.vgg(), IMAGE)),
        discover_scales(modules.vgg(), IMAGE),
        strict=True,
    ):
        assert [s.parameter for s in settled] == [s.parameter for s in own.weights]


def test_a_wrong_group_is_found_out():
    net = mlp(nn.ReLU())
    right, other = discover_scales(net, X)
    wrong = ScaleGroup(other.name, "homogeneous", 6, other.weights, (), other.outgoing)
    with pytest.raises(RuntimeError, match="the homogeneous group of '2.weight' is no symmetry"):
        verify_scales(net, (X,), [right, wrong])
    pair = [Slot(slot.parameter, slot.axis, slot.positions[[0, 3]]) for slot in right.slots]
    verify_scales(net, (X,), [ScaleGroup("pair", "homogeneous", 2, *((slot,) for slot in pair))])
    with pytest.raises(ValueError, match="kind must be one of"):
        ScaleGroup("pair", "even", 2, tuple(pair[:1]))


def test_modules_that_cannot_be_traced_are_told_so():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedOperationError, match="Branching cannot be traced by torch.fx"):
        discover_scales(Branching(), torch.randn(2, 3))
