"""ProbeVelocity: steps through the generated networks, against autograd and explicit inverses."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bayesflow_nn.symmetry.dense_layers import DenseWeights
from bayesflow_nn.velocity import ProbeVelocity
from bayesflow_nn.velocity.features import all_features, time_features
from bayesflow_nn.velocity.probe_refinement import _damped_step
from bayesflow_nn.velocity.sphere_mean import condition_on_spheres
from bayesflow_nn.weights import Architecture

SIZES = {1: [4, 3], 2: [4, 5, 3], 3: [4, 5, 6, 3]}
GEOMETRIES = ["product_sphere", "normalized", "euclidean"]
# Spheres need an activation that is homogeneous.
NETWORKS = [
    *itertools.product(SIZES, [True, False], GEOMETRIES, ["leaky_relu"]),
    *itertools.product(SIZES, [True, False], ["euclidean"], ["tanh"]),
]


@pytest.fixture
def make_model(make_problem):
    """Build a small model in float64 and its problem."""

    def make(architecture, geometry="product_sphere", *, inputs=None):
        problem = make_problem(architecture, geometry, inputs=inputs)
        model = ProbeVelocity(problem, n_probes=8, n_refinements=2)
        return model.double(), problem

    return make


@pytest.fixture(params=NETWORKS, ids=lambda network: "-".join(map(str, network)))
def model_and_problem(request, make_model):
    """A model for every depth, with and without biases, geometry and activation."""
    depth, bias, geometry, activation = request.param
    return make_model(Architecture.mlp(SIZES[depth], activation, bias=bias), geometry)


def small(make_model):
    return make_model(Architecture.mlp(SIZES[2]))


def test_without_a_response_it_is_the_affine_denoiser(model_and_problem, draw_noisy):
    """In a flat space of directions, given that they lie on spheres."""
    model, problem = model_and_problem
    t, x = draw_noisy(problem)
    expected, variance = problem.make_denoiser()(t, x)
    if problem.chart.geometry == "normalized":
        manifold = problem.chart.canonical_manifold
        expected = condition_on_spheres(manifold, expected, variance)
    assert not torch.allclose(model(t, x), expected)
    for module in model.modules():
        if hasattr(module, "read_out"):
            nn.init.zeros_(module.read_out.weight)
    assert torch.equal(model(t, x), expected)


def test_no_step_is_longer_than_the_posterior_is_wide(make_model, draw_noisy):
    """Root mean squares; gains of e^50 ask for much longer steps."""
    model, problem = small(make_model)
    t, x = draw_noisy(problem)
    mean, variance = problem.make_denoiser()(t, x)
    for refinement in model.refinements:
        nn.init.constant_(refinement.log_gain.bias, 50.0)
    lengths = (model(t, x) - mean).square().mean(1).sqrt()
    # Each of the steps has nearly the largest length; their sum is at most their number times it.
    n_steps = 1 + len(model.refinements)  # the first corrects neurons
    assert (lengths <= n_steps * variance.sqrt().squeeze(1)).all()
    assert (lengths > 0).all()


def test_an_undamped_refinement_is_the_gradient_through_the_networks(model_and_problem, draw_noisy):
    r"""With gain 1 and damping 0: J^T r / n_probes, J the Jacobian of the logits at the probes."""
    model, problem = model_and_problem
    refinement = model.refinements[0]
    nn.init.zeros_(refinement.log_gain.bias)
    nn.init.constant_(refinement.log_damping.bias, -100.0)
    t, x = draw_noisy(problem)
    features = time_features(t)

    x = x.requires_grad_()
    weights = problem.chart.to_weights(x / problem.scale)
    logits = problem.chart.architecture.apply(weights, refinement.probes)
    response = refinement.response(logits.mT, features).mT.detach() / len(refinement.probes)
    (expected,) = torch.autograd.grad((logits * response).sum(), x)

    step = refinement(features, x.detach(), torch.ones(len(t), 1, dtype=torch.float64))
    # The same derivative in another order of float64 operations.
    torch.testing.assert_close(step, expected, atol=1e-13, rtol=1e-10)


def test_gain_and_damping_grow_with_the_variance(make_model, draw_noisy):
    r"""One linear layer without bias: the step of its matrix is v g (r P / n) (I + v d s M)^{-1}.

    P are the n probes and M their second moments, r the response there, v the posterior variance,
    s the variance of the weights, g and d the learned gain and damping.
    """
    model, problem = make_model(Architecture.mlp(SIZES[1], bias=False), "euclidean")
    chart, refinement = problem.chart, model.refinements[0]
    t, x = draw_noisy(problem, 3)
    features = time_features(t)
    variance = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
    step = refinement(features, x, variance)

    P, identity = refinement.probes, torch.eye(4, dtype=torch.float64)
    M = P.T @ P / len(P)
    s = chart.to_weights(problem.points).var(0).mean()
    g, d = refinement.log_gain.bias.exp(), refinement.log_damping.bias.exp()
    r = refinement.response(chart.architecture.apply(chart.to_weights(x), P).mT, features)
    # The chart is affine here; its Jacobian, transposed, leads from weights to coordinates.
    jacobian = torch.autograd.functional.jacobian(lambda x: chart.to_weights(x[None])[0], x[0])
    for row, v in enumerate(variance):
        of_matrix = v * g * r[row] @ P / len(P) @ torch.linalg.inv(identity + v * d * s * M)
        torch.testing.assert_close(step[row], of_matrix.flatten() @ jacobian)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared_inputs", [True, False])
@pytest.mark.parametrize("n_probes", [3, 7])
def test_a_damped_step_is_the_gradient_times_an_explicit_inverse(
    bias, shared_inputs, n_probes, generator
):
    n, n_in, n_out = 5, 4, 3

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layer = DenseWeights(draw(n, n_out, n_in), draw(n, n_out) if bias else None)
    cotangent, inputs = draw(n, n_out, n_probes), draw(n, n_in, n_probes)
    gain, damping = draw(n).exp(), draw(n).exp()
    step = _damped_step(layer, cotangent, inputs[0] if shared_inputs else inputs, gain, damping)
    for network in range(n):
        seen = inputs[0 if shared_inputs else network]
        if bias:
            seen = torch.cat([seen, torch.ones(1, n_probes, dtype=torch.float64)])
        moments = sum(torch.outer(h, h) for h in seen.T) / n_probes
        gradient = sum(torch.outer(r, h) for r, h in zip(cotangent[network].T, seen.T, strict=True))
        inverse = torch.linalg.inv(torch.eye(len(seen)) + damping[network] * moments)
        expected = gain[network] * gradient @ inverse
        torch.testing.assert_close(step.matrix[network], expected[:, :n_in])
        if bias:
            torch.testing.assert_close(step.bias[network], expected[:, n_in])
    assert (step.bias is not None) == bias


def test_gradients_reach_every_parameter(model_and_problem, draw_noisy):
    model, problem = model_and_problem
    t, x = draw_noisy(problem)
    model(t, x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_a_condition_silences_probes_one_by_one(make_problem, generator):
    """Probes whose shift is far below zero under a condition answer it alike, and no others."""
    label = torch.eye(2, dtype=torch.float64).repeat(20, 1)
    problem = make_problem(Architecture.mlp(SIZES[2]))
    problem = dataclasses.replace(problem, condition=label, held_out=None)
    (refinement,) = ProbeVelocity(problem, n_probes=8, n_refinements=1).double().refinements
    response, silent = refinement.response, [1, 4]
    nn.init.zeros_(response.hidden.bias)
    with torch.no_grad():
        response.meaning[0].view(8, -1)[silent] = -1e6
    logits = torch.randn(1, 3, 8, generator=generator, dtype=torch.float64).expand(3, -1, -1)
    t = torch.full((3,), 0.5, dtype=torch.float64)
    given = torch.cat([label[:2], torch.zeros(1, 2, dtype=torch.float64)])
    first, second, unknown = response(logits, all_features(t, given, 2))
    assert torch.equal(first[:, silent], response.read_out.bias[:, None].expand(-1, 2))
    assert (second[:, silent] != first[:, silent]).all()
    assert (unknown[:, silent] != first[:, silent]).all()
    first[:, silent].sum().backward()
    assert (response.meaning.grad == 0).all()
    others = [probe for probe in range(8) if probe not in silent]
    assert (first[:, others] != response.read_out.bias[:, None]).all()


def test_forward_derivatives_agree_with_finite_differences(
    model_and_problem, draw_noisy, generator
):
    model, problem = model_and_problem
    t, x = draw_noisy(problem)
    direction, h = torch.randn(x.shape, generator=generator, dtype=torch.float64), 1e-6
    _, pushed = torch.func.jvp(lambda x: model(t, x), (x,), (direction,))
    expected = (model(t, x + h * direction) - model(t, x - h * direction)) / (2 * h)
    # Rounding eps / h = 2e-10 times values of order ten; kinks of the activation are measure zero.
    torch.testing.assert_close(pushed, expected, atol=1e-7, rtol=1e-6)


def test_many_directions_at_once_agree_with_one_by_one(make_model, draw_noisy, generator):
    """As the trace of the divergence takes them."""
    model, problem = small(make_model)
    t, x = draw_noisy(problem)
    directions = torch.randn(3, *x.shape, generator=generator, dtype=torch.float64)

    def push(direction):
        return torch.func.jvp(lambda x: model(t, x), (x,), (direction,))[1]

    expected = torch.stack([push(direction) for direction in directions])
    torch.testing.assert_close(torch.func.vmap(push)(directions), expected)


def test_rows_do_not_depend_on_each_other(make_model, draw_noisy):
    model, problem = small(make_model)
    t, x = draw_noisy(problem)
    torch.testing.assert_close(model(t[2:4], x[2:4]), model(t, x)[2:4])


@pytest.mark.parametrize("n_inputs", [3, 20], ids=["fewer", "more"])
def test_probes_start_at_inputs_of_the_problem(make_model, generator, n_inputs):
    inputs = torch.randn(n_inputs, 4, generator=generator, dtype=torch.float64)
    model, _ = make_model(Architecture.mlp(SIZES[2]), inputs=inputs)
    known = set(map(tuple, inputs.tolist()))
    for refinement in model.refinements:
        probes = set(map(tuple, refinement.probes.tolist()))
        assert probes <= known
        assert len(probes) == min(n_inputs, len(refinement.probes))


def test_half_of_the_probes_start_at_the_least_certain_inputs(make_model):
    """Inputs of growing length: the networks' logits and certainty grow with it."""
    directions = torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lengths = torch.logspace(-6, 6, 12, dtype=torch.float64)
    inputs = directions / directions.norm(dim=1, keepdim=True) * lengths[:, None]
    model, problem = make_model(Architecture.mlp(SIZES[2]), inputs=inputs)
    weights = problem.chart.to_weights(problem.points)
    proba = problem.chart.architecture.apply(weights, inputs).softmax(-1)
    entropy = -(proba * proba.log().clamp_min(-1e3)).sum(-1).mean(0)
    hardest = set(map(tuple, inputs[entropy.topk(4).indices].tolist()))
    for refinement in model.refinements:
        assert hardest <= set(map(tuple, refinement.probes.tolist()))


def test_initial_parameters_follow_the_generator_of_the_problem(make_problem):
    def parameters(seed):
        problem = make_problem(Architecture.mlp(SIZES[2]), seed=seed)
        # Only parameters that are drawn: the points differ from call to call.
        return ProbeVelocity(problem, n_probes=4).refinements[1].probes

    assert torch.equal(parameters(1), parameters(1))
    assert not torch.equal(parameters(1), parameters(2))


def test_the_slope_of_a_leaky_relu_is_that_of_the_module(make_model):
    module = nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.3), nn.Linear(5, 3))
    model, _ = make_model(Architecture(module))
    refinement = model.refinements[0]
    assert refinement.activation(torch.tensor(-1.0)).item() == pytest.approx(-0.3)


def test_other_networks_than_perceptrons_are_refused(problem):
    module = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    message = "needs the architecture of a multilayer perceptron, got {}.*use velocity='mlp'"
    for architecture, name in ((Architecture(module), "Architecture"), (None, "None")):
        other = dataclasses.replace(problem, chart=SimpleNamespace(architecture=architecture))
        with pytest.raises(ValueError, match=message.format(name)):
            ProbeVelocity(other)
