"""Disagreement and Yule's Q against counts in plain loops."""

import numpy as np
import pytest

from bayesflow_nn.diversity import disagreement, q_statistic


@pytest.mark.parametrize("with_reference", [False, True])
def test_both_are_those_of_loops(with_reference):
    rng = np.random.default_rng(0)
    y, labels, other = (
        rng.integers(0, 3, 40),
        rng.integers(0, 3, (5, 40)),
        rng.integers(0, 3, (4, 40)),
    )
    reference = other if with_reference else labels
    apart = disagreement(labels, other if with_reference else None)
    q = q_statistic(labels != y, other != y if with_reference else None)
    for i, k in np.ndindex(len(labels), len(reference)):
        right, also = labels[i] == y, reference[k] == y
        n11, n00 = (right & also).sum(), (~right & ~also).sum()
        n10, n01 = (right & ~also).sum(), (~right & also).sum()
        assert apart[i, k].item() == pytest.approx(np.mean(labels[i] != reference[k]), abs=1e-12)
        expected = (n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10)
        assert q[i, k].item() == pytest.approx(expected, abs=1e-12)


def test_without_errors_nothing_can_be_said():
    q = q_statistic([[False, False], [True, False]])
    assert q[0, 0].isnan() and q[0, 1].isnan() and q[1, 1] == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: disagreement([[0.5]]), TypeError, "labels must be integer classes, got torch.f"),
        (lambda: disagreement([0, 1]), ValueError, r"labels must hold classes.*got shape \(2,\)"),
        (lambda: disagreement([[-1, 0]]), ValueError, "labels must hold classes.*from -1"),
        (lambda: disagreement([[0, 1]], [[0]]), ValueError, "about the same inputs"),
        (lambda: q_statistic([[0, 1]]), TypeError, "wrong must be boolean"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
