"""Alignment of any module: planted permutations come back, functions and statistics stay."""

import pytest
import symmetric_modules as modules
import torch
from torch import nn

from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.symmetry.groups import permute_all
from bayesflow_nn.symmetry.representation import find_groups
from bayesflow_nn.symmetry.weight_matching import match_weights
from bayesflow_nn.weights import Architecture, WeightPopulation

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MODULES = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)),
        torch.randn(9, 5),
    ),
    "cnn": (modules.SmallCNN, torch.randn(2, 1, 12, 12)),
    "resnet20": (modules.resnet20, IMAGE),
    "vit": (lambda: modules.ViT(48, 2, 3), IMAGE),
    "library attention": (modules.LibraryAttention, torch.randn(2, 6, 5)),
    "grouped": (modules.grouped, torch.randn(2, 3, 8, 8)),
    "depthwise": (modules.DepthwiseSeparable, torch.randn(2, 3, 9, 9)),
}


def planted(name, n=3, noise=0.01):
    """A module, and copies of it with 1 % noise and another order of everything that has one."""
    make, example = MODULES[name]
    torch.manual_seed(0)
    architecture = Architecture(make(), example_input=example)
    generator = torch.Generator().manual_seed(1)
    scale = {n: t.double().std(correction=0) for n, t in architecture.module.named_parameters()}
    own = architecture.unflatten(architecture.own_weights[None].double())
    copies = {
        name: tensor.repeat(n, *[1] * (tensor.ndim - 1))
        + noise * (scale[name] + 1e-3) * torch.randn(n, *tensor.shape[1:], generator=generator)
        for name, tensor in own.items()
    }
    groups = find_groups(architecture)
    orders = [torch.rand(n, group.size, generator=generator).argsort(1) for group in groups]
    shuffled = architecture.flatten(permute_all(groups, copies, orders))
    return architecture, architecture.flatten(copies), shuffled, orders


@pytest.mark.parametrize("name", MODULES)
def test_planted_permutations_are_recovered_in_full(name):
    architecture, copies, shuffled, _ = planted(name)
    aligner = PermutationAligner(architecture, reference=architecture.own_weights.double())
    assert torch.equal(aligner.fit(shuffled).transform(shuffled), copies)


@pytest.mark.parametrize("name", ["vit", "library attention"])
def test_planted_heads_are_recovered_from_singular_values(name):
    architecture, copies, shuffled, _ = planted(name)
    own = architecture.own_weights.double()
    aligner = PermutationAligner(architecture, "transfusion", reference=own)
    assert torch.equal(aligner.fit(shuffled).transform(shuffled), copies)


def test_heads_alone_have_singular_values_to_be_matched_by():
    with pytest.raises(ValueError, match="method='transfusion' needs an architecture with heads"):
        PermutationAligner(Architecture.mlp([4, 5, 2]), "transfusion").fit(torch.zeros(3, 37))


@pytest.mark.parametrize("name", ["mlp", "cnn", "grouped"])
def test_planted_permutations_are_recovered_from_activations(name):
    architecture, copies, shuffled, _ = planted(name)
    aligner = PermutationAligner(
        architecture,
        "activation_matching",
        reference=architecture.own_weights.double(),
        inputs=torch.randn(40, *architecture.example_input.shape[1:]),
    )
    assert torch.equal(aligner.fit(shuffled).transform(shuffled), copies)


@pytest.mark.parametrize("method", ["weight_matching", "activation_matching"])
def test_the_barycentre_brings_shuffled_copies_together(method):
    architecture, copies, shuffled, _ = planted("cnn", n=6)
    inputs = torch.randn(40, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    aligner = PermutationAligner(architecture, method, inputs=inputs, random_state=0)
    aligned = aligner.fit_transform(shuffled)
    # Noise of 1 % is all that is left between them, as between the copies.
    torch.testing.assert_close(aligned.var(0).sum(), copies.var(0).sum())


def test_functions_and_statistics_of_batch_norm_stay():
    example, generator = IMAGE, torch.Generator().manual_seed(0)
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = modules.resnet20(4).double()
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
        nets.append(net)
    population = WeightPopulation.from_modules(nets)
    aligned = PermutationAligner(inputs=example, random_state=0).fit_transform(population)
    assert not torch.equal(aligned.weights, population.weights)
    before, after = (
        p.architecture.apply(p.weights, example.double(), buffers=p.buffers)
        for p in (population, aligned)
    )
    torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)
    # A population without statistics has those of its architecture, which move as well.
    bare = WeightPopulation(population.weights, architecture=population.architecture)
    moved = PermutationAligner(inputs=example, random_state=0).fit_transform(bare)
    torch.testing.assert_close(
        moved.architecture.apply(moved.weights, example.double(), buffers=moved.buffers),
        bare.architecture.apply(bare.weights, example.double()),
        atol=1e-9,
        rtol=1e-9,
    )


