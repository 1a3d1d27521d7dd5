"""Runs a traced module with the units of every activation beside its values.

The units of an activation are an array of its shape. Operations that only move elements move the
units likewise; the others say what they tie. An operation that is not listed here is refused.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from bayesflow_nn.symmetry.labelled import (
    Labelled,
    Rule,
    UnsupportedOperationError,
    along,
    find_labelled,
    fixed,
)
from bayesflow_nn.symmetry.layer_rules import MODULES
from bayesflow_nn.symmetry.operation_rules import FUNCTIONS, METHODS
from bayesflow_nn.symmetry.units import Units


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

    products = (torch.matmul, operator.matmul, "matmul")
    """Operations that record a matrix which they multiply by."""

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
        for output in find_labelled(outputs):
            self.units.fix(output.units)
        self._tie_elements()

    def run_node(self, node: fx.Node) -> Any:
        """Execute one node under an event of its own."""
        self.event, self._node = self.event + 1, node
        try:
            result = super().run_node(node)
        except UnsupportedOperationError as error:
            raise UnsupportedOperationError(f"{error}{_source_line(node)}") from None
        for part in find_labelled(result):
            self.units.mark(part.units, self.event)
        return result

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Inputs are fixed."""
        return fixed(super().placeholder(target, args, kwargs))

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Give parameters and buffers units of their own, one per element at first."""
        value = super().get_attr(target, args, kwargs)
        name = self._names.get(id(value))
        if name is None or not value.is_floating_point():
            return fixed(value)
        layers = (functional.linear, *(self.products if value.ndim == 2 else ()))
        if _is_weight(self._node, layers):
            return fixed(value)
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
        return self._follow(rule, f"module {target!r}", module, *args, **kwargs)

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        """Tie what a function ties."""
        is_container = target is operator.getitem and not isinstance(args[0], Labelled)
        if is_container or not find_labelled((args, kwargs)):
            return fixed(target(*args, **kwargs))
        if target is getattr:
            return _attribute(*args)
        name = f"function {getattr(target, '__name__', target)!r}"
        if target not in FUNCTIONS:
            raise UnsupportedOperationError(name)
        return self._follow(FUNCTIONS[target], name, *args, **kwargs)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Tie what a method ties."""
        if not isinstance(args[0], Labelled):
            return fixed(super().call_method(target, args, kwargs))
        if target in ("size", "dim", "numel"):
            return getattr(args[0].value, target)(*args[1:], **kwargs)
        if target not in METHODS:
            raise UnsupportedOperationError(f"method {target!r}")
        return self._follow(METHODS[target], f"method {target!r}", *args, **kwargs)

    def _follow(self, rule: Rule, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            inspect.signature(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedOperationError(f"{name} with these options ({error})") from error
        return rule(self, *args, **kwargs)

    def make(self, value: Tensor, axis: int, n: int) -> np.ndarray:
        """New units along one axis of an activation."""
        return along(self.units.new(n, self.event), axis, value.shape)

    def reduce(self, units: np.ndarray, axis: int) -> np.ndarray:
        """Units along one axis, after tying all that have the same place on it."""
        rows = np.moveaxis(units, axis, -1).reshape(-1, units.shape[axis])
        self.units.unify(rows, rows[0])
        return self.units.resolve(rows[0])

    def is_parameter(self, value: Tensor) -> bool:
        """Whether this is a parameter or buffer itself, not computed from one."""
        return id(value) in self._names

    def record(self, tensor: Tensor | None, axis: int, units: np.ndarray) -> None:
        """Note the units along an axis of a parameter or buffer."""
        if tensor is None:
            return
        if not self.is_parameter(tensor):
            raise UnsupportedOperationError("a computed weight, which is no parameter itself")
        key = self._names[id(tensor)], axis
        if key in self.axes:
            self.units.unify(units, self.axes[key])
        self.axes[key] = units
        self.units.mark(units, 2**32 + 1000 * list(self.axes).index(key))

    def _tie_elements(self) -> None:
        """Sort parameters that were used as activations into axes; fix what does not fit."""
        for name, units in self._elements.items():
            # Layers may have noted axes of the same parameter.
            noted = [axis for own, axis in self.axes if own == name]
            for axis in noted:
                self.units.unify(units, along(self.axes[name, axis], axis, units.shape))
            moved = self.units.resolve(units)
            varying = [axis for axis in range(moved.ndim) if (moved != moved.take([0], axis)).any()]
            if len(varying) == 1:
                self.axes[name, varying[0]] = self.reduce(units, varying[0])
            elif varying:
                self.units.fix(units)


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


def _is_weight(node: fx.Node, layers: tuple) -> bool:
    """Whether a parameter is used by these operations alone, which record it, as their weight."""
    return all(user.target in layers and node not in user.args[:1] for user in node.users)
