"""Random numbers, and a mixture of normals that several test files use."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def mixture(rng):
    """Means, standard deviations and unequal weights of 6 networks at 5 inputs."""
    mean, std = rng.normal(scale=2, size=(6, 5)), rng.uniform(0.3, 2, size=(6, 5))
    return mean, std, rng.dirichlet(np.ones(6))
