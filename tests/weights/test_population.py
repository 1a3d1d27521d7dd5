"""`WeightPopulation`: where networks come from, chains, splits, immutability, errors."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from bayesflow_nn.weights import Architecture, WeightPopulation, train_population

MLP = Architecture.mlp([3, 4, 2])


def population(n_chains=5, n_draws=4):
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(n_chains, n_draws, MLP.n_weights, generator=generator)
    n = n_chains * n_draws
    return WeightPopulation.from_array(
        draws, architecture=MLP, task="classification", metrics={"nll": torch.arange(float(n))}
    )


def normalised_module(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        module[1].running_mean.normal_()
    return module.eval()


def test_every_network_is_a_chain_unless_said_otherwise():
    plain = WeightPopulation(torch.zeros(6, MLP.n_weights), architecture=MLP)
    assert plain.chain.tolist() == list(range(6)) and plain.draw.tolist() == [0] * 6
    assert plain.n_chains == len(plain) == 6


def test_three_dimensional_arrays_are_chains_of_draws():
    weights = population(n_chains=2, n_draws=3)
    assert weights.chain.tolist() == [0, 0, 0, 1, 1, 1]
    assert weights.draw.tolist() == [0, 1, 2, 0, 1, 2]


def test_split_is_a_partition_by_chain_and_reproducible():
    whole = population()
    train, test = whole.split(0.4, random_state=1)
    assert set(train.chain.tolist()) | set(test.chain.tolist()) == set(range(5))
    assert not set(train.chain.tolist()) & set(test.chain.tolist())
    assert test.n_chains == 2 and len(test) == 8
    again = whole.split(2, random_state=1)
    assert torch.equal(again.test.weights, test.weights)
    different = [tuple(whole.split(2, random_state=s).test.chain.unique()) for s in range(10)]
    assert len(set(different)) > 1


@pytest.mark.parametrize(
    "index",
    [
        slice(2, 5),
        [2, 3, 4],
        np.array([2, 3, 4]),
        torch.tensor([2, 3, 4]),
        np.isin(np.arange(20), [2, 3, 4]),
    ],
)
def test_indexing_takes_all_columns_along(index):
    part = population()[index]
    assert torch.equal(part.weights, population().weights[2:5])
    assert part.chain.tolist() == [0, 0, 1] and part.draw.tolist() == [2, 3, 0]
    assert part.metrics["nll"].tolist() == [2.0, 3.0, 4.0] and part.task == "classification"


def test_modules_come_with_their_buffers():
    modules = [normalised_module(seed) for seed in range(3)]
    collected = WeightPopulation.from_modules(modules, task="classification")
    X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([module(X) for module in modules])
    torch.testing.assert_close(collected.apply(X), expected)
    torch.testing.assert_close(collected[1:].apply(X, chunk_size=1), expected[1:])
    rows = torch.stack([parameters_to_vector(module.parameters()) for module in modules])
    assert torch.equal(collected.weights, rows)


def test_checkpoints_are_read_in_natural_order(tmp_path):
    modules = {f"epoch_{epoch}.pt": normalised_module(epoch) for epoch in (9, 10, 2)}
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        for name, module in modules.items():
            torch.save(module.state_dict(), tmp_path / run / name)
    architecture = Architecture(normalised_module(0))
    chains = WeightPopulation.from_checkpoints(
        tmp_path, architecture=architecture, pattern="*/*.pt"
    )
    assert chains.chain.tolist() == [0, 0, 0, 1, 1, 1] and chains.draw.tolist() == [0, 1, 2] * 2
    last = parameters_to_vector(modules["epoch_10.pt"].parameters())
    assert torch.equal(chains.weights[2], last)
    flat = WeightPopulation.from_checkpoints(tmp_path / "a", architecture=architecture)
    assert flat.n_chains == 3 and torch.equal(flat.weights[2], last)


def test_tied_parameters_are_read_once(tmp_path):
    module = nn.Sequential(*[linear := nn.Linear(3, 3), nn.ReLU(), linear])
    collected = WeightPopulation.from_modules([module])
    assert torch.equal(collected.weights[0], parameters_to_vector(module.parameters()))


def test_replace_keeps_everything_but_the_weights():
    whole = population()
    doubled = whole.replace(2 * whole.weights)
    assert torch.equal(doubled.weights, 2 * whole.weights)
    assert torch.equal(doubled.chain, whole.chain) and doubled.task == whole.task


def test_a_population_is_immutable_picklable_and_an_array():
    whole = population()
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.weights = whole.weights
    assert torch.equal(pickle.loads(pickle.dumps(whole)).weights, whole.weights)
    assert np.array_equal(np.asarray(whole), whole.weights.numpy())
    assert repr(whole).startswith("WeightPopulation(n_networks=20, n_chains=5, task='classificat")


def test_diverged_networks_are_named_by_index():
    weights = torch.zeros(30, MLP.n_weights)
    weights[[3, 17], 0] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(ValueError, match="networks 3, 17 are not finite"):
        WeightPopulation(weights, architecture=MLP)
    kept = WeightPopulation(weights, architecture=MLP, allow_nonfinite=True)
    assert kept.diverged.nonzero().flatten().tolist() == [3, 17]
    assert not kept[~kept.diverged].diverged.any() and len(kept.replace(weights)) == 30


ZEROS = torch.zeros(4, MLP.n_weights)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: WeightPopulation(ZEROS, architecture=nn.ReLU()), TypeError, "wrap a module"),
        (lambda: WeightPopulation(ZEROS.numpy(), architecture=MLP), TypeError, "from_array"),
        (lambda: WeightPopulation(ZEROS[:, 1:], architecture=MLP), ValueError, r"got \(4, 25\)"),
        (lambda: WeightPopulation(ZEROS[:0], architecture=MLP), ValueError, "at least one network"),
        (lambda: WeightPopulation(ZEROS.long(), architecture=MLP), TypeError, "must be floating"),
        (
            lambda: WeightPopulation(ZEROS, architecture=MLP, task="ranking"),
            ValueError,
            "task must be one of",
        ),
        (
            lambda: WeightPopulation(ZEROS, architecture=MLP, chain=torch.zeros(3)),
            ValueError,
            r"chain must have shape \(4,\).*got \(3,\)",
        ),
        (
            lambda: WeightPopulation(ZEROS, architecture=MLP, metrics={"nll": torch.zeros(3)}),
            ValueError,
            r"nll must have shape \(4,\)",
        ),
        (
            lambda: WeightPopulation(ZEROS, architecture=MLP, buffers={"mean": torch.zeros(4)}),
            ValueError,
            "buffers has 'mean'",
        ),
        (lambda: WeightPopulation.from_modules([]), ValueError, "at least one module"),
        (
            lambda: WeightPopulation.from_modules([nn.Linear(2, 1), nn.Linear(3, 1)]),
            ValueError,
            r"modules\[1\] is a .* expected .*one architecture",
        ),
        (
            lambda: WeightPopulation.from_state_dicts([], architecture=MLP),
            ValueError,
            "at least one state dict",
        ),
        (
            lambda: WeightPopulation.from_state_dicts([{"a": torch.ones(1)}], architecture=MLP),
            ValueError,
            r"state_dicts\[0\] must hold the names",
        ),
        (
            lambda: WeightPopulation.from_state_dicts(
                [Architecture.mlp([3, 5, 2]).module.state_dict()], architecture=MLP
            ),
            ValueError,
            r"state_dicts\[0\]\['0.weight'\] must have shape \(4, 3\), got \(5, 3\)",
        ),
        (
            lambda: WeightPopulation.from_checkpoints("nowhere", architecture=MLP),
            ValueError,
            "no file that matches",
        ),
        (lambda: population()[3], TypeError, r"population\[\[3\]\]"),
        (lambda: population().split(0.0), ValueError, "test_size must leave at least one"),
        (lambda: population(n_chains=1).split(), ValueError, "test_size must leave at least one"),
        (lambda: population().split(2, random_state=-1), ValueError, "random_state must be"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_checkpoint_that_is_no_state_dict_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt' must hold a state dict"):
        WeightPopulation.from_checkpoints(tmp_path, architecture=MLP)


def test_a_trained_population_keeps_a_bounded_sample_of_its_inputs():
    X = torch.arange(3000.0)[:, None]
    y = (X[:, 0] > 1500).long()
    trained = train_population(
        Architecture.mlp([1, 2, 2]), X / 3000, y, n_networks=2, n_epochs=1, random_state=0
    )
    rows = (3000 * trained.inputs[:, 0]).round()
    assert len(rows) == 1024 and rows[[0, -1]].tolist() == [0.0, 2999.0]
    # Evenly spaced: neighbours are 2999 / 1023 apart, up to rounding to whole rows.
    assert 2 <= rows.diff().min() and rows.diff().max() <= 3
    assert trained[:1].inputs is trained.inputs


def test_inputs_that_do_not_fit_the_architecture_are_refused():
    with pytest.raises(ValueError, match=r"X must have shape \(n_inputs, 3\), got \(5, 9\)"):
        WeightPopulation(population().weights, architecture=MLP, inputs=torch.zeros(5, 9))
