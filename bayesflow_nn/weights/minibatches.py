"""The order in which networks see the training data: without replacement, epoch by epoch.

Random numbers are drawn for blocks of consecutive networks, each with a stream of its own, so the
order of a network depends on the seed and its index alone: not on how networks are grouped into
chunks, nor on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bayesflow_nn.weights.random_state import stream

BLOCK_SIZE = 16
"""Networks that share a random stream."""

_SHUFFLING = 1
_SHARED = 2


class MinibatchOrder:
    """Permutations of the training data for a range of networks.

    Parameters
    ----------
    seed : int
        Seed of the whole population.
    networks : range
        Indices of the networks.
    n_inputs : int
        Number of training inputs.
    batch_size : int
        Size of a minibatch.
    shared : bool
        Whether all networks use one order.
    """

    def __init__(
        self, seed: int, networks: range, *, n_inputs: int, batch_size: int, shared: bool
    ) -> None:
        self._n_inputs = n_inputs
        self._batch_size = batch_size
        first, last = networks[0] // BLOCK_SIZE, networks[-1] // BLOCK_SIZE
        keys = [(_SHARED,)] if shared else [(_SHUFFLING, b) for b in range(first, last + 1)]
        self._streams = [stream(seed, *key) for key in keys]
        self._n_rows = 1 if shared else BLOCK_SIZE
        start = 0 if shared else networks[0] - first * BLOCK_SIZE
        self._rows = slice(start, start + (1 if shared else len(networks)))

    def next_epoch(self) -> Iterator[Tensor]:
        """Shuffle the training data anew and yield its minibatches.

        Yields
        ------
        Tensor of shape (n_networks, batch), or (1, batch) if shared
            Indices of the training inputs. The last minibatch may be smaller.
        """
        shape = (self._n_rows, self._n_inputs)
        n_bits = self._n_inputs.bit_length()
        keys = np.concatenate([s.integers(1 << (63 - n_bits), size=shape) for s in self._streams])
        # Sorting random keys that carry their index in the low bits is about seven times faster
        # than argsort.
        keys = keys[self._rows]
        keys <<= n_bits
        keys |= np.arange(self._n_inputs)
        keys.sort(axis=1)
        for start in range(0, self._n_inputs, self._batch_size):
            minibatch = keys[:, start : start + self._batch_size] & ((1 << n_bits) - 1)
            yield torch.from_numpy(minibatch)
