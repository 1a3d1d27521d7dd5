"""One neural network as a flat vector of weights, and many networks as a matrix of them.

An `Architecture` knows the names and shapes of a module's parameters, turns them into rows of a
matrix and back, and evaluates all rows at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bayesflow_nn.weights.dense import (
    ACTIVATIONS,
    DenseLayer,
    build_mlp,
    dense_forward,
    recognise_mlp,
)
from bayesflow_nn.weights.stateless import call, count_activations, run_once
from bayesflow_nn.weights.validation import (
    check_buffers,
    check_inputs,
    check_integer,
    check_module,
    check_option,
    check_sizes,
    check_tensors,
    check_weights,
)

_CHUNK_BYTES = 64 * 2**20
"""Activations that one chunk of `Architecture.apply` may hold."""


class Architecture:
    """The shape of a neural network: flat weight vector <-> named tensors, and a batched forward.

    The flat order is the order of ``module.named_parameters()``, so
    ``torch.nn.utils.parameters_to_vector`` gives the same vector. A parameter that is tied (used
    under several names) occurs once.

    Parameters
    ----------
    module : nn.Module
        The network. A copy is kept in evaluation mode, so dropout is off and batch normalisation
        uses its running statistics. The output must be ``(n_inputs, n_outputs)``.
    example_input : Tensor of shape (n_inputs, ...), optional
        A batch of inputs; the module is run on it to check the output and find `n_outputs`.

    Attributes
    ----------
    n_weights : int
        Length of the flat vector.
    names, shapes : tuple
        Names and shapes of the parameters, in flat order.
    module : nn.Module
        The copy of the module; not to be modified.
    stack : DenseStack or None
        The module's dense layers, if it is a multilayer perceptron.
    buffer_shapes : dict from str to torch.Size
        Shapes of the buffers, for example batch-norm statistics.
    n_outputs : int or None
        Number of outputs; None if neither the module nor `example_input` tells.

    Raises
    ------
    TypeError
        If `module` is no ``nn.Module``.
    ValueError
        If the module has no parameters, parameters of several dtypes, or a wrong output.

    Examples
    --------
    >>> import torch
    >>> from bayesflow_nn.weights import Architecture
    >>> mlp = Architecture.mlp([4, 16, 3])
    >>> mlp.n_weights, mlp.sizes
    (131, (4, 16, 3))
    >>> mlp.apply(torch.zeros(10, 131), torch.zeros(5, 4)).shape
    torch.Size([10, 5, 3])
    """

    def __init__(self, module: nn.Module, example_input: Tensor | None = None) -> None:
        check_module(module)
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        parameters = dict(self.module.named_parameters())
        self.names = tuple(parameters)
        self.shapes = tuple(parameter.shape for parameter in parameters.values())
        self.n_weights = sum(shape.numel() for shape in self.shapes)
        self.buffer_shapes = {name: b.shape for name, b in self.module.named_buffers()}
        self.example_input = example_input
        self.stack = recognise_mlp(self.module)
        self.n_outputs = self._find_n_outputs()

    @classmethod
    def mlp(
        cls, sizes: Sequence[int], activation: str = "relu", *, bias: bool = True
    ) -> Architecture:
        """Multilayer perceptron: dense layers with an activation between them.

        Parameters
        ----------
        sizes : sequence of int
            Numbers of inputs, hidden neurons of each layer, and outputs.
        activation : str
            "relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid" or "identity".
        bias : bool
            Whether the layers have biases.

        Raises
        ------
        ValueError
            If there are fewer than two sizes, one is no positive integer, or the activation is
            unknown.

        Examples
        --------
        >>> Architecture.mlp([2, 8, 1], activation="tanh")
        Architecture.mlp([2, 8, 1], activation='tanh')
        """
        check_option("activation", activation, tuple(ACTIVATIONS))
        return cls(build_mlp(check_sizes(sizes), activation, bias))

    @property
    def is_mlp(self) -> bool:
        """Whether the module is a ``Sequential`` of `Linear` layers and one activation."""
        return self.stack is not None

    @property
    def layers(self) -> tuple[DenseLayer, ...]:
        """Place of each dense layer in the flat vector; empty unless `is_mlp`."""
        return self.stack.layers if self.is_mlp else ()

    @property
    def activation(self) -> str | None:
        """Name of the hidden activation; None unless `is_mlp`."""
        return self.stack.activation if self.is_mlp else None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Numbers of inputs, hidden neurons and outputs; None unless `is_mlp`."""
        if not self.is_mlp:
            return None
        return (self.layers[0].n_in, *(layer.n_out for layer in self.layers))

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the module's parameters."""
        return next(self.module.parameters()).dtype

    @property
    def own_weights(self) -> Tensor:
        """Weights ``(n_weights,)`` of the module that was given; zeros from `mlp`."""
        return nn.utils.parameters_to_vector(self.module.parameters()).detach().clone()

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors of many networks into flat weight vectors.

        Parameters
        ----------
        tensors : mapping from name to Tensor of shape (n_networks, *shape)
            One entry per name in `names`.

        Returns
        -------
        Tensor of shape (n_networks, n_weights)

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is wrong.

        Examples
        --------
        >>> mlp = Architecture.mlp([2, 3, 1])
        >>> weights = torch.randn(5, mlp.n_weights)
        >>> torch.equal(mlp.flatten(mlp.unflatten(weights)), weights)
        True
        """
        check_tensors(tensors, dict(zip(self.names, self.shapes, strict=True)))
        return torch.cat([tensors[name].flatten(1) for name in self.names], dim=1)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Split flat weight vectors into named tensors; the inverse of `flatten`.

        Parameters
        ----------
        weights : Tensor of shape (n_networks, n_weights)

        Returns
        -------
        dict from name to Tensor of shape (n_networks, *shape)
        """
        check_weights(weights, self.n_weights)
        pieces = weights.split([shape.numel() for shape in self.shapes], dim=1)
        return {
            name: piece.reshape(-1, *shape)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }

    def apply(
        self,
        weights: Tensor,
        X: Tensor,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Run all networks on all inputs, in evaluation mode.

        Differentiable in `weights` and `X`, also by ``torch.func`` transforms.

        Parameters
        ----------
        weights : Tensor of shape (n_networks, n_weights)
            One network per row.
        X : Tensor of shape (n_inputs, ...)
            Inputs, the same for every network. Floating inputs are cast to the dtype of `weights`.
        buffers : mapping from name to Tensor of shape (n_networks, *shape), optional
            Buffers of every network; those left out are the module's own.
        chunk_size : int, optional
            Networks evaluated together, which bounds the memory for activations; by default as
            many as fit in 64 MiB.

        Returns
        -------
        Tensor of shape (n_networks, n_inputs, n_outputs)
            Logits, or regression means.

        Raises
        ------
        TypeError
            If `weights` or `X` is no tensor.
        ValueError
            If `weights` or `X` has a wrong shape, a buffer is unknown, or `chunk_size` is no
            positive integer.
        """
        check_weights(weights, self.n_weights)
        check_inputs(X, self.sizes[0] if self.is_mlp else None)
        buffers = check_buffers(buffers, self.buffer_shapes, len(weights))
        X = X.to(weights.dtype) if X.is_floating_point() else X
        if chunk_size is None:
            chunk_size = self.networks_per_chunk(X, weights.element_size())
        check_integer("chunk_size", chunk_size)
        chunks = [
            self._apply_chunk(
                weights[i : i + chunk_size],
                X,
                {name: buffer[i : i + chunk_size] for name, buffer in buffers.items()},
            )
            for i in range(0, weights.shape[0], chunk_size)
        ]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def activations_per_input(self, X: Tensor) -> int:
        """Count the numbers that all layers together put out for one of the inputs `X`."""
        return sum(self.sizes[1:]) if self.is_mlp else count_activations(self.module, X[:1])

    def networks_per_chunk(self, X: Tensor, itemsize: int) -> int:
        """Return how many networks `apply` evaluates together, at `itemsize` bytes per number."""
        n_bytes = self.activations_per_input(X) * len(X) * itemsize
        return max(1, _CHUNK_BYTES // max(1, n_bytes))

    def call(
        self, weights_row: Tensor, X: Tensor, *, buffers: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Run one network, in evaluation mode; composes with ``torch.func`` transforms.

        Parameters
        ----------
        weights_row : Tensor of shape (n_weights,)
            One network.
        X : Tensor of shape (n_inputs, ...)
            Inputs.
        buffers : mapping from name to Tensor of shape (*shape,), optional
            Buffers of that network; those left out are the module's own.

        Returns
        -------
        Tensor of shape (n_inputs, n_outputs)

        Examples
        --------
        >>> mlp = Architecture.mlp([2, 3, 1])
        >>> torch.func.grad(lambda w: mlp.call(w, torch.ones(5, 2)).sum())(torch.ones(13)).shape
        torch.Size([13])
        """
        pieces = weights_row.split([shape.numel() for shape in self.shapes])
        state = {
            name: piece.reshape(shape)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }
        return call(self.module, {**state, **(buffers or {})}, X)

    def to_module(
        self, weights_row: Tensor, buffers: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """Copy of the module with the given weights, in evaluation mode.

        Parameters
        ----------
        weights_row : Tensor of shape (n_weights,)
            One network.
        buffers : mapping from name to Tensor of shape (*shape,), optional
            Buffers of that network.

        Examples
        --------
        >>> module = Architecture.mlp([2, 3, 1]).to_module(torch.arange(13.0))
        >>> torch.nn.utils.parameters_to_vector(module.parameters())[-1].item()
        12.0
        """
        if weights_row.shape != (self.n_weights,):
            raise ValueError(
                f"weights_row must have shape ({self.n_weights},), got {tuple(weights_row.shape)}; "
                f"pick one network, for example weights[0]."
            )
        own = {name: buffer[None] for name, buffer in (buffers or {}).items()}
        module = copy.deepcopy(self.module).to(weights_row).requires_grad_(True)
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        own = check_buffers(own, self.buffer_shapes, 1) | self.unflatten(weights_row[None])
        with torch.no_grad():
            for name, tensor in own.items():
                state[name].copy_(tensor[0])
        return module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        if self.is_mlp:
            bias = "" if self.layers[0].bias else ", bias=False"
            return f"Architecture.mlp({list(self.sizes)}, activation={self.activation!r}{bias})"
        return f"Architecture({type(self.module).__name__}, n_weights={self.n_weights})"

    @property
    def _key(self) -> tuple:
        kind = type(self.module)
        return kind.__module__, kind.__qualname__, repr(self.module), self.names, self.shapes

    def _apply_chunk(self, weights: Tensor, X: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
        if self.stack is not None:
            return dense_forward(self.stack, weights, X)
        run = torch.vmap(lambda row, own: self.call(row, X, buffers=own))
        return run(weights, dict(buffers))

    def _find_n_outputs(self) -> int | None:
        if self.example_input is not None:
            return run_once(self.module, self.example_input).shape[1]
        return self.layers[-1].n_out if self.is_mlp else None
