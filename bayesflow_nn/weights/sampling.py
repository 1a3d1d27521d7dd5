"""Populations of networks from their posterior, by thousands of Markov chains at once."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.chains import Transition
from bayesflow_nn.weights.hmc import HMC
from bayesflow_nn.weights.initialization import read_init
from bayesflow_nn.weights.likelihoods import Likelihood
from bayesflow_nn.weights.log_posterior import LogPosterior
from bayesflow_nn.weights.mclmc import MCLMC
from bayesflow_nn.weights.population import WeightPopulation
from bayesflow_nn.weights.priors import Prior
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.sgld import SGLD
from bayesflow_nn.weights.training_data import MOST_INPUTS, spread_rows
from bayesflow_nn.weights.validation import (
    check_integer,
    check_option,
    name_rows,
)

SAMPLERS = {"mclmc": MCLMC, "hmc": HMC, "sgld": SGLD}


def sample_population(
    architecture: Architecture,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    sample_weight: ArrayLike | Tensor | None = None,
    sampler: str = "mclmc",
    n_chains: int | None = None,
    n_draws: int = 100,
    n_tune: int = 1000,
    thinning: int = 1,
    init: str | ArrayLike | Tensor | WeightPopulation = "prior",
    prior: float | Mapping[str, float] | Prior | Callable[[Tensor], Tensor] = 1.0,
    likelihood: float | Likelihood | None = None,
    sampler_options: Mapping[str, object] | None = None,
    chunk_size: int | None = None,
    on_divergence: str = "drop",
    device: torch.device | str | None = None,
    random_state: RandomState = None,
    verbose: bool = False,
) -> WeightPopulation:
    r"""Draw networks from the posterior of their weights, by Markov chains.

    Every chain tunes itself. All chains take their steps together: one gradient of all of them is
    a few batched matrix products.

    With weights w_i of the inputs the posterior is :math:`p(\theta) \prod_i p(y_i | x_i,
    \theta)^{w_i}`, up to a constant.

    Parameters
    ----------
    architecture : Architecture
        Run in evaluation mode, with the module's own buffers.
    X : array of shape (n_inputs, ...)
        Training inputs. Tensors keep their dtype, which is that of the chains; other arrays are
        cast to the dtype of the architecture.
    y : array of shape (n_inputs,) or (n_inputs, n_targets)
        Integer labels ``0 ... n_outputs - 1``, or floating regression targets.
    sample_weight : array of shape (n_inputs,), optional
        Weights of the inputs, non-negative and not all zero, not scaled: 2 is an input given twice,
        and weights below 1 temper the likelihood. Inputs of weight zero are left out.
    sampler : {"mclmc", "hmc", "sgld"}
        "mclmc": microcanonical Langevin Monte Carlo without a Metropolis test, cheap per step and
        with a small bias that its `energy_variance` sets. "hmc": Hamiltonian Monte Carlo, without
        bias; one step is about `n_leapfrog` gradients. "sgld": stochastic gradient Langevin
        dynamics on minibatches, constant or cyclical, for data that do not fit; nothing is tuned.
    n_chains : int, optional
        Number of chains; by default as many as `init` has networks.
    n_draws : int
        Networks that each chain records.
    n_tune : int
        Steps before that, to forget the start and to tune; they are not recorded.
    thinning : int
        Steps from one recorded network to the next.
    init : {"prior"}, array of shape (n_chains, n_weights), or WeightPopulation
        Where the chains start: draws of the prior, or given networks, for example those of
        `train_population`, which spares the chains the way from the prior to the data.
    prior : float, mapping from name to float, Prior or callable
        Standard deviation of normal weights, a prior such as ``LaplacePrior(0.5)``, or a function
        from weights ``(n, n_weights)`` to log densities ``(n,)``.
    likelihood : Likelihood, float or None
        None is class probabilities, a float the standard deviation of normal noise.
    sampler_options : mapping, optional
        Keyword parameters of `MCLMC`, `HMC` or `SGLD`, for example ``{"n_leapfrog": 32}``.
    chunk_size : int, optional
        Networks whose gradients are computed together, which bounds the memory.
    on_divergence : {"drop", "keep", "raise"}
        What to do with chains whose log posterior is not finite. Dropping and keeping warn. Single
        steps that fail are taken back, and only counted: see ``metrics["diverging"]``.
    device : torch.device or str, optional
        Where to sample; by default where `X` is.
    random_state : int, generator or None
        Source of all randomness; global seeds are not touched.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    WeightPopulation
        Sorted by chain, then draw. Its metrics, per network: "lp" (log posterior up to the
        evidence, nats; of "sgld" the estimate of the last minibatch); "energy_error" (nats) of the
        last step, NaN for "sgld"; over the steps since the last
        record, the mean "acceptance" probability, whether any was "diverging", and "n_gradients";
        and the "step_size" of the chain.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If a value is out of range, data and architecture do not fit, data are not finite, or all
        chains diverged.

    Examples
    --------
    >>> mlp = Architecture.mlp([2, 4, 2], activation="tanh")
    >>> X = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (X[:, 0] > 0).long()
    >>> population = sample_population(
    ...     mlp, X, y, n_chains=8, n_draws=5, n_tune=200, thinning=10, random_state=0
    ... )
    >>> population.n_chains, len(population), sorted(population.metrics)[-2:]
    (8, 40, ['n_gradients', 'step_size'])
    """
    check_option("sampler", sampler, tuple(SAMPLERS))
    check_option("on_divergence", on_divergence, ("drop", "keep", "raise"))
    for name, value, low in (
        ("n_draws", n_draws, 1),
        ("n_tune", n_tune, 0),
        ("thinning", thinning, 1),
    ):
        check_integer(name, value, low)
    options = _check_options(sampler, sampler_options)
    target = LogPosterior(
        architecture,
        X,
        y,
        sample_weight=sample_weight,
        prior=prior,
        likelihood=likelihood,
        chunk_size=chunk_size,
        device=device,
    )
    generator = torch.Generator(target.X.device).manual_seed(draw_seed(random_state))
    weights = _initial_weights(target, init, n_chains, generator)
    lost = _find_lost(target, weights, on_divergence)
    kept = ~lost if on_divergence == "drop" else torch.ones_like(lost)
    chains = SAMPLERS[sampler](target, weights[kept], generator, **options)
    with tqdm(total=n_tune + n_draws * thinning, unit="step", disable=not verbose) as bar:
        chains.tune(n_tune, bar.update)
        draws, metrics = _record(chains, n_draws, thinning, bar.update)
    return WeightPopulation(
        draws.flatten(0, 1),
        architecture=architecture,
        chain=torch.nonzero(kept).flatten().repeat_interleave(n_draws),
        draw=torch.arange(n_draws, device=draws.device).repeat(len(draws)),
        task=target.likelihood.task,
        likelihood=target.likelihood,
        metrics=metrics,
        inputs=spread_rows(target.X, MOST_INPUTS),
        allow_nonfinite=True,
    )


def _check_options(sampler: str, options: Mapping[str, object] | None) -> dict[str, object]:
    known = inspect.getfullargspec(SAMPLERS[sampler].__init__).kwonlyargs
    for name in options or {}:
        if name not in known:
            raise ValueError(
                f"sampler_options must be among {known} for sampler={sampler!r}, got {name!r}."
            )
    return dict(options or {})


def _initial_weights(
    target: LogPosterior,
    init: str | ArrayLike | Tensor | WeightPopulation,
    n_chains: int | None,
    generator: torch.Generator,
) -> Tensor:
    architecture = target.architecture
    if isinstance(init, str):
        check_option("init", init, ("prior",))
        n = check_integer("n_chains", n_chains)
        if not hasattr(target.prior, "draw"):
            raise ValueError(
                "init must be an array or a population for a prior without a method draw, "
                "got 'prior'; start from train_population(...)."
            )
        return target.prior.draw(n, architecture, generator).to(target.X.device, target.dtype)
    weights = read_init(init, architecture, "n_chains", n_chains)
    return weights.detach().to(target.X.device, target.dtype)


def _find_lost(target: LogPosterior, weights: Tensor, on_divergence: str) -> Tensor:
    """Chains that cannot start. From a finite density, a sampler never leaves for another."""
    value, gradient = target.value_and_gradient(weights)
    lost = ~(value.isfinite() & gradient.isfinite().all(1))
    if not lost.any():
        return lost
    text = (
        f"{int(lost.sum())} of {len(lost)} chains diverged (no finite log posterior): "
        f"{name_rows(lost)}. Start them elsewhere (init), or use double precision."
    )
    if on_divergence == "raise" or (on_divergence == "drop" and lost.all()):
        raise ValueError(text)
    kept = "dropped" if on_divergence == "drop" else "kept"
    warnings.warn(f"{text} They are {kept} (on_divergence={on_divergence!r}).", stacklevel=3)
    return lost


def _record(
    chains: HMC | MCLMC | SGLD, n_draws: int, thinning: int, report: Callable[[int], object]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws ``(n_chains, n_draws, n_weights)``, and metrics ``(n_chains * n_draws,)``."""
    weights = chains.position.weights
    draws = weights.new_empty(len(weights), n_draws, weights.shape[1])
    columns = []
    for i in range(n_draws):
        transitions = []
        for _ in range(thinning):
            transitions.append(chains.step())
            report(1)
        draws[:, i] = chains.position.weights
        columns.append({"lp": chains.position.value, **_summarise(transitions)})
    metrics = {name: torch.stack([c[name] for c in columns], 1).flatten() for name in columns[0]}
    metrics["step_size"] = chains.step_size.repeat_interleave(n_draws)
    return draws, metrics


def _summarise(transitions: list[Transition]) -> dict[str, Tensor]:
    error = transitions[-1].energy_error
    n_gradients = sum(transition.n_gradients for transition in transitions)
    return {
        "energy_error": error,
        "acceptance": torch.stack([t.acceptance for t in transitions]).mean(0),
        "diverging": torch.stack([t.diverging for t in transitions]).any(0),
        "n_gradients": torch.full_like(error, n_gradients, dtype=torch.long),
    }
