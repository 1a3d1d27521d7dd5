"""Relaxed permutations against their definition, and matching against planted permutations."""

import itertools
import math

import pytest
import symmetric_modules as modules
import torch
from torch import nn

from bayesflow_nn.symmetry import PermutationGroup, discover
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.objectives import L2Objective, MidpointObjective, RandomPointObjective
from bayesflow_nn.symmetry.relaxation import permute_softly, sinkhorn
from bayesflow_nn.symmetry.sinkhorn import match_sinkhorn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 3)
    )


EXAMPLES = {
    "mlp": (mlp, torch.zeros(2, 6)),
    "cnn": (small_cnn, torch.zeros(2, 1, 6, 6)),
}


def normal_networks(module, n_networks, dtype=torch.float64, seed=0):
    """Normal parameters of the size that keeps activations of order one."""
    g = generator(seed)
    return {
        name: torch.randn(n_networks, *tensor.shape, generator=g, dtype=dtype)
        / math.sqrt(tensor[0].numel())
        for name, tensor in module.named_parameters()
    }


def random_orders(groups, n_networks, seed=0):
    g = generator(seed)
    return [
        torch.stack([torch.randperm(group.size, generator=g) for _ in range(n_networks)])
        for group in groups
    ]


def planted(make, example, n_networks, dtype=torch.float64, noise=0.01):
    """Groups, a reference, and reordered copies of it with noise of a fraction of its size."""
    module = make()
    groups = discover(module, example)
    reference = {name: t[0] for name, t in normal_networks(module, 1, dtype).items()}
    orders = random_orders(groups, n_networks)
    copies = {name: t.expand(n_networks, *t.shape) for name, t in reference.items()}
    networks = permute_all(groups, copies, orders)
    for name, tensor in normal_networks(module, n_networks, dtype, seed=1).items():
        networks[name] = networks[name] + noise * tensor
    return groups, reference, networks, orders


def outputs(networks, X):
    """Of networks with one hidden layer."""
    hidden = (X @ networks["0.weight"].mT + networks["0.bias"].unsqueeze(-2)).tanh()
    return hidden @ networks["2.weight"].mT + networks["2.bias"].unsqueeze(-2)


def one_layer_problem(n_networks, noise=0.0):
    """Networks with one hidden layer, and the squared error from the outputs of the reference."""

    def make():
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    groups, reference, networks, _ = planted(make, torch.zeros(2, 3), n_networks, noise=noise)
    X = torch.randn(40, 3, generator=generator(), dtype=torch.float64)
    target = outputs(reference, X)
    return groups, reference, networks, lambda n: (outputs(n, X) - target).square().mean((1, 2))


# The relaxation.


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_rows_and_columns_sum_to_one(dtype, tolerance):
    """Franklin and Lorenz (1989): an iteration contracts by tanh(D / 4)^2.

    Scores within 1/2 of zero have D <= 2, and twenty iterations leave less than 4e-14 of D. The
    rest is rounding: of sums of nine numbers below one, after twenty iterations.
    """
    scores = torch.rand(5, 9, 9, generator=generator(), dtype=dtype) - 0.5
    soft = sinkhorn(scores, 20)
    assert (soft > 0).all()
    for axis in (1, 2):
        assert (soft.sum(axis) - 1).abs().max() < tolerance


def test_it_scales_rows_and_columns():
    """The logarithm differs from the scores by a row and a column: its double centring is none."""
    scores = 3 * torch.randn(5, 6, 6, generator=generator(), dtype=torch.float64)
    added = sinkhorn(scores, 7).log() - scores
    rest = added - added.mean(1, keepdim=True) - added.mean(2, keepdim=True)
    torch.testing.assert_close(rest + added.mean((1, 2), keepdim=True), torch.zeros_like(rest))


def unrolled(scores, n_iterations):
    soft = scores.exp()
    for _ in range(n_iterations):
        soft = soft / soft.sum(-1, keepdim=True)
        soft = soft / soft.sum(-2, keepdim=True)
    return soft


def test_the_implicit_gradient_is_that_of_the_unrolled_iteration():
    scores = 2 * torch.randn(4, 6, 6, generator=generator(), dtype=torch.float64)
    scores.requires_grad_()
    direction = torch.randn(4, 6, 6, generator=generator(1), dtype=torch.float64)
    expected, found = (
        torch.autograd.grad((operator(scores, 1000) * direction).sum(), scores)[0]
        for operator in (unrolled, sinkhorn)
    )
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_implicit_gradient_is_that_of_finite_differences():
    scores = torch.randn(2, 4, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, 100), scores)


