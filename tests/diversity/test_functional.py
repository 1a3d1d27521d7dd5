"""Divergences and overlaps against loops over pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from bayesflow_nn.diversity import max_iou, pairwise_jsd


def _proba(n_networks, seed):
    shape = n_networks, 11
    return np.random.default_rng(seed).dirichlet([0.3, 0.3, 0.3, 0.3], size=shape)


def _wrong(n_networks, seed):
    return np.random.default_rng(seed).random((n_networks, 30)) < 0.2


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_jsd_is_that_of_scipy_for_every_pair(chunk_size):
    p, q = _proba(5, 0), _proba(4, 1)
    # SciPy returns the square root, the Jensen-Shannon distance.
    expected = [[(jensenshannon(a, b, axis=-1) ** 2).mean() for b in q] for a in p]
    np.testing.assert_allclose(pairwise_jsd(p, q, chunk_size=chunk_size), expected, rtol=1e-10)


def test_jsd_within_a_set_is_symmetric_with_a_zero_diagonal():
    jsd = pairwise_jsd(_proba(6, 0))
    torch.testing.assert_close(jsd, jsd.T)
    # Entropies are of order 1 and their difference rounds.
    torch.testing.assert_close(jsd.diagonal(), torch.zeros(6).double(), atol=1e-14, rtol=0)
    assert jsd.min() >= 0
    assert jsd.max() <= math.log(2)


def test_jsd_of_float32_probabilities_is_computed_in_float64():
    p = torch.from_numpy(_proba(3, 0))
    torch.testing.assert_close(pairwise_jsd(p.float()), pairwise_jsd(p), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_max_iou_is_that_of_a_loop_over_pairs(chunk_size):
    wrong, reference = _wrong(8, 0), _wrong(6, 1)

    def iou(a, b):
        return (a & b).sum() / (a | b).sum()

    expected = [max(iou(a, b) for b in reference) for a in wrong]
    np.testing.assert_allclose(max_iou(wrong, reference, chunk_size=chunk_size), expected)
    expected = [max(iou(wrong[i], wrong[j]) for j in range(8) if j != i) for i in range(8)]
    np.testing.assert_allclose(max_iou(wrong, chunk_size=chunk_size), expected)


def test_max_iou_of_equal_and_of_disjoint_errors():
    a, b = torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]])
    assert max_iou(a, a) == 1
    assert max_iou(a, b) == 0
    without_errors = torch.zeros(2, 3, dtype=torch.bool)
    assert max_iou(without_errors).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"proba": torch.ones(2, 3)}, r"proba must have shape .* got \(2, 3\)"),
        ({"proba": torch.ones(2, 0, 3)}, "without empty dimensions"),
        ({"proba": torch.randn(2, 3, 4)}, "proba must hold probabilities"),
        ({"proba": torch.full((2, 3, 2), torch.nan)}, "proba must hold probabilities: finite"),
        ({"reference": torch.ones(2, 3, 1)}, r"same inputs and classes, shape .* 11, 4\)"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
    ],
)
def test_bad_probabilities_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        pairwise_jsd(**{"proba": _proba(2, 0)} | change)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"wrong": [[0, 1]]}, TypeError, r"wrong must be boolean, got torch.int64"),
        ({"wrong": _wrong(1, 0)}, ValueError, r"wrong must have shape .* at least 2 networks"),
        ({"wrong": np.zeros((2, 0), bool)}, ValueError, r"one input, got \(2, 0\)"),
        ({"reference": _wrong(2, 0)[:, :5]}, ValueError, "reference must be about the same inputs"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
    ],
)
def test_bad_errors_are_named(change, error, match):
    with pytest.raises(error, match=match):
        max_iou(**{"wrong": _wrong(2, 0)} | change)
