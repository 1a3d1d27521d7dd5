"""The training loop of a chunk of networks, and chunks side by side on threads.

A chunk is small enough that its parameters, optimizer state and activations stay in cache. Chunks
share nothing, so each thread trains its own with single-threaded kernels: that is faster than
splitting every small kernel over the threads, and the result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.batched_mlp import MLPNetworks
from bayesflow_nn.weights.early_stopping import EarlyStopping
from bayesflow_nn.weights.losses import resolve_loss, resolve_weighted_loss
from bayesflow_nn.weights.minibatches import MinibatchOrder
from bayesflow_nn.weights.module_networks import ModuleNetworks
from bayesflow_nn.weights.optimizers import make_optimizer
from bayesflow_nn.weights.recipe import Recipe
from bayesflow_nn.weights.training_data import TrainingData

_CHUNK_BYTES = 16 * 2**20
"""Parameters, optimizer state and activations of a chunk. Measured on two cores: 512 networks of
30-16-16-2 (13 MiB) take 2.1 ms each, 256 take 2.5 and 128 take 3.2, since the threads meet at the
interpreter lock more often; on one thread 128 to 512 differ by a tenth, and 1024 are slower."""

_CHUNK_MULTIPLE = 16


class Networks(Protocol):
    """A chunk of networks that can be trained."""

    parameters: Tensor
    gradient: Tensor

    def compute_gradient(self, rows: Tensor) -> None:
        """Write the gradient of the minibatches `rows` into `gradient`."""

    def read_weights(self, out: Tensor) -> None:
        """Copy the weights into `out`, of shape (n_networks, n_weights)."""


class Trained(NamedTuple):
    """What training leaves.

    Attributes
    ----------
    weights : Tensor of shape (n_networks, n_draws, n_weights)
        The snapshots of every network.
    metrics : dict from name to Tensor of shape (n_networks,)
        Of early stopping: "best_epoch" and "n_epochs".
    """

    weights: Tensor
    metrics: dict[str, Tensor]


def train_in_chunks(
    architecture: Architecture,
    data: TrainingData,
    recipe: Recipe,
    initial: Tensor,
    chunk_size: int | None,
    verbose: bool,
    held_out: TrainingData | None = None,
) -> Trained:
    """Train all networks.

    Parameters
    ----------
    architecture : Architecture
    data : TrainingData
    recipe : Recipe
    initial : Tensor of shape (n_networks, n_weights)
    chunk_size : int or None
        None fits the cache.
    verbose : bool
        Whether to show a progress bar.
    held_out : TrainingData, optional
        What early stopping judges by; without it every network is trained to the end.

    Returns
    -------
    Trained
    """
    n_networks, n_weights = initial.shape
    n_draws = len(recipe.snapshots(data.n_inputs))
    out = initial.new_empty(n_networks, n_draws, n_weights)
    epochs = {}
    if held_out is not None:
        epochs = {name: torch.empty(n_networks).long() for name in ("best_epoch", "n_epochs")}
    chunks = _plan_chunks(architecture, data, recipe, initial, chunk_size)
    with tqdm(total=n_networks * recipe.n_epochs, unit="epoch", disable=not verbose) as bar:
        # Spares every small kernel the bookkeeping of autograd; torch.func.grad works all the same.
        @torch.inference_mode()
        def train(chunk: range) -> None:
            rows = slice(chunk.start, chunk.stop)
            stopping = _make_early_stopping(architecture, held_out, recipe)
            train_chunk(
                _make_networks(architecture, initial[rows], data, recipe),
                _make_order(chunk, data, recipe),
                recipe,
                data.n_inputs,
                out[rows],
                lambda: bar.update(len(chunk)),
                stopping,
            )
            for name, column in epochs.items():
                column[rows] = getattr(stopping, name).to(column)

        run_on_threads(train, chunks, _n_workers(data))
    return Trained(out, epochs)


def train_chunk(
    networks: Networks,
    order: MinibatchOrder,
    recipe: Recipe,
    n_inputs: int,
    out: Tensor,
    report_epoch: Callable[[], None],
    stopping: EarlyStopping | None = None,
) -> None:
    """Train one chunk and record its snapshots.

    Parameters
    ----------
    networks : Networks
    order : MinibatchOrder
    recipe : Recipe
    n_inputs : int
        Number of training inputs.
    out : Tensor of shape (n_networks, n_draws, n_weights)
        Filled with the snapshots.
    report_epoch : callable
        Called after every epoch.
    stopping : EarlyStopping, optional
        Decides after every epoch; the one snapshot is then that of the best.
    """
    optimizer = make_optimizer(
        recipe.optimizer,
        networks.parameters,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    draws = {iteration: draw for draw, iteration in enumerate(recipe.snapshots(n_inputs))}
    n_iterations = recipe.n_iterations(n_inputs)
    iteration = 0
    for _ in range(recipe.n_epochs):
        for rows in order.next_epoch():
            rate = recipe.learning_rate * recipe.schedule(iteration / n_iterations)
            networks.compute_gradient(rows.to(out.device))
            optimizer.step(networks.gradient, rate)
            iteration += 1
            if iteration in draws:
                networks.read_weights(out[:, draws[iteration]])
        report_epoch()
        if stopping is not None:
            networks.read_weights(out[:, 0])
            if stopping.update(out[:, 0]):
                break
    if stopping is not None:
        out[:, 0] = stopping.weights


def run_on_threads(train: Callable[[range], None], chunks: Sequence[range], n_workers: int) -> None:
    """Train all chunks on `n_workers` threads, each with single-threaded kernels."""
    n_threads = torch.get_num_threads()

    def initialize() -> None:
        torch.set_num_threads(1)
        # The running means of neurons that have died decay into denormal numbers, which are slow.
        torch.set_flush_denormal(True)

    with ThreadPoolExecutor(min(n_workers, len(chunks)), initializer=initialize) as pool:
        try:
            for future in [pool.submit(train, chunk) for chunk in chunks]:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(n_threads)


def split_into_chunks(n_networks: int, n_chunks: int, chunk_size: int | None) -> list[range]:
    """Split the networks into consecutive ranges.

    Parameters
    ----------
    n_networks : int
    n_chunks : int
        Least number of ranges, if `chunk_size` is None.
    chunk_size : int or None
        Networks per range.

    Examples
    --------
    >>> split_into_chunks(100, 2, None)
    [range(0, 64), range(64, 100)]
    """
    if chunk_size is None:
        chunk_size = -(-n_networks // n_chunks)
        if chunk_size > _CHUNK_MULTIPLE:  # whole vector registers in elementwise kernels
            chunk_size = -(-chunk_size // _CHUNK_MULTIPLE) * _CHUNK_MULTIPLE
    starts = range(0, n_networks, chunk_size)
    return [range(start, min(start + chunk_size, n_networks)) for start in starts]


def _make_networks(
    architecture: Architecture, weights: Tensor, data: TrainingData, recipe: Recipe
) -> Networks:
    relative_weight = data.relative_weight(weights)
    if architecture.is_mlp and (isinstance(data.loss, str) or data.likelihood is not None):
        return MLPNetworks(
            architecture.stack,
            weights,
            data.X,
            data.y,
            loss=data.loss,
            batch_size=min(recipe.batch_size, data.n_inputs),
            n_orders=1 if recipe.minibatches == "shared" else len(weights),
            sample_weight=relative_weight,
        )
    resolve = resolve_loss if relative_weight is None else resolve_weighted_loss
    return ModuleNetworks(
        architecture, weights, data.X, data.y, resolve(data.loss), relative_weight
    )


def _make_order(chunk: range, data: TrainingData, recipe: Recipe) -> MinibatchOrder:
    return MinibatchOrder(
        recipe.seed,
        chunk,
        n_inputs=data.n_inputs,
        batch_size=recipe.batch_size,
        shared=recipe.minibatches == "shared",
    )


def _make_early_stopping(
    architecture: Architecture, held_out: TrainingData | None, recipe: Recipe
) -> EarlyStopping | None:
    if held_out is None:
        return None
    return EarlyStopping(architecture, held_out, recipe.n_iter_no_change, recipe.tol)


def _n_workers(data: TrainingData) -> int:
    return torch.get_num_threads() if data.X.device.type == "cpu" else 1


def _plan_chunks(
    architecture: Architecture,
    data: TrainingData,
    recipe: Recipe,
    initial: Tensor,
    chunk_size: int | None,
) -> list[range]:
    batch = min(recipe.batch_size, data.n_inputs)
    activations = data.X[0].numel() + 3 * architecture.activations_per_input(data.X)
    n_bytes = (4 * architecture.n_weights + batch * activations) * initial.element_size()
    n_chunks = -(-len(initial) * n_bytes // _CHUNK_BYTES)
    n_workers = _n_workers(data)
    return split_into_chunks(len(initial), -(-n_chunks // n_workers) * n_workers, chunk_size)
