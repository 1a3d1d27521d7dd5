"""Training of thousands of networks of one architecture together."""

from __future__ import annotations

import warnings

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.chunks import Trained, train_in_chunks
from bayesflow_nn.weights.initialization import INITS, draw_initial_weights, read_init
from bayesflow_nn.weights.likelihoods import Likelihood
from bayesflow_nn.weights.losses import Loss
from bayesflow_nn.weights.optimizers import Schedule, resolve_schedule
from bayesflow_nn.weights.population import WeightPopulation
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.recipe import Recipe
from bayesflow_nn.weights.scores import score_networks
from bayesflow_nn.weights.training_data import MOST_INPUTS, TrainingData, check_data, spread_rows
from bayesflow_nn.weights.validation import check_integer, check_option, check_real, name_rows


def train_population(
    architecture: Architecture,
    X: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    sample_weight: ArrayLike | Tensor | None = None,
    n_networks: int | None = None,
    loss: str | Loss | Likelihood = "auto",
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: Schedule = "constant",
    n_epochs: int = 50,
    batch_size: int = 32,
    init: str | ArrayLike | Tensor | WeightPopulation = "normal",
    init_variance: float = 0.1,
    minibatches: str = "independent",
    burn_in: int = 0,
    stride: int | None = None,
    validation_data: tuple[ArrayLike | Tensor, ...] | None = None,
    early_stopping: bool = False,
    n_iter_no_change: int = 10,
    tol: float = 1e-4,
    chunk_size: int | str = "auto",
    on_divergence: str = "drop",
    device: torch.device | str | None = None,
    random_state: RandomState = None,
    verbose: bool = False,
) -> WeightPopulation:
    r"""Train many networks of one architecture on the same data.

    Equals a loop over networks with ``torch.optim``, up to rounding. Multilayer perceptrons with a
    named loss or a likelihood are trained by batched matrix products, all else by
    ``torch.func.grad`` under ``vmap``. The defaults are the recipe of [E25] (appendix A).

    A network's initial weights and minibatches depend on `random_state` and its index alone: not
    on `chunk_size`, the number of threads or `n_networks`.

    With weights w_i of the inputs and the L2 penalty c = `weight_decay`, what is minimised is

    .. math::
        L(\theta) = \sum_i w_i \ell_i(\theta) \Big/ \sum_i w_i
            + \frac c2 |\theta|^2.

    So a weight of 2 is a row given twice, and weights that are all equal are none. A minibatch B
    has the gradient :math:`\sum_{i \in B} \tilde w_i \nabla \ell_i / |B|` with weights
    scaled to mean one, :math:`\tilde w_i = n w_i / \sum_j w_j`, which is unbiased.

    Parameters
    ----------
    architecture : Architecture
        Run in evaluation mode also in training: dropout is off, batch normalisation uses the
        statistics in its buffers; a warning says so.
    X : array of shape (n_inputs, ...)
        Training inputs. Tensors keep their dtype, which is that of the training; other arrays are
        cast to the dtype of the architecture.
    y : array of shape (n_inputs,) or (n_inputs, n_outputs)
        Integer labels ``0 ... n_outputs - 1``, or floating regression targets.
    sample_weight : array of shape (n_inputs,), optional
        Weights of the inputs, non-negative and not all zero; only their ratios matter. Inputs of
        weight zero are left out. Not for a callable loss.
    n_networks : int
        Number of networks; by default as many as `init` has, if that is an array.
    loss : {"auto", "cross_entropy", "mse"}, Likelihood or callable
        "auto" is "cross_entropy" for integer `y`, else "mse". A likelihood, for example
        ``HeteroscedasticNormal()`` with two outputs per target, is maximised; the population
        remembers it. A callable maps the outputs
        ``(batch, n_outputs)`` and targets of one minibatch to a scalar, with torch operations.
    optimizer : {"adam", "adamw", "sgd"}
        With the update rules and other defaults of ``torch.optim``.
    learning_rate, momentum, weight_decay : float
        Step size, momentum (of "sgd"), L2 penalty.
    schedule : {"constant", "cosine", "step"} or callable
        Factor of the learning rate: 1; half a cosine from 1 to 0; 1, then 0.1 after half and 0.01
        after three quarters of the iterations; or a function of progress in [0, 1).
    n_epochs, batch_size : int
        Passes over the data, and size of a minibatch. The last minibatch of an epoch may be
        smaller.
    init : {"normal", "kaiming", "xavier", "module"}, array (n_networks, n_weights), or population
        Initial weights. "normal": N(0, `init_variance`) for every weight [E25]. "kaiming",
        "xavier": N(0, 2 / fan_in), N(0, 2 / (fan_in + fan_out)), with biases zero. "module": as
        the module's `reset_parameters`.
    init_variance : float
        Variance of "normal".
    minibatches : {"independent", "shared"}
        Whether every network shuffles the data for itself, or all see one order.
    burn_in, stride : int, optional
        Record the weights every `stride` iterations after `burn_in` epochs, and at the end; each
        network becomes a `chain`. By default only the last weights are recorded.
    validation_data : tuple (X, y) or (X, y, sample_weight), optional
        Evaluated for every network into ``metrics``: "nll" (nats) and "accuracy", or "mse" and,
        with a likelihood, "nll". With weights of the inputs these are weighted means.
    early_stopping : bool
        Whether every network keeps the weights of the epoch with the least loss on
        `validation_data` ("nll", else "mse"), and stops once that stalls. Each is judged for
        itself, so that it does not depend on the others. The metrics then say its "best_epoch" and
        the "n_epochs" it was trained.
    n_iter_no_change : int
        Epochs in a row with a gain below `tol` that a network may have before it stops.
    tol : float
        In the units of the loss.
    chunk_size : int or "auto"
        Networks trained together, which bounds the memory; "auto" fits the processor's cache.
    on_divergence : {"drop", "keep", "raise"}
        What to do with networks whose weights became NaN or infinite. Dropping and keeping warn;
        a dropped network takes its whole chain along.
    device : torch.device or str, optional
        Where to train; by default where `X` is.
    random_state : int, generator or None
        Source of all randomness; global seeds are not touched.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    WeightPopulation
        Sorted by chain, then draw.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If a value is out of range, data and architecture do not fit, data are not finite, a
        callable loss comes with `sample_weight`, or all networks diverged.

    Examples
    --------
    >>> mlp = Architecture.mlp([2, 8, 2])
    >>> X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (X[:, 0] > 0).long()
    >>> population = train_population(
    ...     mlp, X, y, n_networks=20, learning_rate=1e-2, validation_data=(X, y), random_state=0
    ... )
    >>> len(population), population.metrics["accuracy"].mean().item() > 0.9
    (20, True)
    """
    if not isinstance(architecture, Architecture):
        raise TypeError(
            f"architecture must be an Architecture, got {type(architecture).__name__}; "
            f"wrap a module as Architecture(module)."
        )
    check_option("on_divergence", on_divergence, ("drop", "keep", "raise"))
    if chunk_size != "auto":
        check_integer("chunk_size", chunk_size)
    data = check_data(architecture, X, y, loss, device, sample_weight)
    held_out = _check_held_out(architecture, data, validation_data)
    recipe = Recipe(
        optimizer=optimizer,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=resolve_schedule(schedule),
        n_epochs=n_epochs,
        batch_size=batch_size,
        minibatches=minibatches,
        burn_in=burn_in,
        stride=stride,
        seed=draw_seed(random_state),
        early_stopping=early_stopping,
        n_iter_no_change=n_iter_no_change,
        tol=tol,
    )
    if early_stopping and held_out is None:
        raise ValueError("validation_data must be given for early_stopping, got None.")
    _warn_of_evaluation_mode(architecture)
    initial = _initial_weights(architecture, init, init_variance, n_networks, recipe.seed, data.X)
    size = None if chunk_size == "auto" else chunk_size
    judge = held_out if early_stopping else None
    trained = train_in_chunks(architecture, data, recipe, initial, size, verbose, judge)
    weights = trained.weights
    diverged = ~torch.isfinite(weights).flatten(1).all(dim=1)
    if diverged.any():
        _report_divergence(diverged, on_divergence)
    keep = ~diverged if on_divergence == "drop" else torch.ones_like(diverged)
    return _collect(architecture, trained, keep, data, held_out)


