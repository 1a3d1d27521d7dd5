"""Initial weights of many networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.minibatches import BLOCK_SIZE
from bayesflow_nn.weights.population import WeightPopulation
from bayesflow_nn.weights.random_state import stream
from bayesflow_nn.weights.validation import as_tensor, check_weights

INITS = ("normal", "kaiming", "xavier", "module")

_INITIALIZATION = 0


def draw_initial_weights(
    architecture: Architecture,
    init: str,
    init_variance: float,
    *,
    n_networks: int,
    seed: int,
    dtype: torch.dtype,
) -> Tensor:
    """Draw independent initial weights; those of a network depend on the seed and its index only.

    Parameters
    ----------
    architecture : Architecture
    init : {"normal", "kaiming", "xavier", "module"}
        "normal": every weight from N(0, `init_variance`). "kaiming" and "xavier": weights from
        N(0, 2 / fan_in) and N(0, 2 / (fan_in + fan_out)), biases zero, one-dimensional scales as
        the module has them. "module": as `reset_parameters` of the module draws them.
    init_variance : float
        Variance of "normal".
    n_networks, seed : int
    dtype : torch.dtype

    Returns
    -------
    Tensor of shape (n_networks, n_weights)
    """
    if init == "module" and not architecture.is_mlp:
        return _reset_modules(architecture, n_networks, seed).to(dtype)
    if init == "module":
        mean, scale = torch.zeros(architecture.n_weights), _linear_bounds(architecture)
    elif init == "normal":
        mean = torch.zeros(architecture.n_weights)
        scale = torch.full_like(mean, init_variance**0.5)
    else:
        mean, scale = _fan_scales(architecture, gain="in" if init == "kaiming" else "mean")
    draw = _draw_uniform if init == "module" else _draw_normal
    kind = np.float64 if dtype == torch.float64 else np.float32
    blocks = [draw(rng, (n, architecture.n_weights), kind) for rng, n in _blocks(seed, n_networks)]
    noise = torch.from_numpy(np.concatenate(blocks)).to(dtype)
    return noise.mul_(scale.to(dtype)).add_(mean.to(dtype))


def _blocks(seed: int, n_networks: int) -> Iterator[tuple[np.random.Generator, int]]:
    for start in range(0, n_networks, BLOCK_SIZE):
        rng = stream(seed, _INITIALIZATION, start // BLOCK_SIZE)
        yield rng, min(BLOCK_SIZE, n_networks - start)


def _draw_normal(rng: np.random.Generator, shape: tuple[int, int], kind: type) -> np.ndarray:
    return rng.standard_normal(shape, dtype=kind)


def _draw_uniform(rng: np.random.Generator, shape: tuple[int, int], kind: type) -> np.ndarray:
    return 2 * rng.random(shape, dtype=kind) - 1


def _linear_bounds(architecture: Architecture) -> Tensor:
    """Bound 1 / sqrt(fan_in) of the uniform distribution that `nn.Linear` draws from."""
    bounds = torch.empty(architecture.n_weights)
    for layer in architecture.layers:
        for columns in filter(None, (layer.weight, layer.bias)):
            bounds[columns] = layer.n_in**-0.5
    return bounds


def _fan_scales(architecture: Architecture, gain: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every weight."""
    means, scales = [], []
    module = architecture.to_module(architecture.own_weights)
    for name, own in module.named_parameters():
        if own.ndim < 2:
            means.append(torch.zeros_like(own) if name.endswith("bias") else own)
            scales.append(torch.zeros_like(own))
            continue
        fan_in, fan_out = own[0].numel(), own.shape[0] * own[0, 0].numel()
        fan = fan_in if gain == "in" else (fan_in + fan_out) / 2
        means.append(torch.zeros_like(own))
        scales.append(torch.full_like(own, (2 if gain == "in" else 1) ** 0.5 * fan**-0.5))
    return torch.nn.utils.parameters_to_vector(means), torch.nn.utils.parameters_to_vector(scales)


def _reset_modules(architecture: Architecture, n_networks: int, seed: int) -> Tensor:
    """Run every submodule's `reset_parameters`, which knows no generator but the global one."""
    module = architecture.to_module(architecture.own_weights)
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, _INITIALIZATION).integers(2**62)))
        for _ in range(n_networks):
            for submodule in module.modules():
                if hasattr(submodule, "reset_parameters"):
                    submodule.reset_parameters()
            rows.append(torch.nn.utils.parameters_to_vector(module.parameters()).detach())
    return torch.stack(rows)


def read_init(
    init: ArrayLike | Tensor | WeightPopulation,
    architecture: Architecture,
    name: str,
    n: int | None,
) -> Tensor:
    """Return given initial weights ``(n_networks, n_weights)``, or raise unless they fit.

    Parameters
    ----------
    init : array, Tensor or WeightPopulation
    architecture : Architecture
    name : str
        What the caller calls the number of networks.
    n : int or None
        Their number, if it was given.
    """
    if isinstance(init, WeightPopulation) and init.architecture != architecture:
        raise ValueError(
            f"init is a population of {init.architecture!r}, expected {architecture!r}."
        )
    weights = init.weights if isinstance(init, WeightPopulation) else as_tensor(init)
    check_weights(weights, architecture.n_weights)
    if n not in (None, len(weights)):
        raise ValueError(f"{name} is {n}, but init holds {len(weights)} networks.")
    return weights
