"""Saving and loading.

An object is written as the name of its class and what its attributes are, down to numbers, strings
and tensors. Reading makes objects of classes that are trusted, and calls nothing that the file
names: unlike a pickle, a file from somewhere else cannot run code.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted

from bayesflow_nn.persistence.reader import GraphReader
from bayesflow_nn.persistence.writer import GraphWriter

if TYPE_CHECKING:
    from typing import Self

_FORMAT = 1
_KEY = "bayesflow_nn"


def save(value: Any, path: str | Path) -> None:
    """Write an estimator, a population of networks, or another object to one file.

    Parameters
    ----------
    value : object
        Estimators of this library and of scikit-learn, populations, modules, arrays, tensors, and
        containers of them.
    path : path
        Usually named ``*.safetensors``. An existing file is replaced once the new one is complete.

    Raises
    ------
    TypeError
        If a part is of a kind that cannot be written, such as a lambda or an open file; the message
        says which.

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
    root = writer.node(value, type(value).__name__)
    header = {"format": _FORMAT, "version": version(_KEY), "root": root}
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    save_file(writer.tensors, part, {_KEY: json.dumps(header, allow_nan=False)})
    os.replace(part, path)


def load(path: str | Path, *, trusted: Collection[str] = (), device: str = "cpu") -> Any:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path
    trusted : collection of str
        Packages beside this library, scikit-learn and the modules of torch whose classes and
        functions may be used, for example that of a module of your own; ``"__main__"`` for those of
        a script or notebook. A package that you trust runs as if you had imported it.
    device : str
        Where tensors go that were not on the CPU.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the file was not written by `save`, by a later format, or names a class that is not
        trusted.

    Warns
    -----
    UserWarning
        If another version of the library wrote the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"path must be a file written by save, got {str(path)!r}: {error}."
        ) from error
    if header is None:
        raise ValueError(
            f"path must be a file written by save, got {str(path)!r}, which holds tensors alone."
        )
    header = json.loads(header)
    if header["format"] > _FORMAT:
        raise ValueError(
            f"path must be a file of format {_FORMAT} or earlier, got {str(path)!r} of format "
            f"{header['format']}, written by version {header['version']}; update bayesflow_nn."
        )
    if header["version"] != version(_KEY):
        warnings.warn(
            f"{str(path)!r} was written by version {header['version']} of bayesflow_nn, this is "
            f"{version(_KEY)}; what it holds may not work here.",
            stacklevel=2,
        )
    return GraphReader(tensors, trusted, device).value(header["root"])


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
        """Write the fitted estimator to one file, as numbers and JSON, without code.

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
            Packages of your own whose classes the file may use; see
            :func:`bayesflow_nn.load`.
        device : str
            Where tensors go that were not on the CPU, and where the estimator works if it was not.

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
        if getattr(loaded, "device", "cpu") != "cpu":
            loaded.device = device
        return loaded