def test_the_logit_shift_of_other_modules_is_not_known():
    architecture, _, shuffled, _ = planted("cnn")
    with pytest.raises(ValueError, match="logit_shift must be 'auto' or False for Architecture"):
        PermutationAligner(architecture, logit_shift=True).fit(shuffled)
    assert PermutationAligner(architecture).fit(shuffled).logit_shift_ is False


def test_groups_by_hand_replace_discovery():
    architecture, _, shuffled, _ = planted("cnn")
    groups = find_groups(architecture)
    aligner = PermutationAligner(architecture, groups=groups[:1], random_state=0).fit(shuffled)
    assert aligner.groups_ == groups[:1]
    (order,) = aligner.permutations(shuffled)
    assert order.shape == (3, 8)
    X = architecture.example_input.double()
    torch.testing.assert_close(
        architecture.apply(aligner.transform(shuffled), X),
        architecture.apply(shuffled, X),
        atol=1e-9,
        rtol=1e-9,
    )


def test_the_medoid_is_a_network_and_all_are_aligned_to_it():
    mlp = Architecture.mlp([5, 7, 3], activation="tanh")
    weights = torch.randn(9, mlp.n_weights, generator=torch.Generator().manual_seed(0)).double()
    aligner = PermutationAligner(mlp, reference="medoid", random_state=0).fit(weights)
    reference = mlp.flatten({name: t[None] for name, t in aligner.reference_.items()})
    (index,) = (weights == reference).all(1).nonzero().flatten().tolist()
    assert torch.equal(aligner.transform(weights)[index], weights[index])


def test_restarts_never_end_farther_away():
    architecture = Architecture(modules.ViT(12, 1, 3, size=8), example_input=IMAGE[..., :8, :8])
    weights = torch.randn(9, architecture.n_weights, generator=torch.Generator().manual_seed(0))
    groups, networks = find_groups(architecture), architecture.unflatten(weights[1:])
    reference = {n: t[0] for n, t in architecture.unflatten(weights[:1]).items()}

    def inner_products(**options):
        orders = match_weights(groups, networks, reference, **options)
        moved = permute_all(groups, networks, orders)
        return sum((moved[n] * reference[n]).flatten(1).sum(1) for n in reference)

    once = inner_products()
    often = inner_products(n_restarts=3, generator=torch.Generator().manual_seed(0))
    assert (often >= once - 1e-4).all()
    assert (often > once + 0.1).any()


def test_no_single_head_can_be_moved_with_gain():
    """Heads of random attention: every swap of two, with the best order inside, is no better."""
    architecture = Architecture(modules.LibraryAttention(), example_input=torch.randn(2, 6, 5))
    weights = torch.randn(6, architecture.n_weights, generator=torch.Generator().manual_seed(0))
    weights = weights.double()
    groups, networks = find_groups(architecture), architecture.unflatten(weights[1:])
    reference = {n: t[0] for n, t in architecture.unflatten(weights[:1]).items()}
    moved = permute_all(groups, networks, match_weights(groups, networks, reference))
    best = sum((moved[n] * reference[n]).flatten(1).sum(1) for n in reference)
    heads = next(i for i, group in enumerate(groups) if group.size == 3)
    inside = [group for group in groups if group.parent is not None]
    for swap in ([1, 0, 2], [2, 1, 0], [0, 2, 1]):
        swapped = moved | groups[heads].permute(moved, torch.tensor(swap).expand(5, -1))
        # The inner groups do not touch each other's places: matching them alone is exact.
        alone = [type(g)(g.name, g.size, g.slots) for g in inside]
        again = permute_all(alone, swapped, match_weights(alone, swapped, reference))
        value = sum((again[n] * reference[n]).flatten(1).sum(1) for n in reference)
        assert (value <= best + 1e-9).all()


def test_sinkhorn_never_ends_farther_from_the_reference_than_weight_matching():
    architecture = Architecture.mlp([5, 12, 12, 3], activation="tanh")  # compared as they are
    weights = torch.randn(30, architecture.n_weights, generator=torch.Generator().manual_seed(0))
    matched, refined = (
        PermutationAligner(architecture, method, reference=weights[0]).fit_transform(weights)
        for method in ("weight_matching", "sinkhorn")
    )
    before, after = ((aligned - weights[0]).square().sum(1) for aligned in (matched, refined))
    assert (after <= before + 1e-4).all()
    assert (after < before - 0.1).any()


def test_activation_matching_says_what_it_needs():
    architecture = Architecture.mlp([5, 7, 3])
    with pytest.raises(ValueError, match="inputs must be given for method='activation_matching'"):
        PermutationAligner(architecture, "activation_matching").fit(torch.randn(4, 66))
    make, example = MODULES["library attention"]
    library = Architecture(make(), example_input=example)
    attention = [group for group in find_groups(library) if group.size == 4]
    unseen = PermutationAligner(library, "activation_matching", groups=attention, inputs=example)
    with pytest.raises(ValueError, match="cannot see the group of 'attention.in_proj_weight'"):
        unseen.fit(torch.randn(2, library.n_weights))