@pytest.mark.parametrize("gap", [5, 20, 200])
def test_gradients_in_single_precision_are_finite_at_almost_hard_permutations(gap):
    """The linear system is singular in the limit, and the gradient vanishes."""
    noise = torch.randn(3, 12, 12, generator=generator())
    direction = torch.randn(3, 12, 12, generator=generator(1))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        scores = (gap * torch.eye(12) + noise).to(dtype).requires_grad_()
        value = (sinkhorn(scores, 50) * direction.to(dtype)).sum()
        gradients.append(torch.autograd.grad(value, scores)[0].double())
    # Gradients are of the order of direction times P (1 - P); single precision has seven digits.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mixing_by_hard_matrices_is_permuting(dtype):
    """Also where heads hold features, and where an element has places apart from each other."""
    module = modules.ViT(12, 1, 3, size=8)
    groups = discover(module, torch.zeros(2, 3, 8, 8))
    networks = normal_networks(module, 3, dtype)
    orders = random_orders(groups, 3)
    hard = [nn.functional.one_hot(order).to(dtype) for order in orders]
    found = permute_softly(groups, networks, hard)
    for name, expected in permute_all(groups, networks, orders).items():
        assert torch.equal(found[name], expected)


def test_places_outside_of_a_group_stay():
    module = mlp()
    whole = discover(module, torch.zeros(2, 6))[0]
    slots = tuple(type(s)(s.parameter, s.axis, s.positions[[4, 1, 6]]) for s in whole.slots)
    group = PermutationGroup("three", 3, slots)
    networks = normal_networks(module, 2)
    third = torch.full((2, 3, 3), 1 / 3, dtype=torch.float64)
    found = permute_softly([group], networks, [third])["0.bias"]
    expected = networks["0.bias"].clone()
    expected[:, [4, 1, 6]] = expected[:, [4, 1, 6]].mean(1, keepdim=True)
    torch.testing.assert_close(found, expected)


# Objectives.


def test_objectives_are_what_their_names_say():
    reference = {"a": torch.tensor([1.0, 3.0]), "count": torch.tensor(7)}
    networks = {"a": torch.tensor([[2.0, 1.0], [1.0, 5.0]]), "count": torch.tensor([4, 5])}
    seen = {}

    def loss(networks):
        seen.update(networks)
        return networks["a"].sum(1) ** 2

    assert L2Objective(reference)(networks).tolist() == [5, 4]
    # Sums are 4 at the reference, 3 and 6 at the networks.
    assert MidpointObjective(loss, reference)(networks).tolist() == [3.5**2, 5**2]
    assert torch.equal(seen["count"], networks["count"])
    two_points = RandomPointObjective(loss, reference, n_points=2)(networks)
    assert two_points.tolist() == [(3.75**2 + 3.25**2) / 2, (4.5**2 + 5.5**2) / 2]


def test_random_points_are_uniform_and_shared_by_all_networks():
    objective = RandomPointObjective(lambda networks: networks["a"], {"a": torch.tensor(0.0)})
    g = generator()
    points = torch.stack([objective.draw({"a": torch.ones(2)}, g) for _ in range(2000)])
    assert torch.equal(points[:, 0], points[:, 1])
    # Five standard errors of the mean, 1 / sqrt(12 * 2000), and of the mean of squares.
    assert abs(points[:, 0].mean() - 1 / 2) < 0.033
    assert abs(points[:, 0].square().mean() - 1 / 3) < 0.034


# Matching.


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_planted_permutations_are_recovered(name, dtype):
    groups, reference, networks, orders = planted(*EXAMPLES[name], 6, dtype)
    found = match_sinkhorn(groups, networks, reference)
    for permutation, order in zip(found, orders, strict=True):
        assert torch.equal(permutation, order.argsort(1))


def test_features_inside_heads_are_recovered():
    """Of no single order, since heads come first: the networks must be the reference again."""
    groups, reference, networks, _ = planted(
        modules.LibraryAttention, torch.zeros(2, 6, 5), 4, noise=0.0
    )
    found = match_sinkhorn(groups, networks, reference, n_steps=100)
    aligned = permute_all(groups, networks, found)
    assert (L2Objective(reference)(aligned) < 1e-20).all()


@pytest.mark.parametrize("objective", ["l2", "midpoint", "random"])
def test_networks_do_not_depend_on_each_other(objective):
    groups, reference, networks, loss = one_layer_problem(4, noise=1.0)
    objective = {
        "l2": L2Objective(reference),
        "midpoint": MidpointObjective(loss, reference),
        "random": RandomPointObjective(loss, reference),
    }[objective]
    together = match_sinkhorn(groups, networks, reference, objective, random_state=0)
    for row in range(4):
        one = {name: tensor[row : row + 1] for name, tensor in networks.items()}
        alone = match_sinkhorn(groups, one, reference, objective, random_state=0)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[row : row + 1], b)


@pytest.mark.parametrize("kind", [MidpointObjective, RandomPointObjective])
def test_losses_on_the_way_lead_to_the_known_optimum(kind):
    """Copies of the reference, in another order, have no loss on the way when put back."""
    groups, reference, networks, loss = one_layer_problem(5)
    objective = kind(loss, reference)
    assert (objective(networks) > 1e-3).all()
    found = match_sinkhorn(groups, networks, reference, objective, random_state=0)
    assert (objective(permute_all(groups, networks, found)) < 1e-20).all()


