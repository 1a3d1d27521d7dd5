"""Runs a traced module with the units of every activation beside its values.

The units of an activation are an array of its shape. Operations that only move elements move the
units likewise; the others say what they tie. An operation that is not listed here is refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from bayesflow_nn.symmetry.units import FIXED, Units


class UnsupportedOperationError(ValueError):
    """An operation whose symmetries are not known; the message names it and its line."""


@dataclass(frozen=True)
class Labelled:
    """An activation and the units of its elements, in one shape."""

    value: Tensor
    units: np.ndarray


class Propagation(fx.Interpreter):
    """Interpreter that keeps account of units.

    Parameters
    ----------
    graph_module : fx.GraphModule
    module : nn.Module
        What was traced. Its parameters and buffers can be moved; constants of the trace cannot.

    Attributes
    ----------
    units : Units
    axes : dict of (str, int) to ndarray
        Units along an axis of a parameter or buffer.
    event : int
        Number of the operation that is being run.
    """

    extra_traceback = False  # the errors below say themselves where they come from

    def __init__(self, graph_module: fx.GraphModule, module: nn.Module) -> None:
        super().__init__(graph_module)
        self.units = Units()
        self.axes: dict[tuple[str, int], np.ndarray] = {}
        self.event, self._node = 0, None
        self._elements: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._names.setdefault(id(tensor), name)

    def propagate(self, *example: Tensor) -> None:
        """Run on an example and tie what belongs together."""
        with torch.no_grad():
            outputs = self.run(*example)
        for output in _labelled(outputs):
            self.units.fix(output.units)
        self._tie_elements()

    def run_node(self, node: fx.Node) -> Any:
        """Execute one node under an event of its own."""
        self.event, self._node = self.event + 1, node
        try:
            result = super().run_node(node)
        except UnsupportedOperationError as error:
            raise UnsupportedOperationError(f"{error}{_source_line(node)}") from None
        for part in _labelled(result):
            self.units.mark(part.units, self.event)
        return result

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Inputs are fixed."""
        return _fixed(super().placeholder(target, args, kwargs))

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Give parameters and buffers units of their own, one per element at first."""
        value = super().get_attr(target, args, kwargs)
        name = self._names.get(id(value))
        if name is None or not value.is_floating_point() or _is_weight(self._node):
            return _fixed(value)
        if name not in self._elements:
            units = self.units.new(value.numel(), 0).reshape(value.shape)
            self._elements[name] = units
        return Labelled(value, self._elements[name])

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Tie what a layer ties."""
        module = self.fetch_attr(target)
        rule = next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
        if rule is None:
            raise UnsupportedOperationError(f"module {target!r} of type {type(module).__name__}")
        return rule(self, module, *args, **kwargs)

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        """Tie what a function ties."""
        is_container = target is operator.getitem and not isinstance(args[0], Labelled)
        if is_container or not _labelled((args, kwargs)):
            return target(*args, **kwargs)
        if target is getattr:
            return _attribute(*args)
        if target not in FUNCTIONS:
            name = getattr(target, "__name__", target)
            raise UnsupportedOperationError(f"function {name!r}")
        return FUNCTIONS[target](self, *args, **kwargs)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Tie what a method ties."""
        if not isinstance(args[0], Labelled):
            return super().call_method(target, args, kwargs)
        if target in ("size", "dim", "numel"):
            return getattr(args[0].value, target)(*args[1:], **kwargs)
        if target not in METHODS:
            raise UnsupportedOperationError(f"method {target!r}")
        return METHODS[target](self, *args, **kwargs)

    def make(self, value: Tensor, axis: int, n: int) -> np.ndarray:
        """New units along one axis of an activation."""
        return _along(self.units.new(n, self.event), axis, value.shape)

    def reduce(self, units: np.ndarray, axis: int) -> np.ndarray:
        """Units along one axis, after tying all that have the same place on it."""
        rows = np.moveaxis(units, axis, -1).reshape(-1, units.shape[axis])
        self.units.unify(rows, rows[0])
        return self.units.resolve(rows[0])

    def record(self, tensor: Tensor | None, axis: int, units: np.ndarray) -> None:
        """Note the units along an axis of a parameter or buffer."""
        if tensor is None:
            return
        if id(tensor) not in self._names:
            raise UnsupportedOperationError("a computed weight, which is no parameter itself")
        key = self._names[id(tensor)], axis
        if key in self.axes:
            self.units.unify(units, self.axes[key])
        self.axes[key] = units
        self.units.mark(units, 2**32 + 1000 * list(self.axes).index(key))

    def _tie_elements(self) -> None:
        """Sort parameters that were used as activations into axes; fix what does not fit."""
        for name, units in self._elements.items():
            moved = self.units.resolve(units)
            varying = [axis for axis in range(moved.ndim) if (moved != moved.take([0], axis)).any()]
            if len(varying) == 1:
                axis = varying[0]
                self.axes[name, axis] = self.reduce(units, axis)
            elif varying:
                self.units.fix(units)


def _labelled(value: Any) -> list[Labelled]:
    """All activations inside of a nested value."""
    found: list[Labelled] = []
    fx.node.map_aggregate(
        value, lambda part: found.append(part) if isinstance(part, Labelled) else part
    )
    return found


def _values(value: Any) -> Any:
    return fx.node.map_aggregate(
        value, lambda part: part.value if isinstance(part, Labelled) else part
    )


def _fixed(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return Labelled(value, np.full(value.shape, FIXED))


def _along(units: np.ndarray, axis: int, shape: torch.Size) -> np.ndarray:
    """Array of this shape with units that depend on one axis alone."""
    view = [1] * len(shape)
    view[axis] = len(units)
    return np.broadcast_to(units.reshape(view), shape)


def _is_weight(node: fx.Node) -> bool:
    """Whether a parameter is used by dense layers alone, which record it."""
    return all(
        user.target is functional.linear and node not in user.args[:1] for user in node.users
    )


def _attribute(labelled: Labelled, name: str) -> Any:
    if name in ("shape", "ndim", "device", "dtype"):
        return getattr(labelled.value, name)
    if name in ("T", "mT"):
        units = labelled.units.swapaxes(-1, -2)
        return Labelled(getattr(labelled.value, name), units)
    raise UnsupportedOperationError(f"attribute {name!r}")


def _source_line(node: fx.Node) -> str:
    """Where the module calls the operation, as far as the trace knows, and what to do."""
    frames = re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")
    own = [f"{file}, line {line}" for file, line in frames if "/torch/" not in file]
    where = f" ({own[-1]})" if own else ""
    return (
        f"{where} has no rule here; replace the operation, or give the symmetries by hand "
        f"(groups=[PermutationGroup(...)])."
    )


# --- rules: the first argument is the propagation, the others are those of the operation ----------


def _same(function: Callable) -> Callable:
    """Rule of a function of each element alone."""

    def rule(run: Propagation, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
        if _labelled((args, kwargs)):
            raise UnsupportedOperationError(f"{_name(function)!r} with a tensor as an option")
        return Labelled(function(x.value, *args, **kwargs), x.units)

    return rule


def _moved(function: Callable, for_units: Callable | None = None) -> Callable:
    """Rule of a function that only moves elements: it moves their units likewise."""
    for_units = for_units or function

    def rule(run: Propagation, *args: Any, **kwargs: Any) -> Any:
        values = function(*_values(args), **_values(kwargs))
        as_units = fx.node.map_aggregate(
            (args, kwargs),
            lambda part: (
                torch.as_tensor(np.array(part.units)) if isinstance(part, Labelled) else part
            ),
        )
        units = for_units(*as_units[0], **as_units[1])
        if isinstance(values, Tensor):
            return Labelled(values, units.numpy())
        return tuple(Labelled(v, u.numpy()) for v, u in zip(values, units, strict=True))

    return rule


def _combined(function: Callable) -> Callable:
    """Rule of a function of two tensors, element by element."""

    def rule(run: Propagation, x: Any, y: Any, **kwargs: Any) -> Labelled:
        value = function(*_values((x, y)), **_values(kwargs))
        if not (isinstance(x, Labelled) and isinstance(y, Labelled)):
            tensor = x if isinstance(x, Labelled) else y
            return Labelled(value, tensor.units)
        return Labelled(value, _tie_operands(run, x.units, y.units, value.shape))

    return rule


def _tie_operands(run: Propagation, x: np.ndarray, y: np.ndarray, shape: torch.Size) -> np.ndarray:
    """Units of a combination; what is combined element by element moves together."""
    x, y = (run.units.resolve(units) for units in (x, y))
    for units, other in ((x, y), (y, x)):
        if not (other != FIXED).any():
            # The same constant for all that can move leaves them free; others hold them in place.
            free = _varying(units)
            if all(_size(other, axis) == 1 for axis in free):
                return np.broadcast_to(units, shape)
    run.units.unify(x, y)
    return run.units.resolve(np.broadcast_to(x, shape))


def _varying(units: np.ndarray) -> list[int]:
    """Axes, counted from the last, along which units vary."""
    return [
        axis - units.ndim for axis in range(units.ndim) if (units != units.take([0], axis)).any()
    ]


def _size(array: np.ndarray, axis: int) -> int:
    return array.shape[axis] if -axis <= array.ndim else 1


def _linear(run: Propagation, x: Labelled, weight: Labelled | Tensor, bias: Any = None) -> Labelled:
    weight, bias = _values((weight, bias))
    value = functional.linear(x.value, weight, bias)
    run.record(weight, 1, run.reduce(x.units, -1))
    units = run.make(value, value.ndim - 1, len(weight))
    return _record_output(run, value, units, weight, bias, -1)


def _record_output(
    run: Propagation,
    value: Tensor,
    units: np.ndarray,
    weight: Tensor,
    bias: Tensor | None,
    axis: int,
) -> Labelled:
    made = run.reduce(units, axis)
    run.record(weight, 0, made)
    run.record(bias, 0, made)
    return Labelled(value, run.units.resolve(units))


def _linear_module(run: Propagation, module: nn.Linear, x: Labelled) -> Labelled:
    return _linear(run, x, module.weight, module.bias)


def _convolution(run: Propagation, module: nn.modules.conv._ConvNd, x: Labelled) -> Labelled:
    if module.transposed:
        raise UnsupportedOperationError(f"module of type {type(module).__name__}")
    value, weight, bias = module(x.value), module.weight, module.bias
    channels = run.reduce(x.units, 1)
    if module.groups == 1:
        run.record(weight, 1, channels)
        return _record_output(run, value, run.make(value, 1, len(weight)), weight, bias, 1)
    if module.groups == module.in_channels == module.out_channels:
        return _record_output(run, value, _along(channels, 1, value.shape), weight, bias, 1)
    # Whole groups may trade places, and output channels inside of them; the order of the inputs
    # inside of a group is left alone.
    blocks = run.units.new(module.groups, run.event)
    n_inputs = module.in_channels // module.groups
    run.units.adopt(channels, np.repeat(blocks, n_inputs))
    for place, same_place in enumerate(channels.reshape(module.groups, n_inputs).T):
        run.units.mark(same_place, 2**40 + place)
    units = run.make(value, 1, module.out_channels)
    run.units.adopt(run.reduce(units, 1), np.repeat(blocks, module.out_channels // module.groups))
    return _record_output(run, value, units, weight, bias, 1)


def _batch_norm(run: Propagation, module: nn.modules.batchnorm._BatchNorm, x: Labelled) -> Labelled:
    channels = run.reduce(x.units, 1)
    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
        run.record(tensor, 0, channels)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _layer_norm(run: Propagation, module: nn.LayerNorm | nn.RMSNorm, x: Labelled) -> Labelled:
    if len(module.normalized_shape) > 1:
        run.units.fix(x.units)  # which axes could be permuted is not followed
    else:
        features = run.reduce(x.units, -1)
        run.record(module.weight, 0, features)
        run.record(getattr(module, "bias", None), 0, features)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _group_norm(run: Propagation, module: nn.GroupNorm, x: Labelled) -> Labelled:
    channels = run.reduce(x.units, 1)
    if 1 < module.num_groups < len(channels):
        blocks = run.units.new(module.num_groups, run.event)
        run.units.adopt(channels, np.repeat(blocks, len(channels) // module.num_groups))
    run.record(module.weight, 0, channels)
    run.record(module.bias, 0, channels)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _pooled(
    run: Propagation, function: Callable, x: Labelled, *args: Any, **kwargs: Any
) -> Labelled:
    """Rule of what reduces or moves places inside of channels."""
    value = function(x.value, *args, **kwargs)
    return Labelled(value, _along(run.reduce(x.units, 1), 1, value.shape))


def _pooling_module(run: Propagation, module: nn.Module, x: Labelled) -> Labelled:
    return _pooled(run, module, x)


def _pooling(function: Callable) -> Callable:
    return lambda run, x, *args, **kwargs: _pooled(run, function, x, *args, **kwargs)


def _mean(function: Callable) -> Callable:
    """Rule of a symmetric reduction over axes."""

    def rule(run: Propagation, x: Labelled, dim: Any = None, keepdim: bool = False) -> Labelled:
        value = function(x.value, dim=dim, keepdim=keepdim)
        units = x.units
        axes = range(units.ndim) if dim is None else np.atleast_1d(dim) % units.ndim
        for axis in axes:
            units = _reduce_symmetrically(run, units, axis)
        return Labelled(value, units.reshape(value.shape))

    return rule


def _reduce_symmetrically(run: Propagation, units: np.ndarray, axis: int) -> np.ndarray:
    """Units after a sum over one axis, which keeps the length 1."""
    units = run.units.resolve(units)
    rows = np.moveaxis(units, axis, -1).reshape(-1, units.shape[axis])
    first = units.take([0], axis)
    if (rows == rows[0]).all() and (rows != rows[:, :1]).any():
        return np.full_like(first, FIXED)  # the same features everywhere: their order is forgotten
    run.units.unify(units, first)
    return run.units.resolve(first)


def _embedding(run: Propagation, module: nn.Embedding, x: Labelled) -> Labelled:
    value = module(x.value)
    units = run.make(value, value.ndim - 1, module.embedding_dim)
    run.record(module.weight, 1, run.reduce(units, -1))
    return Labelled(value, run.units.resolve(units))


def _matmul(run: Propagation, x: Labelled, y: Labelled) -> Labelled:
    value = x.value @ y.value
    if x.value.ndim < 2 or y.value.ndim < 2:
        raise UnsupportedOperationError("a product with a vector")
    a, b = run.units.resolve(x.units), run.units.resolve(y.units)
    contracted = (a != a[..., :1]).any() or (b != b[..., :1, :]).any()
    if contracted:
        return Labelled(value, _contract(run, a, b, value.shape))
    # Nothing varies along the contracted axis, as in a sum over tokens: the pairs that meet.
    return Labelled(value, _pair(run, a[..., :1], b[..., :1, :], value.shape))


def _contract(run: Propagation, a: np.ndarray, b: np.ndarray, shape: torch.Size) -> np.ndarray:
    """Units of inner products: features that meet move together, inside of the product's unit."""
    left, right = a[..., :1, :], b[..., :1].swapaxes(-1, -2)
    run.units.unify(a, left)
    run.units.unify(b.swapaxes(-1, -2), right)
    run.units.unify(left, right)
    features = run.units.resolve(np.broadcast_arrays(left, right)[0])
    if not (features != FIXED).any():
        return np.full(shape, FIXED)
    keys, inverse = np.unique(features.reshape(-1, features.shape[-1]), axis=0, return_inverse=True)
    products = run.units.new(len(keys), run.event)
    if len(keys) > 1:
        run.units.adopt(keys, products[:, None])
        made = products[inverse.reshape(features.shape[:-1])]
    else:
        made = np.full(features.shape[:-1], FIXED)
    return np.broadcast_to(made[..., None], shape)


