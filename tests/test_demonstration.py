"""The report of the demonstration says what was found."""

import numpy as np
import pytest
import torch
from pandas import DataFrame

from bayesflow_nn.demonstration.findings import Findings, Sureness, shuffle_features
from bayesflow_nn.demonstration.report import write_report
from bayesflow_nn.predictive import OutOfDistributionScores, PredictiveCurve, Uncertainty

PARTS = "calibration", "uncertainty", "detection", "size", "diversity", "leave-one-out"


def _uncertainty(total):
    total = torch.tensor(total)
    return Uncertainty(total, total / 4, total * 3 / 4)


def _scores(values):
    return OutOfDistributionScores(*[torch.tensor(values)] * 3)


@pytest.fixture
def paragraphs():
    """The report on findings that can be worked out by hand."""
    findings = Findings(
        averages={"average": torch.tensor([[0.5, 0.5], [0.25, 0.75]])},
        curves={
            "training networks": PredictiveCurve(
                np.array([1, 4, 16]), np.array([0.3, 0.2, 0.1]), np.zeros(3)
            ),
            "generated": PredictiveCurve(np.array([1, 100]), np.array([0.5, 0.15]), np.zeros(2)),
        },
        sureness={
            "generated": Sureness(
                _uncertainty([0.1, 0.3, 0.4]),
                torch.tensor([True, True, False]),
                _uncertainty([0.6, 0.5, 0.7]),
                _scores([0.1, 0.2, 0.6]),
                _scores([0.5, 0.7, 0.9]),
            )
        },
        diversity="a table of differences",
        comparison=DataFrame(
            {"elpd_loo": [-5.0], "se": [1.5], "p_loo": [2.25], "weight": [1.0], "warning": [True]},
            index=["generated"],
        ),
        sample_seconds=2.0,
    )
    return dict(zip(PARTS, write_report(findings, torch.tensor([0, 1]), 8.0), strict=True))


def _cells(paragraph, name):
    """Cells of the row of that name."""
    (line,) = (line for line in paragraph.splitlines() if line.startswith(name))
    return line[len(name) :].split()


def test_calibration_is_that_of_the_average(paragraphs):
    nll, brier, *_ = _cells(paragraphs["calibration"], "average")
    assert float(nll) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2, abs=5e-5)
    # Squared distances of (.5, .5) from (1, 0) and of (.25, .75) from (0, 1): .5 and .125.
    assert float(brier) == pytest.approx(0.3125, abs=5e-5)


@pytest.mark.parametrize(
    ("kind", "total"),
    [("2 classified right", 0.2), ("1 classified wrong", 0.4), ("features shuffled", 0.6)],
)
def test_uncertainty_is_a_mean_over_its_inputs(paragraphs, kind, total):
    cells = _cells(paragraphs["uncertainty"], f"generated, {kind}")
    assert [float(cell) for cell in cells] == pytest.approx([total, total / 4, total * 3 / 4])


def test_detection_ranks_shuffled_inputs_against_usual_ones(paragraphs):
    for score in ("max probability", "entropy", "mutual information"):
        auroc, *_ = _cells(paragraphs["detection"], f"generated, {score}")
        assert float(auroc) == pytest.approx(8 / 9, abs=5e-5)  # 8 of 9 pairs are in order


def test_worth_is_read_from_the_curve_of_trained_networks(paragraphs):
    text = " ".join(paragraphs["size"].split())
    # Half way between 4 and 16 networks in the logarithm; 2 seconds for them, 8 for the 16.
    assert "equivalent of 100 generated networks (0.1500) is 8 trained ones; 16 have 0.1" in text
    assert "That is 4 per second of generating, where training makes 2 per second." in text


def test_what_cannot_be_relied_on_is_said(paragraphs):
    cells = _cells(paragraphs["leave-one-out"], "generated")
    assert cells == ["-5.00", "1.50", "2.25", "1.00", "no"]


def test_differences_are_those_of_the_diversity_report(paragraphs):
    assert paragraphs["diversity"].endswith("a table of differences")


def test_shuffled_features_keep_their_values_and_lose_each_other():
    X = torch.arange(200.0).reshape(100, 2)
    shuffled = shuffle_features(X)
    torch.testing.assert_close(shuffled.sort(0).values, X)
    assert abs(np.corrcoef(shuffled.T)[0, 1]) < 0.3  # three standard errors; 1 before
