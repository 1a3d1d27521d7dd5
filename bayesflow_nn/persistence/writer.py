"""Objects as nodes of JSON and named tensors.

None, booleans, finite floats, integers, strings and lists are themselves; everything else is an
object of JSON whose only key says what it is. Objects, tensors and arrays that occur more than once
are written once. Types are taken exactly: a subclass of a list, an array or a dictionary has a
state of its own, which would be lost.
"""

from __future__ import annotations

import functools
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesflow_nn.persistence.names import name_of

NUMBERS, OTHERS = "biuf", "OU"  # kinds of NumPy's dtypes, as tensors and element by element
_BUILT_IN = bool, int, float, complex, str, bytes, list, tuple, dict, set, np.ndarray, Tensor


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
        if id(value) in self._seen:
            return {"again": self._seen[id(value)][0]}
        write = _WRITERS.get(type(value))
        if write is not None:
            return write(self, value, place)
        if isinstance(value, tuple) and hasattr(type(value), "_fields"):
            return {"namedtuple": [name_of(type(value), place), self._nodes(value, place)]}
        if isinstance(value, np.generic) and value.dtype.kind in NUMBERS + "U":
            return {"scalar": [self.node(value.item(), place), value.dtype.str]}
        if isinstance(value, np.dtype) and value.kind in NUMBERS + OTHERS:
            return {"numpy_dtype": value.str}
        if isinstance(value, type):
            return self._class(value, place)
        return self._object(value, place)

    def _float(self, value: float, place: str) -> Any:
        return value if math.isfinite(value) else {"float": repr(value)}

    def _object(self, value: Any, place: str) -> Any:
        kind = type(value)
        if (
            isinstance(value, _BUILT_IN)
            or not hasattr(value, "__dict__")
            or any(vars(base).get("__slots__") for base in kind.__mro__)
            or kind.__reduce__ is not object.__reduce__  # it has a state of another kind
            or kind.__reduce_ex__ is not object.__reduce_ex__
        ):
            raise _cannot_write(value, place)
        self._remember(value)
        attributes = {}
        for name, part in vars(value).items():
            if name == "memory" and part is not None:
                raise TypeError(
                    f"{place}.memory must be None to be saved, got {part!r}: such a folder holds "
                    f"pickles; set it again after loading."
                )
            attributes[name] = self.node(part, f"{place}.{name}")
        return {"object": [name_of(kind, place), attributes]}

    def _tensor(self, value: Tensor, place: str) -> Any:
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            raise _cannot_write(value, place)
        self._remember(value)
        description = {"parameter": value.requires_grad} if isinstance(value, nn.Parameter) else {}
        if value.device.type != "cpu":
            description["device"] = str(value.device)
        return {"tensor": [*self._add(value.detach().cpu()), description]}

    def _array(self, value: np.ndarray, place: str) -> Any:
        kind = value.dtype.kind
        if kind in OTHERS:
            elements = self._nodes(value.ravel().tolist(), place)
            return {"elements": [elements, list(value.shape), value.dtype.str]}
        if kind not in NUMBERS or value.dtype.itemsize > 8 or not value.dtype.isnative:
            raise _cannot_write(value, f"{place} of {value.dtype}")
        self._remember(value)
        return {"array": self._add(torch.from_numpy(value.copy(order="K")))}

    def _dict(self, value: dict, place: str) -> Any:
        pairs = [
            [self.node(key, place), self.node(part, f"{place}[{key!r}]")]
            for key, part in value.items()
        ]
        return {"ordered" if type(value) is OrderedDict else "dict": pairs}

    def _partial(self, value: functools.partial, place: str) -> Any:
        keywords = {key: self.node(part, f"{place}.{key}") for key, part in value.keywords.items()}
        return {"partial": [self.node(value.func, place), self._nodes(value.args, place), keywords]}

    def _method(self, value: types.MethodType, place: str) -> Any:
        function = name_of(value.__func__, place)
        return {"method": [self.node(value.__self__, place), function]}

    def _class(self, value: type, place: str) -> Any:
        if issubclass(value, np.generic):
            return {"number": np.dtype(value).str}
        return {"callable": name_of(value, place)}

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


_WRITERS: dict[type, Callable[[GraphWriter, Any, str], Any]] = {
    float: GraphWriter._float,
    list: GraphWriter._nodes,
    tuple: lambda writer, value, place: {"tuple": writer._nodes(value, place)},
    set: lambda writer, value, place: {"set": writer._nodes(sorted(value, key=repr), place)},
    dict: GraphWriter._dict,
    OrderedDict: GraphWriter._dict,
    slice: lambda writer, value, place: {
        "slice": writer._nodes((value.start, value.stop, value.step), place)
    },
    Tensor: GraphWriter._tensor,
    nn.Parameter: GraphWriter._tensor,
    np.ndarray: GraphWriter._array,
    torch.Size: lambda writer, value, place: {"size": list(value)},
    torch.dtype: lambda writer, value, place: {"dtype": str(value)},
    torch.device: lambda writer, value, place: {"device": str(value)},
    functools.partial: GraphWriter._partial,
    types.MethodType: GraphWriter._method,
    types.FunctionType: lambda writer, value, place: {"callable": name_of(value, place)},
}


def _cannot_write(value: Any, place: str) -> TypeError:
    return TypeError(
        f"{place} is a {type(value).__name__}, which cannot be saved: it must be made of numbers, "
        f"strings, dense arrays and tensors, containers of them, and objects whose state is their "
        f"attributes."
    )
