"""The blocked search against all pairs at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayesflow_nn.diversity import nearest_neighbours


def _points(n, seed, dtype=torch.float64, n_coordinates=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_coordinates, generator=generator, dtype=dtype)


def _city_block(x, y):
    return (x - y).abs().sum(-1)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.booleans())
def test_search_agrees_with_all_pairs(n_queries, n_references, chunk_size, euclidean):
    queries, references = _points(n_queries, 0), _points(n_references, 1)
    everything = torch.cdist(queries, references, p=2.0 if euclidean else 1.0)
    distance, index = nearest_neighbours(
        queries,
        references,
        distance=None if euclidean else _city_block,
        chunk_size=chunk_size,
    )
    torch.testing.assert_close(distance, everything.amin(1))
    assert torch.equal(index, everything.argmin(1))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_neighbours_are_exact_far_from_the_origin(offset):
    # 1e4 apart, |x|² + |y|² - 2 xy in float32 has errors of about 10: all order would be lost.
    references = _points(50, 0, torch.float32) + offset
    queries = references[:20] + 0.01 * _points(20, 1, torch.float32)
    distance, index = nearest_neighbours(queries, references)
    assert torch.equal(index, torch.arange(20))
    torch.testing.assert_close(distance, (queries - references[:20]).double().norm(dim=1))


def test_a_copy_is_at_distance_zero_exactly():
    references = _points(30, 0, torch.float32, n_coordinates=200) + 100
    assert torch.equal(
        nearest_neighbours(references, references).distances, torch.zeros(30).double()
    )


def test_of_equal_references_the_first_is_named():
    assert nearest_neighbours([[0.0]], [[2.0], [1.0], [1.0], [-1.0]], chunk_size=1).indices == 1


def test_read_only_arrays_are_accepted():
    points = np.zeros((2, 3))
    points.flags.writeable = False
    assert nearest_neighbours(points, points).distances.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"queries": torch.zeros(3)},
            ValueError,
            r"queries must have shape \(n_points, 2\).*\(3,\)",
        ),
        ({"queries": torch.zeros(3, 4)}, ValueError, r"queries .* \(n_points, 2\).*got \(3, 4\)"),
        ({"references": torch.zeros(0, 2)}, ValueError, "references .* at least 1 points"),
        ({"references": torch.tensor(0.0)}, ValueError, r"references .* got \(\)"),
        ({"references": [[0, 1]]}, TypeError, r"references must be of floating point.*int64"),
        ({"references": [[0.0, np.nan]]}, ValueError, "references must be finite.*rows 0"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
    ],
)
def test_bad_input_is_named(change, error, match):
    arguments = {"queries": torch.zeros(3, 2), "references": torch.zeros(4, 2)} | change
    with pytest.raises(error, match=match):
        nearest_neighbours(**arguments)
