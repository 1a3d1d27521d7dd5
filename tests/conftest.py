"""Settings for all tests."""

import os

import torch
from hypothesis import settings

# A shared machine may be slow at any moment, and a failure has to come back.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core already; more threads would only wait for each other.
    torch.set_num_threads(1)