def _check_held_out(
    architecture: Architecture, data: TrainingData, validation_data: tuple | None
) -> TrainingData | None:
    if validation_data is None:
        return None
    if len(validation_data) not in (2, 3):
        raise ValueError(
            f"validation_data must be (X, y) or (X, y, sample_weight), got {len(validation_data)} "
            f"entries."
        )
    X, y, *weight = validation_data
    try:
        return check_data(architecture, X, y, data.metric_loss, data.X.device, *weight)
    except ValueError as error:
        raise ValueError(f"validation_data: {error}") from error


def _warn_of_evaluation_mode(architecture: Architecture) -> None:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    names = {type(m).__name__ for m in architecture.module.modules() if isinstance(m, kinds)}
    if names:
        warnings.warn(
            f"{', '.join(sorted(names))} acts as in evaluation mode also in training: dropout is "
            f"off, and batch normalisation uses the fixed statistics in its buffers.",
            stacklevel=3,
        )


def _initial_weights(
    architecture: Architecture,
    init: str | ArrayLike | Tensor | WeightPopulation,
    init_variance: float,
    n_networks: int | None,
    seed: int,
    X: Tensor,
) -> Tensor:
    dtype = X.dtype if X.is_floating_point() else architecture.dtype
    if isinstance(init, str):
        check_option("init", init, INITS)
        check_real("init_variance", init_variance, 0, strict=True)
        n = check_integer("n_networks", n_networks)
        weights = draw_initial_weights(
            architecture, init, init_variance, n_networks=n, seed=seed, dtype=dtype
        )
        return weights.to(X.device)
    weights = read_init(init, architecture, "n_networks", n_networks)
    diverged = ~torch.isfinite(weights).all(dim=1)
    if diverged.any():
        raise ValueError(
            f"init must be finite, got NaN or infinite weights in networks {name_rows(diverged)}."
        )
    return weights.detach().to(X.device, dtype)


