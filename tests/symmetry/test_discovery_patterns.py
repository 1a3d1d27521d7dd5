"""Groups of patterns that real modules are made of; every group found is proved by `discover`."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bayesflow_nn.symmetry import PermutationGroup, Slot, discover, verify_groups
from bayesflow_nn.symmetry.labelled import UnsupportedOperationError
from bayesflow_nn.symmetry.proof import separating_subsets

IMAGE = torch.randn(2, 3, 16, 16)
ROWS = torch.randn(4, 5)
TOKENS = torch.randint(0, 11, (2, 4))
SEQUENCE = torch.randn(2, 6, 5)


class Pattern(nn.Module):
    """Layers by name, and a function of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def squeeze_excite():
    def forward(m, x):
        x = functional.relu(m.conv(x))
        gate = torch.sigmoid(m.up(functional.relu(m.down(x.mean((2, 3))))))
        return m.head((x * gate[:, :, None, None]).mean(dim=[2, 3]))

    return Pattern(
        forward,
        conv=nn.Conv2d(3, 8, 3),
        down=nn.Linear(8, 4),
        up=nn.Linear(4, 8),
        head=nn.Linear(8, 2),
    )


def convnext():
    def forward(m, x):
        x = m.stem(x)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.down(functional.gelu(m.up(y))) * m.scale
        return m.head((x + y.permute(0, 3, 1, 2)).mean([-2, -1]))

    return Pattern(
        forward,
        stem=nn.Conv2d(3, 8, 4, 4),
        depthwise=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 32),
        down=nn.Linear(32, 8),
        scale=nn.Parameter(torch.ones(8)),
        head=nn.Linear(8, 2),
    )


def gated():
    def forward(m, x):
        value, gate = m.read(x).chunk(2, -1)
        return m.head(value * functional.silu(gate))

    return Pattern(forward, read=nn.Linear(5, 16), head=nn.Linear(8, 3))


def tied_embedding():
    def forward(m, tokens):
        x = m.embedding(tokens)
        x = x + m.down(functional.relu(m.up(x)))
        return functional.linear(x, m.embedding.weight)

    return Pattern(forward, embedding=nn.Embedding(11, 6), up=nn.Linear(6, 9), down=nn.Linear(9, 6))


