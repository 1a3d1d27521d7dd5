"""Objects from nodes of JSON and named tensors, as the writer makes them.

Nothing that a file brings is called: containers are built of nodes, never of objects that could
pretend to be containers, and no attribute takes the place of a method.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from bayesflow_nn.persistence.names import find
from bayesflow_nn.persistence.writer import NUMBERS, OTHERS

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


class GraphReader:
    """Turns nodes into objects.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    trusted : collection of str
        Modules and packages whose classes and functions may be used beside those of the library.
    device : str
        Where tensors go that were not on the CPU, and where estimators work that did not there.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], trusted: Collection[str], device: str
    ) -> None:
        self.tensors = tensors
        self.trusted = tuple(trusted)
        self.device = device
        self._made: list[Any] = []

    def value(self, node: Any) -> Any:
        """The value of a node.

        Raises
        ------
        ValueError
            If it names what is not trusted, or is not as the writer makes nodes.
        """
        if isinstance(node, list):
            return self._values(node)
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind not in _READERS:
            raise ValueError(f"the file must hold nodes of known kinds, got {kind!r}.")
        return _READERS[kind](self, content)

    def _values(self, nodes: list[Any]) -> list[Any]:
        if not isinstance(nodes, list):
            raise ValueError(f"the file must hold a list of nodes, got {type(nodes).__name__}.")
        return [self.value(node) for node in nodes]

    def _keep(self, value: Any) -> Any:
        self._made.append(value)
        return value

    def _object(self, content: list[Any]) -> Any:
        name, attributes = content
        cls = find(name, type, self.trusted)
        made = self._keep(cls.__new__(cls))
        for key, node in attributes.items():
            if key.startswith("__") or _is_method(inspect.getattr_static(cls, key, None)):
                raise ValueError(f"the file must not replace {key!r} of {name!r}.")
            if key == "memory" and node is not None:
                raise ValueError(f"the file must not name a folder as memory of {name!r}.")
            vars(made)[key] = self.value(node)
        if isinstance(made, BaseEstimator) and vars(made).get("device", "cpu") != "cpu":
            made.device = self.device
        return made

    def _tensor(self, content: list[Any]) -> Tensor:
        name, order, description = content
        tensor = self._stored([name, order])
        if "device" in description:
            tensor = tensor.to(self.device)
        if "parameter" in description:
            tensor = nn.Parameter(tensor, requires_grad=description["parameter"])
        return self._keep(tensor)

    def _array(self, content: list[Any]) -> np.ndarray:
        return self._keep(self._stored(content).numpy())

    def _stored(self, content: list[Any]) -> Tensor:
        name, order = content
        return self.tensors[name].clone().permute(np.argsort(order).tolist())

    def _elements(self, content: list[Any]) -> np.ndarray:
        nodes, shape, dtype = content
        array = np.empty(len(nodes), _numpy_dtype(dtype, OTHERS))
        array[:] = self._values(nodes)
        return array.reshape(shape)

    def _scalar(self, content: list[Any]) -> np.generic:
        node, dtype = content
        value = self.value(node)
        if type(value) not in (bool, int, float, str):
            raise ValueError(f"the file must hold a number or string, got {type(value).__name__}.")
        return _numpy_dtype(dtype, NUMBERS + "U").type(value)

    def _pairs(self, content: list[Any]) -> list[tuple[Any, Any]]:
        return [(self.value(key), self.value(part)) for key, part in content]

    def _namedtuple(self, content: list[Any]) -> tuple[Any, ...]:
        name, nodes = content
        cls = find(name, type, self.trusted)
        if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
            raise ValueError(f"the file must name a class of named tuples, got {name!r}.")
        return tuple.__new__(cls, self._values(nodes))

    def _callable(self, name: str) -> Callable[..., Any]:
        return find(name, (type, types.FunctionType), self.trusted)

    def _method(self, content: list[Any]) -> types.MethodType:
        node, name = content
        return types.MethodType(find(name, types.FunctionType, self.trusted), self.value(node))

    def _partial(self, content: list[Any]) -> functools.partial:
        function, nodes, keywords = content
        if not isinstance(function, dict) or next(iter(function)) not in ("callable", "partial"):
            raise ValueError("the file must hold a class or function in a partial one.")
        arguments = {key: self.value(node) for key, node in keywords.items()}
        return functools.partial(self.value(function), *self._values(nodes), **arguments)


_READERS: dict[str, Callable[[GraphReader, Any], Any]] = {
    "float": lambda reader, content: float(content),
    "again": lambda reader, content: reader._made[content],
    "object": GraphReader._object,
    "tensor": GraphReader._tensor,
    "array": GraphReader._array,
    "elements": GraphReader._elements,
    "scalar": GraphReader._scalar,
    "dict": lambda reader, content: dict(reader._pairs(content)),
    "ordered": lambda reader, content: OrderedDict(reader._pairs(content)),
    "tuple": lambda reader, content: tuple(reader._values(content)),
    "namedtuple": GraphReader._namedtuple,
    "size": lambda reader, content: torch.Size(content),
    "set": lambda reader, content: set(reader._values(content)),
    "slice": lambda reader, content: slice(*reader._values(content)),
    "dtype": lambda reader, content: _DTYPES[content],
    "device": lambda reader, content: torch.device(content),
    "number": lambda reader, content: _numpy_dtype(content, NUMBERS).type,
    "numpy_dtype": lambda reader, content: _numpy_dtype(content, NUMBERS + OTHERS),
    "callable": GraphReader._callable,
    "method": GraphReader._method,
    "partial": GraphReader._partial,
}


def _is_method(member: Any) -> bool:
    """Whether a member of a class is a method, property or other descriptor, but for a cache."""
    return hasattr(type(member), "__get__") and not isinstance(member, functools.cached_property)


def _numpy_dtype(name: str, kinds: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.kind not in kinds:
        raise ValueError(f"the file must hold numbers or strings, got {name!r}.")
    return dtype