def _pair(run: Propagation, a: np.ndarray, b: np.ndarray, shape: torch.Size) -> np.ndarray:
    """Units of sums over products: of two that meet, the finer one moves inside the other."""
    a, b = np.broadcast_arrays(a, b)
    if not (a != FIXED).any():
        return np.broadcast_to(b, shape)
    if not (b != FIXED).any():
        return np.broadcast_to(a, shape)
    fine, coarse = (a, b) if len(np.unique(a)) > len(np.unique(b)) else (b, a)
    run.units.adopt(fine, coarse)
    return np.broadcast_to(run.units.resolve(fine), shape)


def _scaled_dot_product_attention(
    run: Propagation, q: Labelled, k: Labelled, v: Labelled, *args: Any, **kwargs: Any
) -> Labelled:
    value = functional.scaled_dot_product_attention(*_values((q, k, v, *args)), **_values(kwargs))
    scores = q.value @ k.value.mT
    a, b = run.units.resolve(q.units), run.units.resolve(k.units.swapaxes(-1, -2))
    heads = _contract(run, a, b, scores.shape)
    mask = kwargs.get("attn_mask", args[0] if args else None)
    if isinstance(mask, Labelled):
        heads = _tie_operands(run, heads, mask.units, scores.shape)
    return Labelled(
        value, _pair(run, heads[..., :1], run.units.resolve(v.units[..., :1, :]), value.shape)
    )


