"""How operations carry scales: what multiplies their operands, and what their results.

A rule returns the result with its units, or `NotImplemented` where it proves nothing; then all
operands are fixed, and the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bayesflow_nn.symmetry.labelled import Labelled, Rule, along, find_labelled, values_of
from bayesflow_nn.symmetry.operation_rules import index, moved
from bayesflow_nn.symmetry.scale_factors import Factor, ScaleRun, is_free, tie
from bayesflow_nn.symmetry.units import FIXED


def equivariant(function: Callable, kind: str) -> Rule:
    """Rule of a function of each element: f(c x) = c f(x).

    For `kind` "positive" this holds for c > 0, for "odd" if c is a sign, for "linear" always.
    """

    def rule(run: ScaleRun, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
        carries = kind == "linear" or (kind == "odd") == run.signs
        if not carries or not isinstance(x, Labelled):
            return NotImplemented
        for option in find_labelled((args, kwargs)):
            run.units.fix(option.units)
        return Labelled(function(x.value, *values_of(args), **values_of(kwargs)), x.units)

    return rule


def _clamped(function: Callable) -> Rule:
    """Bounds that are zero let positive factors pass, opposite ones let signs pass."""

    def rule(run: ScaleRun, x: Labelled, min: Any = None, max: Any = None) -> Labelled:
        bounds = [0 if bound is None else bound for bound in (min, max)]
        if find_labelled((min, max)) or not isinstance(x, Labelled):
            return NotImplemented
        if run.signs:
            passes = min is not None and max is not None and min == -max
        else:
            passes = bounds == [0, 0]
        return Labelled(function(x.value, min, max), x.units) if passes else NotImplemented

    return rule


def hardtanh(
    run: ScaleRun, x: Labelled, min_val: float = -1, max_val: float = 1, inplace: bool = False
) -> Labelled:
    """Rule of a clamp with bounds of its own."""
    return _clamped(torch.clamp)(run, x, min_val, max_val)


def _sum(function: Callable) -> Rule:
    """Rule of sums of two, and of the larger or smaller of two: what meets is scaled alike."""

    def rule(run: ScaleRun, x: Any, y: Any, *, alpha: float = 1) -> Labelled:
        if function in (torch.maximum, torch.minimum) and run.signs:
            return NotImplemented
        options = {} if alpha == 1 else {"alpha": alpha}
        value = function(*values_of((x, y)), **options)
        for one, other in ((x, y), (y, x)):
            if not isinstance(other, Labelled):
                # Of all numbers zero alone may be added to what is scaled.
                return NotImplemented if other != 0 else Labelled(value, one.units)
        run.units.unify(x.units, y.units)
        return Labelled(value, run.units.resolve(np.broadcast_to(x.units, value.shape)))

    return rule


def _product(function: Callable, *, divides: bool = False, in_place: bool = False) -> Rule:
    """Rule of products of what is scaled with what is not."""

    def rule(run: ScaleRun, x: Any, y: Any) -> Labelled:
        value = function(*values_of((x, y)))
        if not isinstance(value, Tensor):
            return NotImplemented
        free = [part for part in (x, y) if is_free(run, part)]
        if len(free) == 2:
            for part in (y, x):
                if len(free) == 2 and run.are_elements(part.units):
                    run.units.fix(part.units)  # of the many scales of a product the simplest
                    free = [other for other in free if is_free(run, other)]
        if len(free) == 2 or (divides and free and free[0] is y):
            return NotImplemented
        units = free[0].units if free else np.array(FIXED)
        units = run.units.resolve(np.broadcast_to(units, value.shape))
        if in_place and isinstance(x, Labelled):
            run.units.unify(x.units, units)  # other names of the operand see the product
        return Labelled(value, units)

    return rule


def _matmul(run: ScaleRun, x: Labelled, y: Labelled) -> Labelled:
    """Products with matrices that are not scaled: what is summed is scaled alike."""
    value = x.value @ y.value
    free = is_free(run, x), is_free(run, y)
    if all(free) or min(x.value.ndim, y.value.ndim) < 2:
        return NotImplemented
    part, axis = (x, -1) if free[0] else (y, -2)
    return Labelled(value, tie(run, part.units, axis, value.shape))


def _attention(
    run: ScaleRun, query: Labelled, key: Labelled, value: Labelled, *args: Any, **kwargs: Any
) -> Labelled:
    """Outputs are linear in the values, whose weights must not change."""
    result = functional.scaled_dot_product_attention(
        *values_of((query, key, value, *args)), **values_of(kwargs)
    )
    if value.value.shape[:-2] != result.shape[:-2]:
        return NotImplemented
    for part in (query, key, *find_labelled((args, kwargs))):
        run.units.fix(part.units)
    return Labelled(result, tie(run, value.units, -2, result.shape))


def _reduction(function: Callable) -> Rule:
    """Rule of sums and means over axes: what is summed is scaled alike."""

    def rule(run: ScaleRun, x: Labelled, dim: Any = None, keepdim: bool = False) -> Labelled:
        value, units = function(x.value, dim=dim, keepdim=keepdim), x.units
        for axis in range(units.ndim) if dim is None else np.atleast_1d(dim) % units.ndim:
            first = units.take([0], axis)
            run.units.unify(units, first)
            units = run.units.resolve(first)
        return Labelled(value, units.reshape(value.shape))

    return rule


def pooling(function: Callable, n_spatial: int, *, linear: bool) -> Rule:
    """Rule of what mixes places inside of channels; `linear` or like a maximum."""

    def rule(run: ScaleRun, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
        value = function(x.value, *args, **kwargs)
        if (run.signs and not linear) or not isinstance(value, Tensor):
            return NotImplemented
        axis = x.value.ndim - n_spatial - 1
        return Labelled(value, along(run.reduce(x.units, axis), axis, value.shape))

    return rule


def _interpolate(run: ScaleRun, x: Labelled, *args: Any, **kwargs: Any) -> Labelled:
    function = functional.interpolate
    return pooling(function, x.value.ndim - 2, linear=True)(run, x, *args, **kwargs)


def _pad(
    run: ScaleRun, x: Labelled, pad: Any, mode: str = "constant", value: float | None = None
) -> Labelled:
    """Zeros that are added may be scaled by anything."""
    if mode != "constant" or value:
        return NotImplemented
    units = functional.pad(torch.as_tensor(np.array(x.units)), pad, value=-1).numpy().copy()
    padded = units == -1
    units[padded] = run.units.new(int(padded.sum()), run.event)
    return Labelled(functional.pad(x.value, pad), units)


def moving(function: Callable, for_units: Callable | None = None) -> Rule:
    """Rule of what only moves elements."""
    rule = moved(function, for_units)

    def moving_rule(run: ScaleRun, x: Any, *args: Any, **kwargs: Any) -> Any:
        return rule(run, x, *args, **kwargs)

    return moving_rule


def linear(run: ScaleRun, x: Labelled, weight: Labelled, bias: Labelled | None = None) -> Labelled:
    """Rule of a dense layer: new units on the rows, and those of its input on the columns."""
    weight, bias = values_of((weight, bias))
    if not run.knows(weight, bias) or weight.ndim != 2:
        return NotImplemented
    value = functional.linear(x.value, weight, bias)
    made = run.units.new(len(weight), run.event)
    columns = run.reduce(x.units, -1)
    run.use(weight, {Factor("weight", 0): made, Factor("outgoing", 1): columns})
    run.use(bias, {Factor("bias", 0): made})
    return Labelled(value, along(made, value.ndim - 1, value.shape))


def _method(name: str) -> Callable:
    return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)


_POSITIVE = ("relu", "relu_", "abs", "prelu")
_ODD = ("tanh", "erf", "sin", "sinh", "asinh", "atan")
_LINEAR = ("neg", "clone", "contiguous", "detach", "float", "double", "type_as")
_MOVING = (
    "reshape", "flatten", "permute", "transpose", "chunk", "split", "unbind", "squeeze", "roll",
    "unsqueeze", "movedim", "swapaxes", "unflatten", "tensor_split", "t", "flip",
)  # fmt: skip
_MOVING_METHODS = ("expand", "expand_as", "repeat", "view_as")
_MOVING_FUNCTIONS = (torch.cat, torch.concat, torch.stack)
_SPATIAL = (1, 2, 3)


def _kinds(positive: tuple, odd: tuple, linear: tuple) -> dict[Any, str]:
    return (
        dict.fromkeys(positive, "positive") | dict.fromkeys(odd, "odd")
        | dict.fromkeys(linear, "linear")
    )  # fmt: skip


FUNCTIONS: dict[Callable, Rule] = {
    **{
        function: equivariant(function, kind)
        for function, kind in _kinds(
            (functional.relu, functional.leaky_relu, functional.prelu),
            (functional.tanh, functional.softsign, functional.tanhshrink, functional.softshrink),
            (operator.neg, functional.dropout),
        ).items()
    },
    **{
        getattr(torch, name): equivariant(getattr(torch, name), kind)
        for name, kind in _kinds(_POSITIVE, _ODD, ("neg", "clone", "detach")).items()
    },
    **{f: _sum(f) for f in (torch.add, torch.sub, operator.add, operator.sub, operator.iadd,
                            operator.isub, torch.maximum, torch.minimum)},
    **{f: _product(f) for f in (torch.mul, operator.mul)},
    **{f: _product(f, divides=True) for f in (torch.div, operator.truediv)},
    operator.imul: _product(operator.imul, in_place=True),
    operator.itruediv: _product(operator.itruediv, divides=True, in_place=True),
    **{f: _matmul for f in (torch.matmul, torch.bmm, operator.matmul)},
    **{getattr(torch, name): moving(getattr(torch, name)) for name in _MOVING},
    **{function: moving(function) for function in _MOVING_FUNCTIONS},
    **{getattr(functional, f"{name}_pool{d}d"):
       pooling(getattr(functional, f"{name}_pool{d}d"), d, linear=name.endswith("avg"))
       for name in ("max", "avg", "adaptive_avg", "adaptive_max") for d in _SPATIAL},
    functional.linear: linear,
    functional.scaled_dot_product_attention: _attention,
    functional.interpolate: _interpolate,
    functional.pad: _pad,
    functional.hardtanh: hardtanh,
    torch.clamp: _clamped(torch.clamp),
    torch.mean: _reduction(torch.mean),
    torch.sum: _reduction(torch.sum),
    operator.getitem: index,
}  # fmt: skip
"""Rules of functions."""

METHODS: dict[str, Rule] = {
    "view": moving(_method("view"), _method("reshape")),  # units need not have the strides
    "clamp": _clamped(torch.clamp),
    "mean": _reduction(torch.mean),
    "sum": _reduction(torch.sum),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    **{name: _sum(_method(name)) for name in ("add", "sub", "add_", "sub_")},
    "mul": _product(torch.mul),
    "div": _product(torch.div, divides=True),
    "mul_": _product(_method("mul_"), in_place=True),
    **{
        name: equivariant(_method(name), kind)
        for name, kind in _kinds(_POSITIVE, _ODD, _LINEAR).items()
    },
    **{name: moving(_method(name)) for name in (*_MOVING, *_MOVING_METHODS)},
}
"""Rules of methods."""
