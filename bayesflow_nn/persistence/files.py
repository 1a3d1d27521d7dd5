"""Saving and loading.

An object is written as the name of its class and what its attributes are, down to numbers, strings
and tensors. Unlike a pickle, a file is data: see :mod:`bayesflow_nn.persistence.reader`.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn.persistence.reader import GraphReader
from bayesflow_nn.persistence.writer import GraphWriter

if TYPE_CHECKING:
    from typing import Self

_FORMAT = 1
_KEY = "bayesflow_nn"
_VERSIONS = {name: version(name) for name in (_KEY, "scikit-learn", "torch")}


def save(value: Any, path: str | Path) -> None:
    """Write an estimator, a population of networks, or another object to one file.

    Parameters
    ----------
    value : object
        Estimators of this library; scikit-learn's transformers of `preprocessing`, `decomposition`
        and `impute`, and their compositions in `pipeline` and `compose`; populations and
        architectures; modules of ``torch.nn`` and of your own; dense arrays and tensors; containers
        of these. Attributes are written as they are. Views of one tensor become copies of their
        own, as do lists, tuples and dictionaries that several objects share.
    path : path
        Usually named ``*.safetensors``. An existing file is replaced once the new one is complete.

    Raises
    ------
    TypeError
        If a part is of a kind that cannot be written, such as a lambda; the message says which.
    ValueError
        If it is nested too deeply, or in itself.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from bayesflow_nn import Architecture
    >>> with TemporaryDirectory() as folder:
    ...     save(Architecture.mlp([2, 8, 1]), f"{folder}/mlp.safetensors")
    ...     load(f"{folder}/mlp.safetensors")
    Architecture.mlp([2, 8, 1], activation='relu')
    """
    writer = GraphWriter()
    try:
        header = {
            "format": _FORMAT,
            "versions": _VERSIONS,
            "root": writer.node(value, type(value).__name__),
        }
        metadata = {_KEY: json.dumps(header, allow_nan=False)}
    except RecursionError as error:
        raise ValueError(
            f"value must not be nested so deeply, or in itself, to be saved, got "
            f"{type(value).__name__}."
        ) from error
    _replace(Path(path).resolve(), safetensors.torch.save(writer.tensors, metadata))


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: str | Path, *, trusted: Collection[str] = (), device: str = "cpu") -> Any:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path
    trusted : collection of str
        Modules or packages of your own whose classes and functions the file may use, for example
        that of a network; ``"__main__"`` for those of a script or notebook. They are imported.
    device : str
        Where tensors go that were not on the CPU, and estimators that did not work there.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the file was not written by `save`, by a later format, or names what is not trusted.
    TypeError
        If `trusted` is one string.

    Warns
    -----
    UserWarning
        If another version of this library, scikit-learn or torch wrote the file.
    """
    if isinstance(trusted, str):
        raise TypeError(
            f"trusted must be a list of packages, got {trusted!r}; write [{trusted!r}]."
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[_KEY]
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        header = json.loads(text)
        _check_header(header, path)
        return GraphReader(tensors, trusted, device).value(header["root"])
    except (
        SafetensorError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(
            f"path must be a file written by save, got {str(path)!r}, which cannot be read: "
            f"{type(error).__name__}: {error}."
        ) from error


def _check_header(header: dict[str, Any], path: str | Path) -> None:
    """Raise for a later format, and warn of other versions."""
    if header["format"] > _FORMAT:
        raise ValueError(
            f"path must be a file of format {_FORMAT} or earlier, got {str(path)!r} of format "
            f"{header['format']}; update bayesflow_nn."
        )
    others = {name: own for name, own in header["versions"].items() if _VERSIONS.get(name) != own}
    if others:
        here = {name: _VERSIONS.get(name) for name in others}
        warnings.warn(
            f"{str(path)!r} was written with {others}, here are {here}; what it holds may not "
            f"work.",
            stacklevel=3,
        )


class PersistenceMethods:
    """Saving and loading of a fitted estimator.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from bayesflow_nn import FlowPosterior
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> posterior = FlowPosterior(geometry="euclidean", max_iter=5, random_state=0).fit(x)
    >>> with TemporaryDirectory() as folder:
    ...     posterior.save(f"{folder}/posterior.safetensors")
    ...     loaded = FlowPosterior.load(f"{folder}/posterior.safetensors")
    >>> bool((loaded.sample(3, random_state=0) == posterior.sample(3, random_state=0)).all())
    True
    """

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one file; see :func:`bayesflow_nn.save`.

        Parameters
        ----------
        path : path
            Usually named ``*.safetensors``.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        TypeError
            If a parameter cannot be written, such as a lambda; the message says which.
        """
        check_is_fitted(self)
        save(self, path)

    @classmethod
    def load(cls, path: str | Path, *, trusted: Collection[str] = (), device: str = "cpu") -> Self:
        """Read an estimator that `save` wrote; it samples and scores as the one that was saved.

        Parameters
        ----------
        path : path
        trusted : collection of str
            Packages of your own whose classes the file may use; see :func:`bayesflow_nn.load`.
        device : str
            Where tensors go that were not on the CPU, and the estimator if it did not work there.

        Returns
        -------
        estimator

        Raises
        ------
        ValueError
            If the file was not written by `save`, or names a class that is not trusted.
        TypeError
            If it holds something else than this class.
        """
        loaded = load(path, trusted=trusted, device=device)
        if not isinstance(loaded, cls):
            raise TypeError(
                f"path must hold a {cls.__name__}, got {str(path)!r}, which holds a "
                f"{type(loaded).__name__}; use bayesflow_nn.load."
            )
        return loaded
