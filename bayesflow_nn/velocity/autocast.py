r"""Products in bfloat16, sums in float32.

A number in bfloat16 has the exponent of one in float32 and 8 binary digits: rounding changes it by
up to :math:`2^{-9}` of itself, and halves its bytes. :func:`torch.autocast` rounds what goes into
matrix products; what adds up from block to block stays in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def bfloat16_products(x: Tensor) -> AbstractContextManager:
    """Context in which products are in bfloat16, for points in float32 only.

    Whoever calls with float64 asks for its precision, as densities do, and gets it.

    Parameters
    ----------
    x : Tensor
        Of any shape; its device and precision decide.

    Examples
    --------
    >>> x = torch.ones(2, 2)
    >>> with bfloat16_products(x):
    ...     (x @ x).dtype
    torch.bfloat16
    >>> x = x.double()
    >>> with bfloat16_products(x):
    ...     (x @ x).dtype
    torch.float64
    """
    if x.dtype != torch.float32:
        return nullcontext()
    return torch.autocast(x.device.type, dtype=torch.bfloat16)


def check_autocast(x: Tensor) -> None:
    """Refuse points whose products will not be in bfloat16.

    Parameters
    ----------
    x : Tensor of shape (n, n_coordinates)
        Points that a model is made for.

    Raises
    ------
    ValueError
        If they are not in float32, or their device has no bfloat16.
    """
    if x.dtype != torch.float32:
        raise ValueError(
            f"autocast must be False for points in {x.dtype}, got True: only those in float32 are "
            f"computed in bfloat16; convert the points to float32, or leave the option out."
        )
    check_bfloat16(x.device)


def check_bfloat16(device: torch.device) -> None:
    """Refuse devices without bfloat16; CPUs have it, some of them slowly.

    Parameters
    ----------
    device : torch.device

    Raises
    ------
    ValueError
        If it is neither a CPU nor a GPU with bfloat16.
    """
    if device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return
    raise ValueError(
        f"autocast must be False on device {str(device)!r}, got True: it has no bfloat16; leave "
        f"the option out, or use a CPU or a newer GPU."
    )