def _attention_module(
    run: Propagation,
    module: nn.MultiheadAttention,
    query: Labelled,
    key: Labelled,
    value: Labelled,
    **options: Any,
) -> tuple[Labelled, None]:
    """`nn.MultiheadAttention`, from its parts."""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UnsupportedOperationError("nn.MultiheadAttention with kdim, add_bias_kv or zero_attn")
    output, weights = module(*_values((query, key, value)), **_values(options))
    if weights is not None:
        weights = Labelled(weights, np.full(weights.shape, FIXED))
    stream = run.reduce(query.units, -1)
    run.units.unify(stream, run.reduce(key.units, -1))
    run.units.unify(stream, run.reduce(value.units, -1))
    run.record(module.in_proj_weight, 1, run.units.resolve(stream))
    projected = run.units.new(3 * module.embed_dim, run.event)
    q, k, v = projected.reshape(3, module.num_heads, module.head_dim)
    run.units.unify(q, k)
    run.units.mark(v, 2**41 + run.event)  # q and k are told from v
    if module.num_heads > 1:
        heads = run.units.new(module.num_heads, run.event)[:, None]
        run.units.adopt(q, heads)
        run.units.adopt(v, heads)
    run.record(module.in_proj_weight, 0, projected)
    run.record(module.in_proj_bias, 0, projected)
    run.record(module.out_proj.weight, 1, v.flatten())
    made = run.units.new(module.embed_dim, run.event)
    run.record(module.out_proj.weight, 0, made)
    run.record(module.out_proj.bias, 0, made)
    return Labelled(output, _along(made, output.ndim - 1, output.shape)), weights