def _report_divergence(diverged: Tensor, on_divergence: str) -> None:
    text = (
        f"{int(diverged.sum())} of {len(diverged)} networks diverged (NaN or infinite weights): "
        f"{name_rows(diverged)}. Lower learning_rate or init_variance."
    )
    if on_divergence == "raise" or (on_divergence == "drop" and diverged.all()):
        raise ValueError(text)
    kept = "dropped" if on_divergence == "drop" else "kept"
    warnings.warn(f"{text} They are {kept} (on_divergence={on_divergence!r}).", stacklevel=3)


def _collect(
    architecture: Architecture,
    trained: Trained,
    keep: Tensor,
    data: TrainingData,
    held_out: TrainingData | None,
) -> WeightPopulation:
    n_draws = trained.weights.shape[1]
    chain = torch.nonzero(keep).flatten().repeat_interleave(n_draws)
    rows = trained.weights[keep].flatten(0, 1)
    metrics = {name: metric.to(keep.device)[keep] for name, metric in trained.metrics.items()}
    if held_out is not None:
        metrics |= score_networks(architecture, rows, held_out)
    return WeightPopulation(
        rows,
        architecture=architecture,
        chain=chain,
        draw=torch.arange(n_draws, device=chain.device).repeat(int(keep.sum())),
        task=data.task,
        likelihood=data.likelihood,
        metrics=metrics,
        inputs=spread_rows(data.X, MOST_INPUTS),
        allow_nonfinite=True,
    )
