"""Layers on features that lie first, against PyTorch's own on features that lie last."""

import pytest
import torch
from torch import nn

from bayesflow_nn.velocity.edge_features import EdgeNorm, project, quadratic_forms


@pytest.fixture
def edges(generator):
    """Five features of seven edges of three networks, in float64."""
    return torch.randn(5, 3, 7, generator=generator).double()


def test_norm_is_that_of_pytorch(edges, generator):
    norm = EdgeNorm(5).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    expected = nn.functional.layer_norm(edges.movedim(0, -1), (5,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(edges), expected.movedim(-1, 0))


@pytest.mark.parametrize("bias", [True, False])
def test_projection_is_that_of_pytorch(edges, bias):
    layer = nn.Linear(5, 4, bias=bias).double()
    torch.testing.assert_close(project(layer, edges), layer(edges.movedim(0, -1)).movedim(-1, 0))


def test_forms_are_sums_over_pairs_of_features(edges, generator):
    matrices = torch.randn(6, 5, 5, generator=generator).double()
    expected = torch.einsum("fij,ine,jne->fne", matrices, edges, edges)
    torch.testing.assert_close(quadratic_forms(matrices, edges), expected)
