"""How functions and methods of tensors tie the units of their operands."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from bayesflow_nn.symmetry.labelled import (
    Labelled,
    Rule,
    Run,
    UnsupportedOperationError,
    along,
    find_labelled,
    fixed,
    values_of,
)
from bayesflow_nn.symmetry.units import FIXED


def _same(function: Callable) -> Callable:
    """Rule of a function of each element alone."""

    def rule(run: Run, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
        if find_labelled((args, kwargs)):
            raise UnsupportedOperationError(f"{_name(function)!r} with a tensor as an option")
        return Labelled(function(x.value, *args, **kwargs), x.units)

    return rule


def moved(function: Callable, for_units: Callable | None = None) -> Callable:
    """Rule of a function that only moves elements: it moves their units likewise."""
    for_units = for_units or function

    def rule(run: Run, *args: Any, **kwargs: Any) -> Any:
        values = function(*values_of(args), **values_of(kwargs))
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

    def rule(run: Run, x: Any, y: Any, **kwargs: Any) -> Labelled:
        x, y = fixed(x), fixed(y)
        value = function(*values_of((x, y)), **values_of(kwargs))
        if not (isinstance(x, Labelled) and isinstance(y, Labelled)):
            tensor = x if isinstance(x, Labelled) else y
            return Labelled(value, tensor.units)
        return Labelled(value, _tie_operands(run, x.units, y.units, value.shape))

    return rule


def _tie_operands(run: Run, x: np.ndarray, y: np.ndarray, shape: torch.Size) -> np.ndarray:
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


def linear(run: Run, x: Labelled, weight: Labelled | Tensor, bias: Any = None) -> Labelled:
    """Rule of a dense layer: new units, and those of its input on the columns."""
    weight, bias = values_of((weight, bias))
    value = functional.linear(x.value, weight, bias)
    run.record(weight, 1, run.reduce(x.units, -1))
    units = run.make(value, value.ndim - 1, len(weight))
    return record_output(run, value, units, weight, bias, -1)


def record_output(
    run: Run,
    value: Tensor,
    units: np.ndarray,
    weight: Tensor,
    bias: Tensor | None,
    axis: int,
) -> Labelled:
    """Note the units of an output on the rows of weight and bias."""
    made = run.reduce(units, axis)
    run.record(weight, 0, made)
    run.record(bias, 0, made)
    return Labelled(value, run.units.resolve(units))


def pooled(run: Run, function: Callable, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
    """Rule of what reduces or moves places inside of channels."""
    value = function(x.value, *args, **kwargs)
    return Labelled(value, along(run.reduce(x.units, 1), 1, value.shape))


def _pooling(function: Callable) -> Callable:
    return lambda run, x, *args, **kwargs: pooled(run, function, x, *args, **kwargs)


def _mean(function: Callable) -> Callable:
    """Rule of a symmetric reduction over axes."""

    def rule(
        run: Run, x: Labelled, dim: Any = None, keepdim: bool = False, axis: Any = None
    ) -> Labelled:
        dim = axis if dim is None else dim
        value = function(x.value, dim=dim, keepdim=keepdim)
        units = x.units
        reduced = range(units.ndim) if dim is None else np.atleast_1d(dim) % units.ndim
        for place in reduced:
            units = _reduce_symmetrically(run, units, place)
        return Labelled(value, units.reshape(value.shape))

    return rule


def tie_along(run: Run, units: np.ndarray, axis: int) -> np.ndarray:
    """Units of a function of all elements along an axis, which treats them alike.

    Where these are the same features everywhere, they may still be reordered; where they differ,
    each result depends on all of them, which then move together.
    """
    units = run.units.resolve(units)
    rows = np.moveaxis(units, axis, -1).reshape(-1, units.shape[axis])
    if not (rows == rows[0]).all():
        run.units.unify(units, units.take([0], axis))
        units = run.units.resolve(units)
    return units


def _reduce_symmetrically(run: Run, units: np.ndarray, axis: int) -> np.ndarray:
    """Units after a sum over one axis, which keeps the length 1."""
    units = run.units.resolve(units)
    rows = np.moveaxis(units, axis, -1).reshape(-1, units.shape[axis])
    first = units.take([0], axis)
    if (rows == rows[0]).all() and (rows != rows[:, :1]).any():
        return np.full_like(first, FIXED)  # the same features everywhere: their order is forgotten
    run.units.unify(units, first)
    return run.units.resolve(first)


def _matmul(run: Run, x: Labelled, y: Labelled) -> Labelled:
    value = x.value @ y.value
    if x.value.ndim < 2 or y.value.ndim < 2:
        raise UnsupportedOperationError("a product with a vector")
    if run.is_parameter(y.value) and y.value.ndim == 2:
        run.record(y.value, 0, run.reduce(x.units, -1))
        units = run.make(value, value.ndim - 1, y.value.shape[1])
        run.record(y.value, 1, run.reduce(units, -1))
        return Labelled(value, run.units.resolve(units))
    a, b = run.units.resolve(x.units), run.units.resolve(y.units)
    contracted = (a != a[..., :1]).any() or (b != b[..., :1, :]).any()
    if contracted:
        return Labelled(value, _contract(run, a, b, value.shape))
    # Nothing varies along the contracted axis, as in a sum over tokens: the pairs that meet.
    return Labelled(value, _pair(run, a[..., :1], b[..., :1, :], value.shape))


def _contract(run: Run, a: np.ndarray, b: np.ndarray, shape: torch.Size) -> np.ndarray:
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


def _pair(run: Run, a: np.ndarray, b: np.ndarray, shape: torch.Size) -> np.ndarray:
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
    run: Run, q: Labelled, k: Labelled, v: Labelled, *args: Any, **kwargs: Any
) -> Labelled:
    value = functional.scaled_dot_product_attention(
        *values_of((q, k, v, *args)), **values_of(kwargs)
    )
    scores = q.value @ k.value.mT
    a, b = run.units.resolve(q.units), run.units.resolve(k.units.swapaxes(-1, -2))
    heads = _contract(run, a, b, scores.shape)
    mask = kwargs.get("attn_mask", args[0] if args else None)
    if isinstance(mask, Labelled):
        heads = _tie_operands(run, heads, mask.units, scores.shape)
    return Labelled(
        value, _pair(run, heads[..., :1], run.units.resolve(v.units[..., :1, :]), value.shape)
    )


def _softmax(function: Callable) -> Callable:
    def rule(
        run: Run, x: Labelled, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Labelled:
        if dim is None:
            raise UnsupportedOperationError("a softmax without dim")
        return Labelled(function(x.value, dim=dim, dtype=dtype), tie_along(run, x.units, dim))

    return rule


def _dropout(
    run: Run, x: Labelled, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Labelled:
    if training:
        raise UnsupportedOperationError("a dropout that is always on (training=True)")
    return x


def index(run: Run, x: Labelled, place: Any) -> Labelled:
    """Rule of indexing: units are picked like values; an index itself is no feature."""
    place = values_of(place)
    return Labelled(x.value[place], torch.as_tensor(np.array(x.units))[place].numpy())


def _name(function: Callable) -> str:
    return getattr(function, "__name__", str(function))


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
    torch.movedim, torch.swapaxes, torch.unflatten, torch.tensor_split,
)  # fmt: skip
_POOLING = (
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.avg_pool1d,
    functional.avg_pool2d, functional.avg_pool3d, functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d, functional.adaptive_max_pool1d, functional.interpolate,
    functional.adaptive_max_pool2d,
)  # fmt: skip

FUNCTIONS: dict[Callable, Rule] = {
    functional.linear: linear,
    functional.softmax: _softmax(torch.softmax),
    torch.softmax: _softmax(torch.softmax),
    functional.log_softmax: _softmax(torch.log_softmax),
    torch.log_softmax: _softmax(torch.log_softmax),
    operator.getitem: index,
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
    **{function: moved(function) for function in _MOVING},
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
    "contiguous", "float", "double", "pow", "detach",
)  # fmt: skip
_MOVING_METHODS = (
    "reshape", "flatten", "permute", "transpose", "chunk", "split", "unbind", "squeeze",
    "unsqueeze", "expand", "repeat", "movedim", "swapaxes", "unflatten", "tensor_split", "t",
)  # fmt: skip

METHODS: dict[str, Rule] = {
    "view": moved(_method("view"), _method("reshape")),  # units need not have the strides
    "matmul": _matmul,
    "bmm": _matmul,
    "softmax": _softmax(torch.softmax),
    "log_softmax": _softmax(torch.log_softmax),
    "mean": _mean(torch.mean),
    "sum": _mean(torch.sum),
    **{name: _combined(_method(name)) for name in ("add", "sub", "mul", "div", "add_", "mul_")},
    **{name: _same(_method(name)) for name in _ELEMENT_METHODS},
    **{name: moved(_method(name)) for name in _MOVING_METHODS},
}
"""Rules of methods."""