def test_the_midpoint_loss_comes_close_to_the_least_of_all_permutations():
    groups, reference, networks, loss = one_layer_problem(20, noise=1.0)
    objective = MidpointObjective(loss, reference)
    orders = torch.tensor(list(itertools.permutations(range(5))))
    every = torch.stack(
        [objective(permute_all(groups, networks, [order.expand(20, -1)])) for order in orders]
    )
    found = match_sinkhorn(groups, networks, reference, objective)
    reached = objective(permute_all(groups, networks, found))
    assert (reached <= objective(networks)).all()
    # Descent may end in another minimum than the best of 120 permutations: of one hundred networks
    # it reaches nine tenths of the gain.
    gain = (objective(networks) - reached).mean() / (objective(networks) - every.amin(0)).mean()
    assert gain > 0.8


def test_it_is_never_worse_than_its_start():
    groups, reference, networks, orders = planted(*EXAMPLES["mlp"], 6)
    best = [order.argsort(1) for order in orders]
    for n_steps in (0, 3):
        found = match_sinkhorn(groups, networks, reference, start=best, n_steps=n_steps)
        assert all(torch.equal(a, b) for a, b in zip(found, best, strict=True))


def test_a_start_is_left_for_something_better():
    """From a swap of two elements; nearly hard scores still have gradients."""
    groups, reference, networks, orders = planted(*EXAMPLES["mlp"], 6)
    best = [order.argsort(1) for order in orders]
    swapped = [p[:, [1, 0, *range(2, p.shape[1])]] for p in best]
    found = match_sinkhorn(groups, networks, reference, start=swapped)
    assert all(torch.equal(a, b) for a, b in zip(found, best, strict=True))


def test_random_states_repeat_the_result_and_no_gradients_are_left():
    groups, reference, networks, loss = one_layer_problem(4, noise=1.0)
    networks = {name: tensor.requires_grad_() for name, tensor in networks.items()}
    objective = RandomPointObjective(loss, reference)
    with torch.no_grad():
        first, second = (
            match_sinkhorn(groups, networks, reference, objective, random_state=3) for _ in range(2)
        )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(tensor.grad is None for tensor in networks.values())


def test_a_network_without_a_finite_loss_is_left_as_it_is_and_spoils_no_other():
    groups, reference, networks, orders = planted(*EXAMPLES["mlp"], 3)
    networks["0.weight"][1] = float("nan")
    found = match_sinkhorn(groups, networks, reference)
    for permutation, order in zip(found, orders, strict=True):
        assert torch.equal(permutation[[0, 2]], order.argsort(1)[[0, 2]])
        assert torch.equal(permutation[1], torch.arange(order.shape[1]))


def test_without_groups_there_is_nothing_to_permute():
    assert match_sinkhorn([], {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3)}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": -1}, "n_steps must be an integer of at least 0, got -1"),
        ({"n_sinkhorn": 0}, "n_sinkhorn must be an integer of at least 1"),
        ({"check_every": 0}, "check_every must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0"),
        ({"temperature": -1.0}, "temperature must be finite and > 0"),
        ({"networks": {}}, r"networks must hold .* of the reference, \['0.bias', .* are missing"),
        ({"start": []}, "start must hold one tensor for each of the 2 groups, got 0"),
        (
            {"start": [torch.zeros(2, 8, dtype=torch.long)] * 2},
            r"start must hold permutations of shape \(2, 8\) for the group of '0.weight'",
        ),
        (
            {"objective": lambda networks: networks["0.bias"].sum()},
            r"objective must return a Tensor of shape \(2,\), one value per network, got \(\)",
        ),
        (
            {"objective": lambda networks: networks["0.bias"].detach().sum(1)},
            "objective must be differentiable",
        ),
    ],
)
def test_errors_say_what_was_expected(change, message):
    groups, reference, networks, _ = planted(*EXAMPLES["mlp"], 2)
    with pytest.raises(ValueError, match=message):
        match_sinkhorn(**{"groups": groups, "networks": networks, "reference": reference} | change)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("0.bias", torch.zeros(3, 8), "one leading axis for the same networks"),
        ("0.bias", torch.zeros(2, 9), r"networks\['0.bias'\] must have shape \('n_networks', 8\)"),
        ("0.bias", torch.zeros(2, 8), "one floating dtype .*'torch.float32', 'torch.float64'"),
    ],
)
def test_networks_must_fit_the_reference(name, tensor, message):
    groups, reference, networks, _ = planted(*EXAMPLES["mlp"], 2)
    with pytest.raises(ValueError, match=message):
        match_sinkhorn(groups, networks | {name: tensor}, reference)


def test_networks_must_be_those_of_the_groups():
    groups, _, _, _ = planted(*EXAMPLES["mlp"], 2)
    with pytest.raises(ValueError, match="tensors of every group, got none of that of '0.weight'"):
        match_sinkhorn(groups, {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3)})
