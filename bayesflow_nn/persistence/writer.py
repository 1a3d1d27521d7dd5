"""Objects as nodes of JSON and named tensors.

None, booleans, finite floats, integers, strings and lists are themselves; everything else is an
object of JSON whose only key says what it is. Objects and tensors that occur more than once are
written once.
"""

from __future__ import annotations

import functools
import math
import types
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_NUMBERS = "biuf"  # kinds of NumPy's dtypes that are written as tensors
_OTHERS = "OU"  # kinds that are written element by element


class GraphWriter:
    """Turns objects into nodes.

    Attributes
    ----------
    tensors : dict of str to Tensor
        All tensors and arrays of numbers so far, by the names that nodes give them.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, tuple[int, Any]] = {}

    def node(self, value: Any, place: str) -> Any:
        """The node of a value; `place` names it in errors.

        Raises
        ------
        TypeError
            If it, or a part of it, cannot be written.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is list:
            return self._nodes(value, place)
        if id(value) in self._seen:
            return {"again": self._seen[id(value)][0]}
        return self._write(value, place)

    @functools.singledispatchmethod
    def _write(self, value: Any, place: str) -> Any:
        if not hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            raise TypeError(
                f"{place} must be made of numbers, strings, arrays, tensors and plain objects to "
                f"be saved, got {type(value).__name__}; set it to something else before."
            )
        self._remember(value)
        attributes = {
            name: self.node(part, f"{place}.{name}") for name, part in vars(value).items()
        }
        return {"object": [qualified_name(type(value), place), attributes]}

    @_write.register
    def _(self, value: Tensor, place: str) -> Any:
        self._remember(value)
        description = {"parameter": value.requires_grad} if isinstance(value, nn.Parameter) else {}
        if value.device.type != "cpu":
            description["device"] = str(value.device)
        return {"tensor": [*self._add(value.detach().cpu()), description]}

    @_write.register
    def _(self, value: np.ndarray, place: str) -> Any:
        if value.dtype.kind in _NUMBERS:
            self._remember(value)
            return {"array": self._add(torch.from_numpy(value.copy(order="K")))}
        if value.dtype.kind in _OTHERS:
            return {
                "elements": [
                    self._nodes(value.ravel().tolist(), place),
                    value.shape,
                    str(value.dtype),
                ]
            }
        raise TypeError(
            f"{place} must be an array of numbers or strings to be saved, got {value.dtype}."
        )

    @_write.register
    def _(self, value: np.generic, place: str) -> Any:
        return {"scalar": [self.node(value.item(), place), str(value.dtype)]}

    @_write.register
    def _(self, value: dict, place: str) -> Any:
        pairs = [
            [self.node(key, place), self.node(part, f"{place}[{key!r}]")]
            for key, part in value.items()
        ]
        return {"ordered" if isinstance(value, OrderedDict) else "dict": pairs}

    @_write.register
    def _(self, value: tuple, place: str) -> Any:
        parts = self._nodes(value, place)
        if isinstance(value, torch.Size):
            return {"size": parts}
        if type(value) is tuple:
            return {"tuple": parts}
        return {"namedtuple": [qualified_name(type(value), place), parts]}

    @_write.register
    def _(self, value: set, place: str) -> Any:
        return {"set": self._nodes(sorted(value, key=repr), place)}

    @_write.register
    def _(self, value: slice, place: str) -> Any:
        return {"slice": self._nodes((value.start, value.stop, value.step), place)}

    @_write.register(torch.dtype)
    @_write.register(torch.device)
    def _(self, value: torch.dtype | torch.device, place: str) -> Any:
        return {type(value).__name__: str(value).removeprefix("torch.")}

    @_write.register
    def _(self, value: functools.partial, place: str) -> Any:
        parts = value.func, list(value.args), value.keywords
        return {"partial": self._nodes(parts, place)}

    @_write.register
    def _(self, value: types.MethodType, place: str) -> Any:
        return {"method": [self.node(value.__self__, place), value.__func__.__name__]}

    @_write.register(type)
    @_write.register(types.FunctionType)
    def _(self, value: type | types.FunctionType, place: str) -> Any:
        if isinstance(value, type) and issubclass(value, np.generic):
            return {"number": np.dtype(value).name}
        return {"callable": qualified_name(value, place)}

    def _nodes(self, values: Collection[Any], place: str) -> list[Any]:
        return [self.node(value, f"{place}[{i}]") for i, value in enumerate(values)]

    def _add(self, tensor: Tensor) -> list[Any]:
        """Name of a tensor, and its dimensions from the slowest in memory to the fastest.

        In another layout, sums have other rounding errors.
        """
        name = str(len(self.tensors))
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        self.tensors[name] = tensor.permute(order).clone(memory_format=torch.contiguous_format)
        return [name, order]

    def _remember(self, value: Any) -> None:
        # The value is kept alive, so that no other gets its identity.
        self._seen[id(value)] = (len(self._seen), value)


def qualified_name(value: Any, place: str) -> str:
    """Module and qualified name under which a class or function is found again.

    Raises
    ------
    TypeError
        If it has none.
    """
    module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module is None or "<" in qualified:
        raise TypeError(
            f"{place} must be defined at the top of a module to be saved, got "
            f"{qualified or value!r}; use a class, a function or functools.partial of one."
        )
    return f"{module}:{qualified}"
