"""Groups of modules whose symmetries are known by hand, and of modules that have fewer."""

import math
import re

import numpy as np
import pytest
import symmetric_modules as modules
import torch
from torch import nn
from torch.nn import functional

from bayesflow_nn.symmetry import PermutationGroup, Slot, discover, verify_groups
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.labelled import UnsupportedOperationError

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def attention_sizes(n_heads, size):
    """Heads, and inside of each the pairs (Q, K) and (V, O)."""
    return [n_heads] + 2 * n_heads * [size]


# Sizes of all groups, counted by hand.
KNOWN = {
    "mlp": (mlp, torch.randn(2, 5), [7, 6]),
    "small cnn": (modules.SmallCNN, torch.randn(2, 1, 12, 12), [8, 16, 16, 32]),
    # One for each stream of a stage, one inside each block.
    "resnet20": (modules.resnet20, IMAGE, 4 * [16] + 4 * [32] + 4 * [64]),
    "resnet18": (modules.resnet18, IMAGE, 3 * [64] + 3 * [128] + 3 * [256] + 3 * [512]),
    "vgg": (modules.vgg, IMAGE, [8, 16, 32, 16]),
    "vit": (modules.ViT, IMAGE, [192] + 6 * ([768, *attention_sizes(3, 64)])),
    "bert": (
        lambda: modules.Bert(24, 2, 3, 48, 50, 16),
        torch.randint(0, 50, (2, 7)),
        [24] + 2 * ([48, *attention_sizes(3, 8)]),
    ),
    "library attention": (
        modules.LibraryAttention,
        torch.randn(2, 6, 5),
        [12, *attention_sizes(3, 4)],
    ),
    "dense block": (modules.DenseBlock, torch.randn(2, 3, 8, 8), [6, 6, 6, 6]),
    # The three outputs of each of five inputs, in the convolution with a multiplier.
    "depthwise": (modules.DepthwiseSeparable, torch.randn(2, 3, 9, 9), [6, 5] + 5 * [3]),
    # Four groups with three outputs each, and three norms of two channels each.
    "grouped": (modules.grouped, torch.randn(2, 3, 8, 8), [4] + 4 * [3] + [3] + 3 * [2]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_groups_are_found_and_proved(name):
    make, example, sizes = KNOWN[name]
    groups = discover(make(), example)
    assert sorted(group.size for group in groups) == sorted(sizes)
    for index, group in enumerate(groups):
        assert group.parent is None or group.parent[0] < index


def test_the_shape_of_bert_base_has_the_groups_of_its_layers():
    with torch.device("meta"):
        bert = modules.Bert(vocabulary=100, length=8)
    bert = bert.to_empty(device="cpu")  # the values of the parameters do not matter
    bert.indices.copy_(torch.arange(8))
    groups = discover(bert, torch.zeros(1, 4, dtype=torch.long), verify=False)
    sizes = [768] + 12 * ([3072, *attention_sizes(12, 64)])
    assert sorted(group.size for group in groups) == sorted(sizes)


def test_a_slot_of_a_flattened_channel_has_all_its_pixels():
    groups = discover(modules.SmallCNN(), torch.randn(2, 1, 12, 12))
    (slot,) = (slot for slot in groups[2].slots if slot.parameter == "fc1.weight")
    assert np.array_equal(slot.positions, np.arange(16 * 9).reshape(16, 9))


def test_heads_carry_their_features():
    groups = discover(modules.ViT(24, 1, 3), IMAGE)
    heads = next(group for group in groups if group.size == 3)
    (weight,) = (slot for slot in heads.slots if slot.parameter.endswith("qkv.weight"))
    expected = np.arange(3 * 3 * 8).reshape(3, 3, 8).swapaxes(0, 1).reshape(3, 24)
    assert np.array_equal(np.sort(weight.positions, axis=1), expected)


class Function(nn.Module):
    """A hidden layer of eight units, and any function between it and the output."""

    def __init__(self, function, n_read=8):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(3, 8), nn.Linear(n_read, 2)
        self.vector = nn.Parameter(torch.randn(8))
        self.register_buffer("constant", torch.randn(8))
        self.square = nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


@pytest.mark.parametrize(
    ("function", "n_read", "sizes"),
    [
        (lambda m, x: x * m.vector, 8, [8]),  # a parameter moves along
        (lambda m, x: x + m.constant, 8, [8]),  # so does a buffer
        (lambda m, x: x + torch.arange(8.0), 8, []),  # a constant does not
        (lambda m, x: 2 * x + 1, 8, [8]),
        (lambda m, x: x.softmax(-1), 8, [8]),
        (lambda m, x: x / x.mean(-1, keepdim=True), 8, [8]),
        (lambda m, x: x[:, :4].relu() * x[:, 4:], 4, [4]),  # gates and values in pairs
        (lambda m, x: torch.cat([x[:, :4].softmax(-1), x[:, 4:]], -1), 8, [4, 4]),
        (lambda m, x: torch.cat([x, x.relu()], -1), 16, [8]),
        (lambda m, x: m.square(m.square(x)), 8, [8]),  # a layer used twice ties all three
        (lambda m, x: x + m.square(x).relu(), 8, [8]),
        (lambda m, x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]] + x, 8, [4]),  # mirrored pairs
        (lambda m, x: x.reshape(-1, 4, 2).mean(-1), 4, [4]),  # sums of pairs
        (lambda m, x: x.sum(-1, keepdim=True), 1, [8]),
    ],
)
def test_only_symmetries_are_found(function, n_read, sizes):
    """All are proved by `discover`; those that are no symmetry must be missing."""
    groups = discover(Function(function, n_read), torch.randn(4, 3))
    assert sorted(group.size for group in groups) == sizes


