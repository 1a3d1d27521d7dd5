"""Which classes and functions a file may name, and what their names mean.

Reading must not run what a stranger wrote. Objects are made of classes in a few packages, and may
hold functions only of modules that compute and touch nothing else.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Collection
from typing import Any

_CLASSES = (
    "bayesflow_nn",
    "sklearn.compose",
    "sklearn.decomposition",
    "sklearn.impute",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "torch.nn.modules",
)
_FUNCTIONS = ("bayesflow_nn.flow", "bayesflow_nn.velocity", "torch.nn.functional")
_OF_OTHERS = ("bayesflow_nn", "sklearn", "torch", "numpy", "builtins")
"""Packages of which a user cannot trust more than the above."""


def name_of(value: type | types.FunctionType, place: str) -> str:
    """Module and qualified name under which a class or function will be found again.

    Raises
    ------
    TypeError
        If it would not be, or must not be named; `place` says where it is.
    """
    module, qualified = value.__module__, value.__qualname__
    if module is None or "<" in qualified or _look_up(module, qualified) is not value:
        raise TypeError(
            f"{place} must be defined at the top of a module to be saved, got {qualified}; use a "
            f"class, a function or functools.partial of one."
        )
    if module.split(".")[0] in _OF_OTHERS and not _is_among(module, _packages(value)):
        raise TypeError(
            f"{place} must be of one of the packages {list(_packages(value))} or of your own to "
            f"be saved, got {qualified} of {module}."
        )
    return f"{module}:{qualified}"


def find(name: str, kind: type | tuple[type, ...], trusted: Collection[str]) -> Any:
    """The class or function of a name.

    Parameters
    ----------
    name : str
        As `name_of` writes it.
    kind : type or tuple of types
        What it must be: `type` for a class, `types.FunctionType` for a function.
    trusted : collection of str
        Modules or packages of the user.

    Raises
    ------
    ValueError
        If it is not trusted, not found, or something else.
    """
    module, _, qualified = name.partition(":")
    if not (_is_among(module, (*_CLASSES, *_FUNCTIONS)) or _is_among(module, trusted)):
        raise ValueError(
            f"trusted must hold {module!r}, or the package that it is in, to load this file, which "
            f"uses {qualified}; got {list(trusted)}. Add it if you know that code."
        )
    found = _look_up(module, qualified)
    allowed = isinstance(found, type | types.FunctionType) and (
        _is_among(module, _packages(found)) or _is_among(module, trusted)
    )
    # What is found where it is not defined may be anything that a module imports.
    if (
        not allowed
        or not isinstance(found, kind)
        or f"{found.__module__}:{found.__qualname__}" != name
    ):
        raise ValueError(f"the file names {name!r}, which it must not name here.")
    return found


def _packages(value: type | types.FunctionType) -> tuple[str, ...]:
    return _CLASSES if isinstance(value, type) else _FUNCTIONS


def _is_among(module: str, packages: Collection[str]) -> bool:
    return any(p and (module == p or module.startswith(f"{p}.")) for p in packages)


def _look_up(module: str, qualified: str) -> Any:
    """What a name means, None if it means nothing."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found
