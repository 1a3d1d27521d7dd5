"""Runs a traced module with the factors that may multiply every activation beside its values.

Like :mod:`bayesflow_nn.symmetry.propagation`, but an operation without a rule is no error: it fixes
what it reads.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from bayesflow_nn.symmetry.labelled import Labelled, Rule, find_labelled, fixed, values_of
from bayesflow_nn.symmetry.propagation import Propagation
from bayesflow_nn.symmetry.scale_factors import Factor
from bayesflow_nn.symmetry.scale_layer_rules import MODULES
from bayesflow_nn.symmetry.scale_rules import FUNCTIONS, METHODS
from bayesflow_nn.symmetry.units import FIXED

_PLAIN_ATTRIBUTES = ("shape", "ndim", "device", "dtype")
_PLAIN_METHODS = ("size", "dim", "numel")


class ScalePropagation(Propagation):
    """Interpreter that keeps account of factors, positive ones or signs.

    Parameters
    ----------
    graph_module : fx.GraphModule
    module : nn.Module
        What was traced. Its parameters and the statistics of batch norm can be scaled; constants
        and other buffers cannot.
    signs : bool

    Attributes
    ----------
    uses : dict of str to dict of Factor to ndarray
        What multiplies each parameter or buffer.
    events : dict of str to int
        When each was used first.
    """

    products = ()  # matrices that are multiplied by are activations here

    def __init__(self, graph_module: fx.GraphModule, module: nn.Module, *, signs: bool) -> None:
        super().__init__(graph_module, module)
        self.signs = signs
        self.uses: dict[str, dict[Factor, np.ndarray]] = {}
        self.events: dict[str, int] = {}
        self._buffers = {name for name, _ in module.named_buffers()}

    def run_node(self, node: fx.Node) -> Any:
        """Execute one node under an event of its own."""
        self.event, self._node = self.event + 1, node
        return fx.Interpreter.run_node(self, node)

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Give parameters units of their own, one per element at first; buffers are fixed."""
        labelled = super().get_attr(target, args, kwargs)
        if isinstance(labelled, Labelled) and self._names.get(id(labelled.value)) in self._buffers:
            self.units.fix(labelled.units)
        return labelled

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Carry factors through a layer; those of an unknown layer stay as they are."""
        module = self.fetch_attr(target)
        rule = next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
        args, kwargs = _all_labelled((args, kwargs))
        result = self._try(rule, module, *args, **kwargs)
        if result is NotImplemented:
            for parameter in module.parameters():
                self.use(parameter, {})
            result = self._otherwise(module, args, kwargs)
        return result

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        """Carry factors through a function."""
        of_container = target in (operator.getitem, getattr) and not isinstance(args[0], Labelled)
        if of_container or not find_labelled((args, kwargs)):
            return target(*args, **kwargs)
        if target is getattr and args[1] in _PLAIN_ATTRIBUTES:
            return getattr(args[0].value, args[1])
        rule = _transpose if target is getattr else FUNCTIONS.get(target)
        return self._apply(rule, target, args, kwargs)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Carry factors through a method."""
        if not find_labelled((args, kwargs)):
            return fx.Interpreter.call_method(self, target, args, kwargs)
        if target in _PLAIN_METHODS:
            return getattr(args[0].value, target)(*args[1:], **kwargs)

        def call(tensor: Tensor, *rest: Any, **options: Any) -> Any:
            return getattr(tensor, target)(*rest, **options)

        return self._apply(METHODS.get(target), call, args, kwargs)

    def knows(self, *tensors: Tensor | None) -> bool:
        """Whether tensors are parameters or buffers of the module, or None."""
        return all(tensor is None or id(tensor) in self._names for tensor in tensors)

    def are_elements(self, units: np.ndarray) -> bool:
        """Whether units are elements of parameters that are used as activations."""
        elements = [own.flatten() for own in self._elements.values()]
        return bool(elements) and bool(np.isin(units, np.concatenate(elements)).all())

    def use(self, tensor: Tensor | None, factors: dict[Factor, np.ndarray]) -> None:
        """Note all that multiplies a parameter or buffer; nothing: it stays as it is."""
        if tensor is None or id(tensor) not in self._names:
            return
        name = self._names[id(tensor)]
        known = self.uses.setdefault(name, factors)
        self.events.setdefault(name, self.event)
        for key in known.keys() | factors.keys():
            units = [use[key] if key in use else np.array(FIXED) for use in (known, factors)]
            if known.keys() == factors.keys():
                self.units.unify(*units)
            else:
                for own in units:
                    self.units.fix(own)

    def _apply(self, rule: Rule | None, function: Callable, args: tuple, kwargs: dict) -> Any:
        args, kwargs = _all_labelled((args, kwargs))
        result = self._try(rule, *args, **kwargs)
        return self._otherwise(function, args, kwargs) if result is NotImplemented else result

    def _try(self, rule: Rule | None, *args: Any, **kwargs: Any) -> Any:
        if rule is None:
            return NotImplemented
        try:
            inspect.signature(rule).bind(self, *args, **kwargs)
        except TypeError:
            return NotImplemented  # an option that the rule does not know
        return rule(self, *args, **kwargs)

    def _otherwise(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Fix all operands, and with them the result."""
        for part in find_labelled((args, kwargs)):
            self.units.fix(part.units)
        result = function(*values_of(args), **values_of(kwargs))
        if type(result).__module__ == "torch.return_types":
            return type(result)(fixed(part) for part in result)  # keeps the names of its parts
        return fx.node.map_aggregate(result, fixed)

    def _tie_elements(self) -> None:
        """Sort parameters that were used as activations into axes; fix what does not fit."""
        for name, units in self._elements.items():
            moved = self.units.resolve(units)
            varying = [axis for axis in range(moved.ndim) if (moved != moved.take([0], axis)).any()]
            if name in self.uses or len(varying) > 1 or moved.ndim == 0:
                for own in (units, *self.uses.get(name, {}).values()):
                    self.units.fix(own)
            elif (moved != FIXED).any():
                axis = varying[0] if varying else 0
                self.uses[name] = {Factor("bias", axis): self.reduce(units, axis)}
                self.events[name] = self.event


def _all_labelled(operands: Any) -> Any:
    """Operands with units beside all tensors; those that had none are fixed."""
    return fx.node.map_aggregate(operands, fixed)


def _transpose(run: ScalePropagation, x: Labelled, name: str) -> Labelled:
    if name not in ("T", "mT"):
        return NotImplemented
    return Labelled(getattr(x.value, name), x.units.T if name == "T" else x.units.swapaxes(-1, -2))
