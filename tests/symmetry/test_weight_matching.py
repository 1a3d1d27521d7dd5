"""Weight matching against exhaustive search and against a plain loop over networks."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.symmetry.dense_layers import join_layers
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.matching_scale import matching_layers
from bayesflow_nn.symmetry.representation import find_groups
from bayesflow_nn.symmetry.weight_matching import match_weights
from bayesflow_nn.weights import Architecture

BENCHMARK = Path(__file__).parents[2] / "examples" / "benchmarks" / "weight_matching.py"


def random_networks(sizes, n, seed=0, bias=True):
    """Groups, networks and a reference."""
    mlp = Architecture.mlp(sizes, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(n + 1, mlp.n_weights, generator=generator, dtype=torch.float64)
    networks = mlp.unflatten(weights)
    reference = {name: tensor[-1] for name, tensor in networks.items()}
    return find_groups(mlp), {name: tensor[:-1] for name, tensor in networks.items()}, reference


def inner_products(networks, reference):
    """Objective of the matching, (n_networks,)."""
    return sum((networks[name] * reference[name]).flatten(1).sum(1) for name in reference)


def all_permutations(n):
    return torch.tensor(list(itertools.permutations(range(n))))


@settings(max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_one_hidden_layer_is_matched_optimally(sizes, bias, seed):
    groups, networks, reference = random_networks(sizes, 3, seed, bias)
    matched = permute_all(groups, networks, match_weights(groups, networks, reference))
    best = torch.stack(
        [
            inner_products(permute_all(groups, networks, [order.expand(3, -1)]), reference)
            for order in all_permutations(sizes[1])
        ]
    ).amax(0)
    torch.testing.assert_close(inner_products(matched, reference), best)


@pytest.mark.parametrize("sizes", [[3, 4, 4, 2], [2, 4, 3, 4, 2]])
def test_no_single_layer_can_be_permuted_with_gain(sizes):
    """What coordinate descent promises with several hidden layers, by exhaustive search."""
    groups, networks, reference = random_networks(sizes, 10)
    matched = permute_all(groups, networks, match_weights(groups, networks, reference))
    identity = [torch.arange(n).expand(10, -1) for n in sizes[1:-1]]
    for index, n in enumerate(sizes[1:-1]):
        for order in all_permutations(n):
            orders = [*identity[:index], order.expand(10, -1), *identity[index + 1 :]]
            moved = inner_products(permute_all(groups, matched, orders), reference)
            assert (moved <= inner_products(matched, reference) + 1e-12).all()


@pytest.mark.parametrize("sizes", [[4, 9, 3], [4, 9, 7, 3], [4, 9, 7, 8, 3]])
def test_it_agrees_with_a_plain_loop_over_networks(sizes):
    plain_permutations = runpy.run_path(str(BENCHMARK))["plain_permutations"]
    mlp = Architecture.mlp(sizes)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(50, mlp.n_weights, generator=generator, dtype=torch.float64)
    aligner = PermutationAligner(mlp, random_state=0).fit(weights)
    expected = plain_permutations(aligner, weights)
    for found, plain in zip(aligner.permutations(weights), expected, strict=True):
        assert torch.equal(found, plain)


def test_few_orders_are_all_tried():
    """The descent is not always at the optimum over two layers; enumeration is."""
    groups, networks, reference = random_networks([3, 4, 4, 2], 20)
    best = torch.full((20,), -torch.inf).double()
    for first in all_permutations(4):
        for second in all_permutations(4):
            orders = [first.expand(20, -1), second.expand(20, -1)]
            best = best.maximum(inner_products(permute_all(groups, networks, orders), reference))

    def reached(**options):
        orders = match_weights(groups, networks, reference, **options)
        return inner_products(permute_all(groups, networks, orders), reference)

    torch.testing.assert_close(reached(n_exact=576), best)
    assert (reached() < best - 0.01).any()
    assert torch.equal(reached(n_exact=575), reached())


def test_chunks_do_not_change_the_result(monkeypatch):
    given = random_networks([4, 6, 5, 2], 23)
    together = match_weights(*given)
    monkeypatch.setitem(match_weights.__globals__, "_CHUNK_BYTES", 5 * 8 * 150)
    for whole, parts in zip(together, match_weights(*given), strict=True):
        assert torch.equal(whole, parts)


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    match_weights(*random_networks([4, 6, 2], 2))
    assert torch.get_num_threads() == before


def test_a_network_of_equal_neurons_ends_in_spite_of_its_ties():
    groups, networks, reference = random_networks([4, 6, 5, 2], 3)
    networks = {name: torch.ones_like(tensor) for name, tensor in networks.items()}
    for permutation in match_weights(groups, networks, reference):
        assert torch.equal(
            permutation.sort(1).values, torch.arange(permutation.shape[1]).expand(3, -1)
        )


def test_comparison_is_on_canonical_scale():
    """Rows of norm 1, output columns of root-mean-square norm 1/2, whatever the scales were."""
    mlp = Architecture.mlp([4, 6, 5, 2])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, mlp.n_weights, generator=generator, dtype=torch.float64)
    first, second, output = matching_layers(mlp, weights, logit_shift=False)
    for matrix in (first.matrix, second.matrix):
        torch.testing.assert_close(matrix.norm(dim=-1), torch.ones(matrix.shape[:2]).double())
    mean_square = output.matrix.square().sum(-2).mean(-1)
    torch.testing.assert_close(mean_square, torch.full((3,), 0.25).double())


def test_activations_without_scale_symmetry_are_compared_as_they_are():
    mlp = Architecture.mlp([4, 6, 2], activation="tanh")
    weights = torch.randn(3, mlp.n_weights, generator=torch.Generator().manual_seed(0))
    assert torch.equal(join_layers(matching_layers(mlp, weights, logit_shift=False)), weights)


def test_the_logit_shift_does_not_count():
    mlp = Architecture.mlp([4, 6, 2])
    weights = torch.randn(3, mlp.n_weights, generator=torch.Generator().manual_seed(0)).double()
    shifted = weights.clone()
    shifted[:, mlp.layers[-1].weight] += torch.randn(6).double().repeat(2)
    layers = [matching_layers(mlp, w, logit_shift=True)[-1].matrix for w in (weights, shifted)]
    torch.testing.assert_close(*layers)
