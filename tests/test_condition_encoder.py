"""ConditionEncoder: labels to indicators, values to normal scores."""

import numpy as np
import pytest
import torch

from bayesflow_nn.condition_encoder import ConditionEncoder


@pytest.mark.parametrize("labels", [["a", "b", "c"], [0, 1, 2]])
def test_labels_become_indicators(labels):
    encoder = ConditionEncoder().fit(labels)
    features = encoder.transform(labels)
    assert torch.equal(features, torch.cat([torch.ones(3, 1), torch.eye(3)], dim=1))
    assert encoder.n_features_ == 4


def test_values_become_polynomials_of_their_normal_scores():
    """The median of values that span decades has score 0, where He_1 and He_3 vanish."""
    values = np.geomspace(1e-4, 1e2, 1001)
    features = ConditionEncoder().fit(values).transform([0.1, 1e9])
    expected = torch.tensor([1, 0, -1 / 2**0.5, 0])
    torch.testing.assert_close(features[0], expected, atol=1e-2, rtol=0)
    # Beyond what was seen the score stays at 3.
    expected = torch.tensor([1, 3, 8 / 2**0.5, 18 / 6**0.5])
    torch.testing.assert_close(features[1], expected)


def test_wrong_conditions_are_named():
    with pytest.raises(ValueError, match="y must hold different conditions, got 3 equal ones"):
        ConditionEncoder().fit([1, 1, 1])
    with pytest.raises(ValueError, match=r"finite, got NaN or inf in rows \[1\]"):
        ConditionEncoder().fit([1.0, np.nan])
    labels = ConditionEncoder().fit(["a", "b"])
    with pytest.raises(ValueError, match=r"one of the labels seen in fit, .*'a'.*got .*'d'"):
        labels.transform(["d"])
    with pytest.raises(ValueError, match="condition must have 2 column.* got 1"):
        ConditionEncoder().fit([[0.1, 0.2], [0.3, 0.1]]).transform([0.5])