def _softmax(run: Propagation, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
    kwargs.pop("_stacklevel", None)
    return Labelled(functional.softmax(x.value, *args, **kwargs), x.units)


def _dropout(run: Propagation, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
    return x


def _module_of_elements(run: Propagation, module: nn.Module, x: Labelled) -> Labelled:
    return Labelled(module(x.value), x.units)


def _prelu(run: Propagation, module: nn.PReLU, x: Labelled) -> Labelled:
    if module.num_parameters > 1:
        run.record(module.weight, 0, run.reduce(x.units, 1))
    return Labelled(module(x.value), run.units.resolve(x.units))


def _flatten_module(run: Propagation, module: nn.Module, x: Labelled) -> Labelled:
    return _moved(module)(run, x)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", str(function))


_ELEMENT_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.Softplus,
    nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Identity, nn.Softmax,
    nn.LogSoftmax, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
)  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip

MODULES: dict[type, Callable] = {
    nn.Linear: _linear_module,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention_module,
    nn.PReLU: _prelu,
    nn.Flatten: _flatten_module,
    nn.Unflatten: _flatten_module,
    **dict.fromkeys(_ELEMENT_MODULES, _module_of_elements),
    **dict.fromkeys(_POOLING_MODULES, _pooling_module),
}
"""Rules of layers."""

_ELEMENTWISE = (
    functional.relu, functional.gelu, functional.silu, functional.leaky_relu, functional.elu,
    functional.softplus, functional.hardtanh, functional.relu6, functional.hardswish,
    functional.mish, torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, torch.rsqrt,
    torch.abs, torch.neg, torch.square, torch.clone, torch.clamp, torch.erf, operator.neg,
    functional.sigmoid, functional.tanh,
)  # fmt: skip
_BINARY = (
    torch.add, torch.sub, torch.mul, torch.div, operator.add, operator.sub, operator.mul,
    operator.truediv, operator.iadd, operator.imul, torch.maximum, torch.minimum,
)  # fmt: skip
_MOVING = (
    torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.cat, torch.concat,
    torch.stack, torch.chunk, torch.split, torch.unbind, torch.squeeze, torch.unsqueeze,
    operator.getitem, torch.movedim, torch.swapaxes, torch.unflatten, torch.tensor_split,
)  # fmt: skip
_POOLING = (
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.avg_pool1d,
    functional.avg_pool2d, functional.avg_pool3d, functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d, functional.adaptive_max_pool1d, functional.interpolate,
    functional.adaptive_max_pool2d,
)  # fmt: skip

FUNCTIONS: dict[Callable, Callable] = {
    functional.linear: _linear,
    functional.softmax: _softmax,
    torch.softmax: _softmax,
    functional.log_softmax: _same(functional.log_softmax),
    functional.dropout: _dropout,
    torch.matmul: _matmul,
    torch.bmm: _matmul,
    operator.matmul: _matmul,
    functional.scaled_dot_product_attention: _scaled_dot_product_attention,
    torch.mean: _mean(torch.mean),
    torch.sum: _mean(torch.sum),
    operator.pow: _same(operator.pow),
    torch.pow: _same(torch.pow),
    **{function: _same(function) for function in _ELEMENTWISE},
    **{function: _combined(function) for function in _BINARY},
    **{function: _moved(function) for function in _MOVING},
    **{function: _pooling(function) for function in _POOLING},
}
"""Rules of functions."""


def _method(name: str) -> Callable:
    def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(tensor, name)(*args, **kwargs)

    call.__name__ = name
    return call


_ELEMENT_METHODS = (
    "relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "abs", "neg", "square", "clone", "clamp",
    "contiguous", "float", "double", "pow", "detach", "type_as",
)  # fmt: skip
_MOVING_METHODS = (
    "reshape", "flatten", "permute", "transpose", "chunk", "split", "unbind", "squeeze",
    "unsqueeze", "expand", "repeat", "movedim", "swapaxes", "unflatten", "tensor_split", "t",
)  # fmt: skip

METHODS: dict[str, Callable] = {
    "view": _moved(_method("view"), _method("reshape")),  # units need not have the strides
    "matmul": _matmul,
    "bmm": _matmul,
    "softmax": _softmax,
    "mean": _mean(torch.mean),
    "sum": _mean(torch.sum),
    **{name: _combined(_method(name)) for name in ("add", "sub", "mul", "div", "add_", "mul_")},
    **{name: _same(_method(name)) for name in _ELEMENT_METHODS},
    **{name: _moved(_method(name)) for name in _MOVING_METHODS},
}
"""Rules of methods."""
