r"""Velocity that runs the networks it generates, on inputs that it learns.

What Gaussian weights miss is how layers answer each other: for given features the best output
layer is the solution of a regression. If the target has the density
:math:`p_1(x) \propto N(x; m, C)\, e^{\ell(f_x)}`, as a posterior with Gaussian prior and a
likelihood of the network's function :math:`f_x` has, then to first order

.. math::
    E[x_1 | x_t] \approx \hat\mu_t + \Sigma_t J^T \nabla \ell(f_{\hat\mu_t}), \qquad
    J = \partial f / \partial x ,

with the Gaussian posterior mean and covariance of :class:`AffineDenoiser`, of the latter only the
mean variance, as a number: the learned gains and the damping do the rest. Here the function is seen
at learned inputs (probes), :math:`\nabla \ell` is a small network per probe, and J^T is
backpropagation through the generated network. A Kalman-like gain damps what the function responds
to strongly: per layer (I + rho G)^{-1}, with G the second moments of the layer's inputs over probes
(the input factor of K-FAC, Martens & Grosse 2015). Several such steps refine the prediction.

Before these steps the Gaussian mean is corrected neuron by neuron. In a flat space of directions
(``geometry="normalized"``) every step sees, and the model predicts, what the mean is once rows are
known to lie on spheres.

No label and no task loss enters; inputs only say where the probes start: one half where the
networks are least certain, which is where their functions have to be precise.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bayesflow_nn.symmetry import WeightChart
from bayesflow_nn.velocity.features import all_features
from bayesflow_nn.velocity.gaussian import Denoised
from bayesflow_nn.velocity.labelled import LabelledDenoiser
from bayesflow_nn.velocity.neural_graph import NeuralGraph
from bayesflow_nn.velocity.neuron_correction import NeuronCorrection
from bayesflow_nn.velocity.probe_refinement import LabelledRefinement, ProbeRefinement
from bayesflow_nn.velocity.problem import VelocityProblem
from bayesflow_nn.velocity.sphere_mean import condition_on_spheres

_LARGEST_STEP = 10.0  # of one coordinate, in posterior standard deviations
_MOST_LABELS = 4  # with refinements of their own: a batch must hold many networks of each


class ProbeVelocity(nn.Module):
    """Affine denoiser, corrected neuron by neuron and refined by steps in the space of functions.

    Parameters
    ----------
    problem : VelocityProblem
        Its chart must be that of a multilayer perceptron.
    n_probes : int
        Number of learned inputs per refinement, and per label where each of at most four has a law
        of its own. They start at inputs of the problem, for classifiers one half at the least
        certain ones, or at standard normal ones if it has none.
    n_refinements : int
        Number of steps.

    Raises
    ------
    ValueError
        If the chart has no multilayer perceptron.

    Notes
    -----
    Called with times ``t (n,)``, points ``x (n, n_coordinates)``, and with the features of
    conditions if the problem has them; returns predictions of the target, ``(n, n_coordinates)``.
    """

    def __init__(
        self,
        problem: VelocityProblem,
        *,
        n_probes: int = 64,
        n_refinements: int = 6,
    ) -> None:
        super().__init__()
        architecture = problem.chart.architecture
        if architecture is None or not architecture.is_mlp:
            raise ValueError(
                f"velocity='probe' needs the architecture of a multilayer perceptron, got "
                f"{architecture!r}; use velocity='mlp'"
            )
        self.denoiser = problem.make_gaussian()
        self.has_flat_directions = problem.chart.geometry == "normalized"
        self.neurons = NeuronCorrection(problem)
        self.n_condition_features = problem.n_condition_features
        self.chart = problem.chart
        self.refinements = nn.ModuleList(
            self._make_refinement(problem, n_probes) for _ in range(n_refinements)
        )

    def _make_refinement(self, problem: VelocityProblem, n_probes: int) -> nn.Module:
        law = self.denoiser
        if isinstance(law, LabelledDenoiser) and law.has_every_label:
            if len(law.labels) <= _MOST_LABELS:
                return LabelledRefinement(problem, law.labels, n_probes)
        return ProbeRefinement(problem, n_probes)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target, ``(n, n_coordinates)``."""
        return self.denoise(t, x, condition).mean

    def denoise(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Denoised:
        """Predict the target, with the variance of the Gaussian prediction."""
        mean, variance = self.denoiser(t, x, condition)
        features = all_features(t, condition, self.n_condition_features)
        step = variance * self.neurons(features, self._on_spheres(mean, variance))
        mean = mean + _within_posterior(step, variance)
        for refinement in self.refinements:
            step = refinement(features, self._on_spheres(mean, variance), variance)
            mean = mean + _within_posterior(step, variance)
        return Denoised(self._on_spheres(mean, variance), variance)

    def _on_spheres(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Tell a flat space of directions that they lie on spheres."""
        if not self.has_flat_directions:
            return mean
        return condition_on_spheres(self.chart.canonical_manifold, mean, variance)

    def on(self, chart: WeightChart) -> ProbeVelocity:
        """Run the same model on networks with other widths, where its Gaussian is exchangeable.

        Parameters
        ----------
        chart : WeightChart
            Of networks that differ from those of the problem in the widths of hidden layers alone.

        Returns
        -------
        ProbeVelocity
            With the parameters of this one, not copies.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)  # `copy` shares it
        other.chart = chart
        other.denoiser = self.denoiser.on(NeuralGraph(chart))
        other.neurons = self.neurons.on(chart)
        other.refinements = nn.ModuleList(step.on(chart) for step in self.refinements)
        return other


def _within_posterior(step: Tensor, variance: Tensor) -> Tensor:
    """Shorten a step smoothly to at most a posterior standard deviation, as root mean square.

    Learned steps are about a tenth as long and hardly change. Without a bound, the steps of an
    untrained model can feed each other until they overflow; and a single coordinate, the log norm
    of an output layer, must not take the whole length of a step.
    """
    limit = _LARGEST_STEP * variance.sqrt()
    step = step.clamp(-limit, limit)
    square = step.square().mean(1, keepdim=True)
    return step * (variance / (variance + square)).sqrt()
