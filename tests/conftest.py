"""Settings for all tests."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_iris

# A shared machine may be slow at any moment, and a failure has to come back.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core already; more threads would only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def iris():
    """Inputs ``(150, 4)``, standardised and float32, and labels."""
    X, y = load_iris(return_X_y=True)
    return ((X - X.mean(0)) / X.std(0)).astype(np.float32), y