def test_permuting_many_networks_is_permuting_each():
    groups = discover(modules.ViT(12, 1, 3, size=8), IMAGE[..., :8, :8])
    generator = torch.Generator().manual_seed(0)
    module = modules.ViT(12, 1, 3, size=8)
    state = {
        name: torch.randn(4, *tensor.shape, generator=generator)
        for name, tensor in module.named_parameters()
    }
    orders = [
        torch.stack([torch.randperm(group.size, generator=generator) for _ in range(4)])
        for group in groups
    ]
    together = permute_all(groups, state, orders)
    for row in range(4):
        one = permute_all(
            groups, {n: t[row] for n, t in state.items()}, [order[row] for order in orders]
        )
        assert all(torch.equal(together[name][row], one[name]) for name in one)


def test_a_wrong_group_is_found_out():
    net = mlp()
    (right, _) = discover(net, torch.randn(2, 5))
    wrong = PermutationGroup("2.weight", 7, right.slots[:-1])
    with pytest.raises(RuntimeError, match="the group of '2.weight' is no symmetry"):
        verify_groups(net, (torch.randn(2, 5),), [right, wrong])
    by_hand = PermutationGroup(
        "pair",
        2,
        tuple(Slot(slot.parameter, slot.axis, slot.positions[[0, 3]]) for slot in right.slots),
    )
    verify_groups(net, (torch.randn(2, 5),), [by_hand])


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda m, x: torch.cumsum(x, -1), "function 'cumsum'"),
        (lambda m, x: x.cumsum(-1), "method 'cumsum'"),
        (
            lambda m, x: functional.conv1d(x[:, None], torch.ones(1, 1, 1))[:, 0],
            "function 'conv1d'",
        ),
    ],
)
def test_operations_without_a_rule_are_named_with_their_line(function, operation):
    with pytest.raises(UnsupportedOperationError, match=operation) as caught:
        discover(Function(function), torch.randn(4, 3))
    assert re.search(r"test_discovery.py, line \d+\) has no rule.*by hand", str(caught.value))


def test_layers_without_a_rule_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4))
    with pytest.raises(UnsupportedOperationError, match="module '1' of type LSTM"):
        discover(net, torch.randn(4, 3))


def test_modules_that_cannot_be_traced_are_told_so():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedOperationError, match="Branching cannot be traced by torch.fx"):
        discover(Branching(), torch.randn(2, 3))


def test_the_number_of_orders_is_that_of_the_wreath_products():
    """As a check of nesting: heads and their features have h! (s! s!)^h orders."""
    groups = discover(modules.LibraryAttention(), torch.randn(2, 6, 5))
    orders = math.prod(math.factorial(group.size) for group in groups)
    assert orders == math.factorial(12) * math.factorial(3) * math.factorial(4) ** 6
