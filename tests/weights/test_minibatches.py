"""Minibatch orders are uniform permutations that depend on the seed and the network alone."""

import torch

from bayesflow_nn.weights.minibatches import MinibatchOrder


def order(networks, n_inputs=10, batch_size=4, shared=False, seed=0):
    return MinibatchOrder(seed, networks, n_inputs=n_inputs, batch_size=batch_size, shared=shared)


def test_every_epoch_shows_every_input_once():
    minibatches = order(range(5))
    for _ in range(3):
        epoch = list(minibatches.next_epoch())
        assert [rows.shape for rows in epoch] == [(5, 4), (5, 4), (5, 2)]
        assert torch.equal(torch.cat(epoch, 1).sort(1).values, torch.arange(10).expand(5, 10))


def test_epochs_and_networks_differ():
    minibatches = order(range(5), n_inputs=50)
    first, second = (torch.cat(list(minibatches.next_epoch()), 1) for _ in range(2))
    assert len(torch.cat([first, second]).unique(dim=0)) == 10


def test_shared_order_is_one_row():
    assert next(order(range(7), shared=True).next_epoch()).shape == (1, 4)


def test_the_order_of_a_network_does_not_depend_on_the_range():
    whole = torch.cat(list(order(range(50)).next_epoch()), 1)
    part = torch.cat(list(order(range(13, 37)).next_epoch()), 1)
    assert torch.equal(part, whole[13:37])


def test_permutations_are_uniform():
    # 3! = 6 permutations, 12,000 draws: each count is binomial with standard deviation 41.
    rows = torch.cat(list(order(range(12_000), n_inputs=3).next_epoch()), 1)
    _, counts = rows.unique(dim=0, return_counts=True)
    assert len(counts) == 6 and (counts - 2000).abs().max() < 6 * 41
