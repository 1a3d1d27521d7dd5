"""Signs of odd neurons, which weight matching chooses together with their order."""

import itertools

import pytest
import torch

from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.symmetry.groups import compose, permute_all
from bayesflow_nn.symmetry.representation import find_groups
from bayesflow_nn.symmetry.sinkhorn import match_sinkhorn
from bayesflow_nn.symmetry.weight_matching import match_weights
from bayesflow_nn.weights import Architecture


def draw_networks(architecture: Architecture, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, architecture.n_weights, generator=generator, dtype=torch.float64)


def flip(architecture: Architecture, network: torch.Tensor, layer: int, neuron: int):
    """The network with all weights of one hidden neuron turned around, by plain indexing."""
    tensors = {name: t[0].clone() for name, t in architecture.unflatten(network[None]).items()}
    tensors[f"{2 * layer}.weight"][neuron] *= -1
    tensors[f"{2 * layer}.bias"][neuron] *= -1
    tensors[f"{2 * layer + 2}.weight"][:, neuron] *= -1
    return architecture.flatten({name: t[None] for name, t in tensors.items()})[0]


def test_only_odd_activations_may_change_signs():
    signs = {name: Architecture.mlp([2, 3, 1], name) for name in ("tanh", "relu", "sigmoid")}
    odd = {name: find_groups(architecture)[0].odd for name, architecture in signs.items()}
    assert odd == {"tanh": True, "relu": False, "sigmoid": False}


def test_the_inner_product_with_the_reference_is_the_largest_of_all_orders_and_signs():
    architecture = Architecture.mlp([2, 3, 2], "tanh")
    weights = draw_networks(architecture, 6)
    reference = weights[0]
    aligned = PermutationAligner(architecture, reference=reference).fit_transform(weights)
    for network, found in zip(weights, aligned, strict=True):
        best = -torch.inf
        tensors = {name: t[0] for name, t in architecture.unflatten(network[None]).items()}
        for order in itertools.permutations(range(3)):
            for signs in itertools.product([1.0, -1.0], repeat=3):
                sign = torch.tensor(signs, dtype=torch.float64)
                moved = architecture.flatten(
                    {
                        "0.weight": (tensors["0.weight"][list(order)] * sign[:, None])[None],
                        "0.bias": (tensors["0.bias"][list(order)] * sign)[None],
                        "2.weight": (tensors["2.weight"][:, list(order)] * sign)[None],
                        "2.bias": tensors["2.bias"][None],
                    }
                )[0]
                best = max(best, (moved @ reference).item())
        assert (found @ reference).item() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("method", ["weight_matching", "activation_matching", "sinkhorn"])
def test_functions_stay_and_planted_signs_are_found(method):
    architecture = Architecture.mlp([3, 6, 5, 2], "tanh")
    reference = draw_networks(architecture, 1)[0]
    X = draw_networks(Architecture.mlp([3, 1], bias=False), 50)
    changed = reference
    for layer, neuron in [(0, 1), (0, 4), (1, 0), (1, 2), (1, 3)]:
        changed = flip(architecture, changed, layer, neuron)
    torch.testing.assert_close(
        architecture.apply(changed[None], X), architecture.apply(reference[None], X)
    )
    aligner = PermutationAligner(architecture, method, reference=reference, inputs=X)
    aligner.fit(reference[None])
    torch.testing.assert_close(aligner.transform(changed[None])[0], reference)
    first, second = aligner.permutations(changed[None])
    assert first.tolist() == [[0, ~1, 2, 3, ~4, 5]] and second.tolist() == [[~0, 1, ~2, ~3, 4]]


def test_trying_all_orders_tries_all_signs():
    """From one layer to the next coordinate descent may miss what enumeration finds."""
    architecture = Architecture.mlp([1, 3, 3, 1], "tanh")
    weights = draw_networks(architecture, 40)
    groups, networks = find_groups(architecture), architecture.unflatten(weights[1:])
    reference = {name: t[0] for name, t in architecture.unflatten(weights[:1]).items()}

    def inner_products(n_exact: int) -> torch.Tensor:
        orders = match_weights(groups, networks, reference, n_exact=n_exact)
        moved = permute_all(groups, networks, orders)
        return sum((moved[name] * t).flatten(1).sum(1) for name, t in reference.items())

    n_orders = (6 * 8) ** 2
    exact, descent = inner_products(n_orders), inner_products(0)
    assert torch.equal(inner_products(n_orders - 1), descent)
    assert (exact >= descent - 1e-12).all() and (exact > descent + 0.1).any()


def test_composed_permutations_act_one_after_the_other():
    architecture = Architecture.mlp([2, 4, 1], "tanh")
    groups, networks = (
        find_groups(architecture),
        architecture.unflatten(draw_networks(architecture, 1)),
    )
    first, second = torch.tensor([[2, ~0, 1, ~3]]), torch.tensor([[~1, 3, ~0, 2]])
    twice = permute_all(groups, permute_all(groups, networks, [first]), [second])
    once = permute_all(groups, networks, [compose(first, second)])
    for name, tensor in twice.items():
        assert torch.equal(once[name], tensor)


def test_sinkhorn_keeps_the_signs_of_its_start():
    architecture = Architecture.mlp([2, 4, 1], "tanh")
    weights = draw_networks(architecture, 2)
    groups, networks = find_groups(architecture), architecture.unflatten(weights[1:])
    reference = {name: t[0] for name, t in architecture.unflatten(weights[:1]).items()}
    start = torch.tensor([[3, ~2, 0, ~1]])
    (found,) = match_sinkhorn(groups, networks, reference, start=[start])
    elements = {k if k >= 0 else ~k: k >= 0 for k in found[0].tolist()}
    assert elements == {0: True, 1: False, 2: False, 3: True}
    values = [
        sum((moved[name][0] * t).sum() for name, t in reference.items())
        for moved in (permute_all(groups, networks, [order]) for order in (start, found))
    ]
    assert values[1] >= values[0]
