"""Any ``nn.Module`` as a function of its weights: ``torch.func.functional_call`` under ``vmap``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


def call(module: nn.Module, state: Mapping[str, Tensor], X: Tensor) -> Tensor:
    """Run the module with other parameters and buffers; composes with ``torch.func`` transforms.

    ``functional_call`` ties weights by itself, but when one *module* is registered under two names
    it leaves its substitutes behind in the module. Here every module occurs once.

    Parameters
    ----------
    module : nn.Module
        Its own parameters and buffers are used only where `state` has none.
    state : mapping from name to Tensor
        Parameters and buffers of one network. Tied tensors occur under their first name.
    X : Tensor of shape (n_inputs, ...)

    Returns
    -------
    Tensor of shape (n_inputs, n_outputs)
    """
    like = next(iter(state.values()))
    buffers = {name: cast_buffer(buffer, like) for name, buffer in module.named_buffers()}
    state = {**dict(module.named_parameters()), **buffers, **state}
    full = {name: state[first] for name, first in _first_names(module).items()}
    return functional_call(module, full, (X,), tie_weights=False)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Map each place that holds a parameter or buffer to the first name of that tensor."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    first_names = {id(tensor): name for name, tensor in tensors}
    return {
        f"{prefix}.{key}" if prefix else key: first_names[id(tensor)]
        for prefix, submodule in module.named_modules()
        for key, tensor in (submodule._parameters | submodule._buffers).items()
        if tensor is not None
    }


def cast_buffer(buffer: Tensor, like: Tensor) -> Tensor:
    """Move a buffer beside the weights; counters keep their integer dtype."""
    dtype = like.dtype if buffer.is_floating_point() else buffer.dtype
    return buffer.to(like.device, dtype)


@torch.no_grad()
def run_once(module: nn.Module, X: Tensor) -> Tensor:
    """Run the module itself; its output is checked to be ``(n_inputs, n_outputs)``."""
    like = next(module.parameters())
    X = cast_buffer(X, like)
    output = module(X)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(X):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"module must return a tensor of shape (n_inputs, n_outputs), got {got} for inputs of "
            f"shape {tuple(X.shape)}; wrap it in a module that reshapes its output."
        )
    return output


def count_activations(module: nn.Module, X: Tensor) -> int:
    """Count the numbers that all submodules together put out for the inputs `X`."""
    n_numbers = 0

    def count(_module: nn.Module, _inputs: tuple, output: object) -> None:
        nonlocal n_numbers
        n_numbers += output.numel() if isinstance(output, Tensor) else 0

    handles = [submodule.register_forward_hook(count) for submodule in module.modules()]
    try:
        run_once(module, X)
    finally:
        for handle in handles:
            handle.remove()
    return n_numbers
