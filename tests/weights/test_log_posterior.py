"""`LogPosterior` against a plain loop over networks and inputs, and autograd."""

import pytest
import torch
from torch import nn

from bayesflow_nn.weights import (
    Architecture,
    Categorical,
    HeteroscedasticNormal,
    Normal,
    StudentT,
    dense_gradient,
)
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.priors import LaplacePrior, NormalPrior

N_INPUTS = 11
SAMPLE_WEIGHT = torch.linspace(0.2, 3.0, N_INPUTS, dtype=torch.float64)
LIKELIHOODS = [
    (Categorical(), 3),
    (Normal((0.7, 1.3)), 2),
    (HeteroscedasticNormal(0.1), 4),
    (StudentT(4.0, 0.8), 2),
]


class Wave(nn.Module):
    """A module that is no multilayer perceptron."""

    def __init__(self, n_outputs):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, n_outputs)

    def forward(self, X):
        return self.b(torch.sin(self.a(X)))


def make_architecture(kind, n_outputs):
    if kind == "module":
        return Architecture(Wave(n_outputs).double(), torch.zeros(2, 5, dtype=torch.float64))
    return Architecture.mlp([5, 8, 7, n_outputs], kind)


def make_data(likelihood):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N_INPUTS, 5, generator=generator, dtype=torch.float64)
    if likelihood.task == "classification":
        return X, torch.randint(3, (N_INPUTS,), generator=generator)
    return X, torch.randn(N_INPUTS, 2, generator=generator, dtype=torch.float64)


def draw_weights(architecture, n=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, architecture.n_weights, generator=generator, dtype=torch.float64)


def log_density(likelihood, f, y):
    """Log density of one target, by the distributions of PyTorch."""
    if isinstance(likelihood, Categorical):
        return torch.distributions.Categorical(logits=f).log_prob(y)
    if isinstance(likelihood, HeteroscedasticNormal):
        law = torch.distributions.Normal(f[:2], likelihood.min_scale + f[2:].exp())
    elif isinstance(likelihood, StudentT):
        law = torch.distributions.StudentT(likelihood.df, f, likelihood.scale)
    else:
        law = torch.distributions.Normal(f, f.new_tensor(likelihood.scale))
    return law.log_prob(y).sum()


def loop(architecture, X, y, likelihood, log_prior, weights, rows=None, w=None):
    """Value and gradient of one network after the other, one input after the other."""
    rows = range(len(X)) if rows is None else rows.tolist()
    w = [1.0] * len(X) if w is None else w.tolist()
    values, gradients = [], []
    for row in weights:
        module = architecture.to_module(row)
        terms = [w[i] * log_density(likelihood, module(X[i : i + 1])[0], y[i]) for i in rows]
        theta = nn.utils.parameters_to_vector(module.parameters())
        value = len(X) / len(rows) * sum(terms) + log_prior(theta)
        gradient = torch.autograd.grad(value, list(module.parameters()))
        values.append(value.detach())
        gradients.append(nn.utils.parameters_to_vector(gradient))
    return torch.stack(values), torch.stack(gradients)


def normal_log_prior(theta):
    return torch.distributions.Normal(0.0, theta.new_tensor(0.5)).log_prob(theta).sum()