def fused_attention():
    def forward(m, x):
        x = m.read(x)
        b, n, d = x.shape
        q, k, v = (
            layer(x).view(b, n, 3, d // 3).transpose(1, 2) for layer in (m.query, m.key, m.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return m.head(x + m.out(y.transpose(1, 2).reshape(b, n, d)))

    layers = {name: nn.Linear(12, 12) for name in ("query", "key", "value", "out")}
    return Pattern(forward, read=nn.Linear(5, 12), head=nn.Linear(12, 2), **layers)


def shared_keys():
    """Several heads of queries, one of keys and values: features of all heads move together."""

    def forward(m, x):
        x = m.read(x)
        b, n, _ = x.shape
        q = m.query(x).view(b, n, 4, 3).transpose(1, 2)
        y = (q @ m.key(x)[:, None].mT).softmax(-1) @ m.value(x)[:, None]
        return m.head(x + m.out(y.transpose(1, 2).reshape(b, n, 12)))

    return Pattern(
        forward,
        read=nn.Linear(5, 12),
        query=nn.Linear(12, 12),
        key=nn.Linear(12, 3),
        value=nn.Linear(12, 3),
        out=nn.Linear(12, 12),
        head=nn.Linear(12, 2),
    )


def masked_heads():
    """A bias of its own for every head holds the heads in place, not what is inside of them."""

    def forward(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) + torch.arange(2.0, dtype=x.dtype)[:, None, None]
        scores = scores * torch.arange(1, n + 1, dtype=x.dtype) / n
        return m.head((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 8))

    return Pattern(forward, qkv=nn.Linear(5, 24), head=nn.Linear(8, 2))


def shuffled_groups():
    """Groups of two convolutions that cut across each other: no block can move."""

    def forward(m, x):
        x = m.second(functional.relu(m.first(x)))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.head(m.third(x).mean((2, 3)))

    return Pattern(
        forward,
        first=nn.Conv2d(3, 8, 1),
        second=nn.Conv2d(8, 8, 3, groups=2),
        third=nn.Conv2d(8, 8, 1, groups=2),
        head=nn.Linear(8, 2),
    )


def by_matrix():
    return Pattern(
        lambda m, x: torch.tanh(x @ m.first) @ m.second,
        first=nn.Parameter(torch.randn(5, 7)),
        second=nn.Parameter(torch.randn(7, 2)),
    )


def rotated():
    def forward(m, x):
        x = m.read(x)
        return m.head(torch.cat([-x[..., 4:], x[..., :4]], -1) * 0.3 + x)

    return Pattern(forward, read=nn.Linear(5, 8), head=nn.Linear(8, 3))


def softmax_of_two():
    """A softmax between two layers ties their units; each alone can move nothing."""

    def forward(m, x):
        shares = torch.stack([m.first(x), m.second(x)]).softmax(0)
        return m.third(shares[0]) + m.fourth(shares[1])

    layers = {"first": nn.Linear(5, 6), "second": nn.Linear(5, 6)}
    return Pattern(forward, third=nn.Linear(6, 2), fourth=nn.Linear(6, 2), **layers)


def picked_by_buffer():
    module = Pattern(
        lambda m, x: m.head(functional.relu(m.read(x))[:, m.order]),
        read=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )
    module.register_buffer("order", torch.tensor([1, 0, 2, 3, 5, 4]))
    return module


def in_place():
    return Pattern(
        lambda m, x: m.head(functional.relu(m.read(x.add_(1)), inplace=True)),
        read=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )


def transposed_embedding():
    """The matrix is looked up in and multiplied by: its columns move with the rows of `dense`."""
    return Pattern(
        lambda m, tokens: functional.relu(m.dense(m.embedding(tokens))) @ m.embedding.weight.T,
        embedding=nn.Embedding(11, 6),
        dense=nn.Linear(6, 6),
    )


def centred():
    return Pattern(
        lambda m, x: m.head((lambda h: h - h.mean(axis=1, keepdim=True))(m.read(x))),
        read=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )


@pytest.mark.parametrize(
    ("make", "example", "sizes"),
    [
        (softmax_of_two, ROWS, [6]),
        (picked_by_buffer, ROWS, [6]),
        (in_place, ROWS, [6]),
        (transposed_embedding, TOKENS, [6]),
        (centred, ROWS, [6]),
        (squeeze_excite, IMAGE, [8, 4]),
        (convnext, IMAGE, [8, 32]),
        (gated, ROWS, [8]),
        (tied_embedding, TOKENS, [6, 9]),
        (fused_attention, SEQUENCE, [12, 3] + 6 * [4]),
        (shared_keys, SEQUENCE, [12, 3, 3]),
        (masked_heads, SEQUENCE, 4 * [4]),
        (shuffled_groups, IMAGE, []),
        (by_matrix, ROWS, [7]),
        (rotated, ROWS, [4]),
    ],
)
def test_groups_of_common_patterns(make, example, sizes):
    before = example.clone()
    assert sorted(group.size for group in discover(make(), example)) == sorted(sizes)
    assert torch.equal(example, before)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 20])
def test_of_any_two_groups_one_is_proved_without_the_other(n):
    subsets = [set(subset) for subset in separating_subsets(range(n))]
    assert set(range(n)) in subsets
    for a in range(n):
        for b in range(n):
            assert a == b or any(a in subset and b not in subset for subset in subsets)


def test_groups_that_move_only_together_do_not_pass_the_proof():
    """With two units each, both groups of the softmax have the same single permutation."""
    module = softmax_of_two()
    for name in ("first", "second"):
        setattr(module, name, nn.Linear(5, 2))
    for name in ("third", "fourth"):
        setattr(module, name, nn.Linear(2, 2))
    positions = np.arange(2)[:, None]
    apart = [
        PermutationGroup(
            made,
            2,
            tuple(
                Slot(name, axis, positions)
                for name, axis in (
                    (f"{made}.weight", 0),
                    (f"{made}.bias", 0),
                    (f"{read}.weight", 1),
                )
            ),
        )
        for made, read in (("first", "third"), ("second", "fourth"))
    ]
    with pytest.raises(RuntimeError, match="the group of 'first' is no symmetry"):
        verify_groups(module, (ROWS,), apart)


def test_options_without_a_rule_are_named():
    always = Pattern(
        lambda m, x: m.head(functional.dropout(m.read(x), 0.5)),
        read=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )
    with pytest.raises(UnsupportedOperationError, match="a dropout that is always on"):
        discover(always, ROWS)
    summed = Pattern(
        lambda m, x: m.head(m.read(x)).sum(dim=1, dtype=torch.float64),
        read=nn.Linear(5, 6),
        head=nn.Linear(6, 2),
    )
    with pytest.raises(UnsupportedOperationError, match="method 'sum' with these options"):
        discover(summed, ROWS)
