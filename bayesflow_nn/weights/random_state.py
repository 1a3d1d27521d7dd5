"""One `random_state` in, independent streams of random numbers out; global seeds stay untouched."""

from __future__ import annotations

import numbers

import numpy as np
import torch

RandomState = int | np.random.Generator | np.random.RandomState | torch.Generator | None


def draw_seed(random_state: RandomState) -> int:
    """Turn a `random_state` into a non-negative integer seed.

    Parameters
    ----------
    random_state : int, numpy Generator, numpy RandomState, torch.Generator or None
        An int is the seed itself; a generator is advanced by one draw; None takes fresh entropy.

    Examples
    --------
    >>> draw_seed(3)
    3
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1)
    if isinstance(random_state, torch.Generator):
        return int(torch.randint(2**62, (), generator=random_state, device=random_state.device))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**62))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, numbers.Integral) and random_state >= 0:
        return int(random_state)
    raise ValueError(
        f"random_state must be a non-negative integer, a numpy or torch generator, or None, "
        f"got {random_state!r}."
    )


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream that belongs to `key`, independent of those of other keys."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