@pytest.mark.parametrize("kind", ["relu", "gelu", "module"])
@pytest.mark.parametrize(("likelihood", "n_outputs"), LIKELIHOODS, ids=repr)
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 0, 7])], ids=["all", "minibatch"])
@pytest.mark.parametrize("w", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_equals_a_loop_with_autograd(kind, likelihood, n_outputs, rows, w):
    architecture = make_architecture(kind, n_outputs)
    X, y = make_data(likelihood)
    weights = draw_weights(architecture)
    log_posterior = LogPosterior(
        architecture, X, y, sample_weight=w, prior=0.5, likelihood=likelihood, chunk_size=3
    )
    value, gradient = log_posterior.value_and_gradient(weights, rows)
    expected = loop(architecture, X, y, likelihood, normal_log_prior, weights, rows, w)
    torch.testing.assert_close(value, expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-10)
    if rows is None:
        torch.testing.assert_close(log_posterior(weights), expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["relu", "module"])
@pytest.mark.parametrize(("likelihood", "n_outputs"), LIKELIHOODS, ids=repr)
def test_integer_weights_are_repeated_rows(kind, likelihood, n_outputs):
    architecture = make_architecture(kind, n_outputs)
    X, y = make_data(likelihood)
    weights = draw_weights(architecture)
    w = torch.arange(N_INPUTS) % 4  # some of them zero
    options = {"prior": 0.5, "likelihood": likelihood}
    weighted = LogPosterior(architecture, X, y, sample_weight=w, **options)
    repeated = LogPosterior(
        architecture, X.repeat_interleave(w, 0), y.repeat_interleave(w, 0), **options
    )
    assert weighted.total_weight == repeated.total_weight == repeated.n_inputs == w.sum()
    assert weighted.n_inputs == (w > 0).sum()
    torch.testing.assert_close(weighted(weights), repeated(weights), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        weighted.value_and_gradient(weights), repeated.value_and_gradient(weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "identity"]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [[5, 3], [5, 4, 3], [5, 4, 6, 5, 3]])
def test_every_perceptron_has_the_gradient_of_autograd(activation, bias, sizes):
    architecture = Architecture.mlp(sizes, activation, bias=bias)
    X, y = make_data(Categorical())
    weights = draw_weights(architecture).requires_grad_()
    log_posterior = LogPosterior(architecture, X, y, prior=1.0)
    (expected,) = torch.autograd.grad(log_posterior(weights).sum(), weights)
    value, gradient = log_posterior.value_and_gradient(weights.detach())
    torch.testing.assert_close(value, log_posterior(weights).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


PRIORS = {
    "laplace": (
        LaplacePrior(0.5),
        lambda w: torch.distributions.Laplace(0.0, w.new_tensor(0.5)).log_prob(w).sum(-1),
    ),
    "per parameter": (
        NormalPrior({"0.weight": 0.5, "0.bias": 2.0}),
        lambda w: (
            torch.distributions.Normal(0.0, w.new_tensor([0.5] * 15 + [2.0] * 3))
            .log_prob(w)
            .sum(-1)
        ),
    ),
    "callable": (lambda w: -w.pow(4).sum(1), lambda w: -w.pow(4).sum(-1)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_added_with_its_gradient(name):
    prior, expected_prior = PRIORS[name]
    architecture = Architecture.mlp([5, 3])
    X, y = make_data(Categorical())
    weights = draw_weights(architecture)
    value, gradient = LogPosterior(architecture, X, y, prior=prior).value_and_gradient(weights)
    expected = loop(architecture, X, y, Categorical(), expected_prior, weights)
    torch.testing.assert_close(value, expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-10)


def test_minibatches_average_to_the_whole():
    architecture = Architecture.mlp([5, 4, 3])
    X, y = make_data(Categorical())
    X, y = X[:10], y[:10]
    weights = draw_weights(architecture)
    log_posterior = LogPosterior(architecture, X, y, prior=1.0)
    parts = [log_posterior.value_and_gradient(weights, r) for r in torch.arange(10).split(5)]
    whole = log_posterior.value_and_gradient(weights)
    torch.testing.assert_close((parts[0].value + parts[1].value) / 2, whole.value)
    torch.testing.assert_close((parts[0].gradient + parts[1].gradient) / 2, whole.gradient)


def test_chunks_of_changing_size_do_not_disturb_each_other():
    architecture = Architecture.mlp([5, 4, 3])
    X, y = make_data(Categorical())
    weights = draw_weights(architecture, n=7)
    whole = LogPosterior(architecture, X, y, prior=1.0)
    expected = whole.value_and_gradient(weights)
    chunked = LogPosterior(architecture, X, y, prior=1.0, chunk_size=3)
    for n in (7, 2, 5, 7):
        value, gradient = chunked.value_and_gradient(weights[:n])
        torch.testing.assert_close(value, expected.value[:n], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected.gradient[:n], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [None, torch.tensor([3, 0, 7, 9, 1])], ids=["all", "minibatch"])
@pytest.mark.parametrize("w", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_blocks_of_inputs_add_up(monkeypatch, rows, w):
    """Three inputs at a time, with fewer in the last block, against all at once."""
    likelihood = HeteroscedasticNormal(0.1)
    architecture = make_architecture("tanh", 4)
    X, y = make_data(likelihood)
    weights = draw_weights(architecture)
    log_posterior = LogPosterior(architecture, X, y, likelihood=likelihood, sample_weight=w)
    expected = log_posterior.value_and_gradient(weights, rows)
    monkeypatch.setattr(dense_gradient, "_N_CACHED", 0)
    monkeypatch.setattr(dense_gradient, "_SMALLEST_BLOCK", 3)
    for own, whole in zip(log_posterior.value_and_gradient(weights, rows), expected, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-12, atol=1e-12)


def test_the_dtype_is_that_of_the_weights():
    architecture = Architecture.mlp([5, 4, 3])
    X, y = make_data(Categorical())
    weights = draw_weights(architecture)
    single = LogPosterior(architecture, X.float(), y, prior=1.0)
    value, gradient = single.value_and_gradient(weights)
    assert value.dtype == gradient.dtype == single(weights).dtype == torch.float64
    assert single.dtype == torch.float32


X, Y = make_data(Categorical())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"architecture": nn.Linear(5, 3)}, TypeError, "architecture must be an Architecture"),
        ({"X": X[:, :2]}, ValueError, r"X must have shape \(n_inputs, 5\)"),
        ({"y": X[:, :3]}, ValueError, "likelihood must be the standard deviation"),
        ({"y": X[:, :2], "likelihood": 1.0}, ValueError, "must have 2 outputs for 2 target"),
        ({"y": Y + 1}, ValueError, "labels from 0 to 2"),
        ({"prior": "wide"}, TypeError, "prior must be a standard deviation"),
        ({"prior": 0}, ValueError, "prior must be finite and > 0"),
        ({"likelihood": "normal"}, TypeError, "likelihood must be a number"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
        ({"sample_weight": -SAMPLE_WEIGHT}, ValueError, "sample_weight must be finite and non-neg"),
    ],
)
def test_bad_input_is_named(changes, error, match):
    arguments = {"architecture": Architecture.mlp([5, 3]), "X": X, "y": Y, "prior": 1.0, **changes}
    with pytest.raises(error, match=match):
        LogPosterior(**arguments)


def test_bad_weights_rows_and_values_of_priors_are_named():
    architecture = Architecture.mlp([5, 3])
    log_posterior = LogPosterior(architecture, X, Y, prior=1.0)
    weights = draw_weights(architecture)
    with pytest.raises(ValueError, match=r"weights must have shape \(n_networks, 18\)"):
        log_posterior(weights[:, 1:])
    with pytest.raises(TypeError, match="weights must be a torch.Tensor"):
        log_posterior.value_and_gradient(weights.numpy())
    for rows in (torch.zeros(2, 2).long(), torch.zeros(3), torch.zeros(0).long(), [1, 2]):
        with pytest.raises(ValueError, match="rows must be a tensor of integer indices"):
            log_posterior.value_and_gradient(weights, rows)
    unsummed = LogPosterior(architecture, X, Y, prior=lambda w: -w.square())
    with pytest.raises(ValueError, match=r"shape \(4,\), .* got \(4, 18\); sum over the weights"):
        unsummed.value_and_gradient(weights)
