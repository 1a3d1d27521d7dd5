"""Objects from nodes of JSON and named tensors, as the writer makes them."""

from __future__ import annotations

import functools
import importlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesflow_nn.persistence.writer import qualified_name

_CLASSES = ("bayesflow_nn", "sklearn", "torch.nn")
_CALLABLES = ("bayesflow_nn.flow", "bayesflow_nn.velocity", "bayesflow_nn.weights")
"""What a file may name: classes of objects, and what objects may call."""


class GraphReader:
    """Turns nodes into objects.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    trusted : collection of str
        Packages whose classes and functions may be used beside those of the library.
    device : str
        Where tensors go that were not on the CPU.
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
            If it names a class or function that is not trusted, or is of an unknown kind.
        """
        if isinstance(node, list):
            return self._values(node)
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        read = _READERS.get(kind)
        if read is None:
            raise ValueError(f"the file must hold nodes of known kinds, got {kind!r}.")
        return read(self, content)

    def _values(self, nodes: list[Any]) -> list[Any]:
        return [self.value(node) for node in nodes]

    def _keep(self, value: Any) -> Any:
        self._made.append(value)
        return value

    def _object(self, content: list[Any]) -> Any:
        name, attributes = content
        cls = self._find(name, _CLASSES)
        if not isinstance(cls, type):
            raise ValueError(f"the file must name a class for an object, got {name!r}.")
        made = self._keep(cls.__new__(cls))
        vars(made).update({key: self.value(node) for key, node in attributes.items()})
        return made

    def _tensor(self, content: list[Any]) -> Tensor:
        *place, description = content
        tensor = self._stored(place)
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
        array = np.empty(len(nodes), dtype)
        array[:] = self._values(nodes)
        return array.reshape(shape)

    def _namedtuple(self, content: list[Any]) -> tuple[Any, ...]:
        name, parts = content
        cls = self._find(name, _CLASSES)
        if not (isinstance(cls, type) and issubclass(cls, tuple)):
            raise ValueError(f"the file must name a class of named tuples, got {name!r}.")
        return tuple.__new__(cls, self._values(parts))

    def _method(self, content: list[Any]) -> Callable[..., Any]:
        owner, name = content
        return getattr(self.value(owner), name)

    def _partial(self, content: list[Any]) -> functools.partial:
        function, arguments, keywords = self._values(content)
        return functools.partial(function, *arguments, **keywords)

    def _find(self, name: str, packages: tuple[str, ...]) -> Any:
        """The class or function that a name means, if its package is trusted."""
        module, _, qualified = name.partition(":")
        allowed = (*packages, *self.trusted)
        if not any(module == package or module.startswith(f"{package}.") for package in allowed):
            raise ValueError(
                f"trusted must hold {module.split('.')[0]!r} to load this file, which uses "
                f"{qualified} of {module}; got {list(self.trusted)}. Add it if you know that code."
            )
        found = importlib.import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part)
        if qualified_name(found, name) != name:  # or a module could lead to whatever it imports
            raise ValueError(f"the file must name things where they are defined, got {name!r}.")
        return found


_READERS: dict[str, Callable[[GraphReader, Any], Any]] = {
    "float": lambda reader, content: float(content),
    "again": lambda reader, content: reader._made[content],
    "object": GraphReader._object,
    "tensor": GraphReader._tensor,
    "array": GraphReader._array,
    "elements": GraphReader._elements,
    "scalar": lambda reader, content: np.dtype(content[1]).type(reader.value(content[0])),
    "dict": lambda reader, content: dict(reader._values(content)),
    "ordered": lambda reader, content: OrderedDict(reader._values(content)),
    "tuple": lambda reader, content: tuple(reader._values(content)),
    "namedtuple": GraphReader._namedtuple,
    "size": lambda reader, content: torch.Size(reader._values(content)),
    "set": lambda reader, content: set(reader._values(content)),
    "slice": lambda reader, content: slice(*reader._values(content)),
    "dtype": lambda reader, content: getattr(torch, content),
    "device": lambda reader, content: torch.device(content),
    "partial": GraphReader._partial,
    "method": GraphReader._method,
    "number": lambda reader, content: np.dtype(content).type,
    "callable": lambda reader, content: reader._find(content, _CALLABLES),
}
