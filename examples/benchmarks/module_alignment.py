"""Time and memory of aligning modules: perceptrons, residual networks, a pair of large encoders.

    python examples/benchmarks/module_alignment.py [--skip-encoder]

All weights are random, which is the hardest case: nothing says which neuron is which. Every row has
the seconds, of these the share of spectra, assignments, permuting and products, and the ratio to
the floor: one assignment of every group that has to be solved at least once, and one pass over the
bytes that a permutation reads and writes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
import symmetric_modules as modules

from bayesflow_nn.symmetry import block_matching, discover
from bayesflow_nn.symmetry.block_matching import make_blocks
from bayesflow_nn.symmetry.groups import PermutationGroup, permute_all
from bayesflow_nn.symmetry.weight_matching import match_weights


def mlp() -> nn.Module:
    """A perceptron 784-32-32-10."""
    return nn.Sequential(
        nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


class Stopwatch:
    """Adds up the seconds of some functions of a module, by replacing them."""

    def __init__(self, module: object, names: list[str]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.module, self.replaced = module, {name: getattr(module, name) for name in names}
        for name, function in self.replaced.items():
            setattr(module, name, self._timed(name, function))

    def stop(self) -> None:
        """Put the functions back."""
        for name, function in self.replaced.items():
            setattr(self.module, name, function)

    def _timed(self, name: str, function: Callable) -> Callable:
        def timed(*args: object) -> object:
            start = time.perf_counter()
            result = function(*args)
            self.seconds[name] += time.perf_counter() - start
            return result

        return timed


def peak_memory() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def random_networks(module: nn.Module, n: int) -> dict[str, Tensor]:
    """Random parameters of `n` networks, each of the size that its layer is initialised with."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(n, *tensor.shape, generator=generator)
        * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1)
        for name, tensor in module.named_parameters()
    }


def floor_seconds(groups: tuple[PermutationGroup, ...], networks: dict[str, Tensor]) -> float:
    """One assignment per network and group, and one copy of all parameters."""
    n = len(next(iter(networks.values())))
    rng, seconds = np.random.default_rng(0), 0.0
    for block in make_blocks(groups):
        for member in block.members:
            similarity = rng.normal(size=(groups[member].size,) * 2).astype(np.float32)
            start = time.perf_counter()
            linear_sum_assignment(similarity)
            seconds += n * (time.perf_counter() - start)
    start = time.perf_counter()
    for tensor in networks.values():
        tensor.clone()
    return seconds + time.perf_counter() - start


def measure(
    name: str, module: nn.Module, example: Tensor, n: int, heads: str = "assignment"
) -> None:
    """Print a row of the table."""
    start = time.perf_counter()
    groups = discover(module, example, verify=False)
    discovery = time.perf_counter() - start
    networks = random_networks(module, n + 1)
    reference = {key: tensor[0] for key, tensor in networks.items()}
    networks = {key: tensor[1:] for key, tensor in networks.items()}
    size = sum(t[0].numel() * t.element_size() for t in networks.values())
    floor = floor_seconds(groups, networks)
    watch = Stopwatch(block_matching, ["assign", "permute_slot", "_spectra"])
    before, start = peak_memory(), time.perf_counter()
    orders = match_weights(groups, networks, reference, heads=heads)
    matching = time.perf_counter() - start
    start = time.perf_counter()
    permute_all(groups, networks, orders)
    permuting = time.perf_counter() - start
    total = matching + permuting
    moving = watch.seconds["permute_slot"] + permuting
    spectra = watch.seconds["_spectra"]
    rest = total - watch.seconds["assign"] - moving - spectra
    watch.stop()
    print(
        f"{name:28s}{discovery:10.1f}{total:10.2f}{spectra:10.2f}{watch.seconds['assign']:13.2f}"
        f"{moving:10.2f}{rest:10.2f}{total / floor:8.1f}{(peak_memory() - before) / size:12.1f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip-encoder", action="store_true", help="without the large pair")
    options = parser.parse_args()
    print(
        f"{'':28s}{'discovery':>10s}{'total':>10s}{'spectra':>10s}{'assignments':>13s}{'permuting':>10s}"
        f"{'products':>10s}{'/ floor':>8s}{'memory':>12s}\n"
        f"{'':28s}{'s':>10s}{'s':>10s}{'s':>10s}{'s':>13s}{'s':>10s}{'s':>10s}{'':8s}{'networks':>12s}"
    )
    measure("100 of 784-32-32-10", mlp(), torch.zeros(1, 784), 100)
    measure("100 ResNet-20", modules.resnet20(), torch.zeros(1, 3, 32, 32), 100)
    if not options.skip_encoder:
        tokens = torch.zeros(1, 8, dtype=torch.long)
        measure("a pair of encoders", modules.Bert(), tokens, 1)
        measure("the pair, heads by spectra", modules.Bert(), tokens, 1, "spectra")


if __name__ == "__main__":
    main()
