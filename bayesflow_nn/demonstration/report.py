"""The findings in words and tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from bayesflow_nn.calibration import (
    brier_decomposition,
    calibration_error_interval,
    classwise_calibration_error,
    negative_log_likelihood,
)
from bayesflow_nn.demonstration.comparison import N_GENERATED
from bayesflow_nn.demonstration.findings import Findings, Sureness
from bayesflow_nn.predictive import deep_ensemble_equivalent, detection

_SCORES = ("max probability", "entropy", "mutual information")

_DIVERSITY = "Networks against each other and, in weight space modulo symmetry, against training"


def write_report(findings: Findings, y_test: Tensor, train_seconds: float) -> Iterator[str]:
    """Yield one paragraph after the other.

    Parameters
    ----------
    findings : Findings
    y_test : Tensor of shape (n_test,)
        Labels of the test data.
    train_seconds : float
        What it took to train the networks.
    """
    yield _about_calibration(findings.averages, y_test)
    yield _about_uncertainty(findings.sureness)
    yield _about_detection(findings.sureness)
    yield _about_size(findings, train_seconds)
    yield f"{_DIVERSITY}\n\n{findings.diversity}"
    yield _about_cross_validation(findings)


def _table(title: str, columns: tuple[str, ...], rows: dict[str, tuple]) -> str:
    lines = [f"{title:<38}" + "".join(f"{column:>12}" for column in columns)]
    for name, cells in rows.items():
        texts = [cell if isinstance(cell, str) else f"{cell:.4f}" for cell in cells]
        lines.append(f"{name:<38}" + "".join(f"{text:>12}" for text in texts))
    return "\n".join(lines)


def _about_calibration(averages: dict[str, Tensor], y: Tensor) -> str:
    rows = {}
    for name, proba in averages.items():
        parts = brier_decomposition(proba, y)
        error = calibration_error_interval(proba, y, random_state=0)
        rows[name] = (
            negative_log_likelihood(proba, y),
            parts.brier_score,
            parts.reliability,
            parts.generalized_resolution,
            f"{error.lower:.3f}-{error.upper:.3f}",
            classwise_calibration_error(proba, y),
        )
    columns = ("NLL", "Brier", "reliability", "resolution", "ECE, 90 %", "class ECE")
    return _table("Calibration of averages", columns, rows)


def _about_uncertainty(sureness: dict[str, Sureness]) -> str:
    rows = {}
    for name, sure in sureness.items():
        right = sure.is_right.numpy()
        kinds = {
            f"{right.sum()} classified right": (sure.uncertainty, right),
            f"{(~right).sum()} classified wrong": (sure.uncertainty, ~right),
            "features shuffled": (sure.shuffled, np.ones_like(right)),
        }
        for kind, (uncertainty, chosen) in kinds.items():
            rows[f"{name}, {kind}"] = tuple(
                part[chosen].mean().item() if chosen.any() else "-" for part in uncertainty
            )
    return _table("Uncertainty of inputs, mean (nats)", ("total", "aleatoric", "epistemic"), rows)


def _about_detection(sureness: dict[str, Sureness]) -> str:
    rows = {
        f"{name}, {score}": detection(usual, shuffled)
        for name, sure in sureness.items()
        for score, usual, shuffled in zip(
            _SCORES, sure.usual_scores, sure.shuffled_scores, strict=True
        )
    }
    return _table("Shuffled told from test inputs by", ("AUROC", "AUPR", "FPR, 95 %"), rows)


def _about_size(findings: Findings, train_seconds: float) -> str:
    trained, generated = findings.curves["training networks"], findings.curves["generated"]
    n_trained, nll = trained.sizes[-1], generated.nll[generated.sizes == N_GENERATED].item()
    worth, is_bound = deep_ensemble_equivalent(nll, trained)
    more = "more than " if is_bound else ""
    seconds = findings.sample_seconds
    return (
        f"An average of generated networks, by size (nats)\n\n{generated}\n\n"
        f"The deep-ensemble equivalent of {N_GENERATED} generated networks ({nll:.4f}) is {more}"
        f"{worth:.0f} trained ones; {n_trained}\nhave {trained.nll[-1]:.4f}. That is {more}"
        f"{worth / seconds:.0f} per second of generating, where training makes "
        f"{n_trained / train_seconds:.0f}\nper second. Fitting the flow is not counted."
    )


def _about_cross_validation(findings: Findings) -> str:
    rows = {
        name: (
            f"{row.elpd_loo:.2f}",
            f"{row.se:.2f}",
            f"{row.p_loo:.2f}",
            f"{row.weight:.2f}",
            "no" if row.warning else "yes",
        )
        for name, row in findings.comparison.iterrows()
    }
    columns = ("log density", "std. error", "p", "stacking", "reliable")
    return _table("Leave-one-out on training data", columns, rows)
