"""Modules, state dicts and checkpoint files of many networks, checked and stacked by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesflow_nn.weights.architecture import Architecture


def common_architecture(
    modules: Sequence[nn.Module], architecture: Architecture | None
) -> Architecture:
    """Return the architecture of all modules, or raise and name one that differs."""
    if not modules:
        raise ValueError("modules must hold at least one module, got none.")
    expected = architecture or Architecture(modules[0])
    for i, module in enumerate(modules):
        other = Architecture(module)
        if other != expected:
            raise ValueError(
                f"modules[{i}] is a {other!r}, expected {expected!r}; "
                f"a population holds networks of one architecture."
            )
    return expected


def stack_state_dicts(
    state_dicts: Sequence[Mapping[str, Tensor]], architecture: Architecture
) -> dict[str, Tensor]:
    """Join equal names of many networks into tensors of shape (n_networks, *shape)."""
    if not state_dicts:
        raise ValueError("state_dicts must hold at least one state dict, got none.")
    reference = architecture.module.state_dict()
    for i, state_dict in enumerate(state_dicts):
        _check_state_dict(i, state_dict, reference)
    return {
        name: torch.stack([state_dict[name].detach() for state_dict in state_dicts])
        for name in reference
    }


def _check_state_dict(
    i: int, state_dict: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> None:
    if set(state_dict) != set(reference):
        raise ValueError(
            f"state_dicts[{i}] must hold the names {sorted(reference)}, got {sorted(state_dict)}; "
            f"a population holds networks of one architecture."
        )
    for name, tensor in state_dict.items():
        if tensor.shape != reference[name].shape:
            raise ValueError(
                f"state_dicts[{i}][{name!r}] must have shape {tuple(reference[name].shape)}, "
                f"got {tuple(tensor.shape)}."
            )


def find_checkpoints(folder: Path, pattern: str) -> list[Path]:
    """List the files that match, in natural order: "epoch_9" comes before "epoch_10"."""
    files = [file for file in folder.glob(pattern) if file.is_file()]
    if not files:
        raise ValueError(f"folder {str(folder)!r} has no file that matches pattern {pattern!r}.")
    return sorted(files, key=lambda file: _natural_key(str(file.relative_to(folder))))


def load_state_dict(file: Path) -> Mapping[str, Tensor]:
    """Read a state dict without running pickled code."""
    state_dict = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in state_dict.values()
    ):
        raise ValueError(
            f"{str(file)!r} must hold a state dict (names to tensors); write it with "
            f"torch.save(module.state_dict(), path)."
        )
    return state_dict


def label_checkpoints(files: Sequence[Path], folder: Path) -> tuple[Tensor, Tensor]:
    """Return chain and draw of sorted files: a subfolder is a chain, a file in `folder` its own."""
    chains: dict[Path, int] = {}
    draws: dict[Path, int] = {}
    labels = []
    for file in files:
        trajectory = file if file.parent == folder else file.parent
        chains.setdefault(trajectory, len(chains))
        draws[trajectory] = draws.get(trajectory, -1) + 1
        labels.append((chains[trajectory], draws[trajectory]))
    chain, draw = torch.tensor(labels).T
    return chain, draw


def _natural_key(name: str) -> list[tuple[bool, int, str]]:
    pieces = re.findall(r"\d+|\D+", name)
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]
