"""Many networks of one architecture: the data that a flow over weights is fit to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bayesflow_nn.weights import loading
from bayesflow_nn.weights.architecture import Architecture
from bayesflow_nn.weights.html import population_html
from bayesflow_nn.weights.likelihoods import Likelihood, resolve_likelihood
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import (
    check_buffers,
    check_inputs,
    check_option,
    check_weights,
    name_rows,
)

TASKS = ("classification", "regression")


class PopulationSplit(NamedTuple):
    """Two populations without a common chain."""

    train: WeightPopulation
    test: WeightPopulation


@dataclass(frozen=True, eq=False, repr=False)
class WeightPopulation:
    """Networks of one architecture, one per row.

    Immutable; indexing, `split` and `replace` return new populations. Networks of one `chain` are
    snapshots of one trajectory, hence correlated; `split` keeps them together.

    Parameters
    ----------
    weights : Tensor of shape (n_networks, n_weights)
        Floating, one network per row.
    architecture : Architecture
        What the rows mean.
    chain, draw : Tensor of shape (n_networks,), optional
        Trajectory of each network and its place on it. By default every network is a chain.
    task : {"classification", "regression"}, optional
        What the networks were trained for; that of the likelihood by default.
    likelihood : Likelihood, optional
        What their outputs say about targets, where it is known: ``Categorical()`` for classes.
    buffers : dict from name to Tensor of shape (n_networks, *shape), optional
        Buffers of every network, for example batch-norm statistics.
    metrics : dict from name to Tensor of shape (n_networks,), optional
        Validation metrics of every network.
    inputs : Tensor of shape (n_inputs, ...), optional
        Unlabelled inputs of the kind the networks were trained on, on which their functions can be
        compared.
    allow_nonfinite : bool
        Whether rows with NaN or infinite weights (diverged networks) are accepted.

    Raises
    ------
    TypeError
        If `weights` is no tensor or `architecture` no `Architecture`.
    ValueError
        If a shape or the task is wrong, or rows are not finite (named by index).

    Examples
    --------
    >>> mlp = Architecture.mlp([4, 8, 3])
    >>> population = WeightPopulation(torch.zeros(10, mlp.n_weights), architecture=mlp)
    >>> len(population), population.n_chains, population[:4].n_networks
    (10, 10, 4)
    """

    weights: Tensor
    _: KW_ONLY
    architecture: Architecture
    chain: Tensor | None = None
    draw: Tensor | None = None
    task: str | None = None
    likelihood: Likelihood | None = None
    buffers: dict[str, Tensor] | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    inputs: Tensor | None = None
    allow_nonfinite: InitVar[bool] = False

    def __post_init__(self, allow_nonfinite: bool) -> None:
        if not isinstance(self.architecture, Architecture):
            raise TypeError(
                f"architecture must be an Architecture, got {type(self.architecture).__name__}; "
                f"wrap a module as Architecture(module)."
            )
        check_weights(self.weights, self.architecture.n_weights)
        if not self.weights.is_floating_point():
            raise TypeError(f"weights must be floating, got {self.weights.dtype}.")
        if not allow_nonfinite and self.diverged.any():
            raise ValueError(
                f"weights of networks {name_rows(self.diverged)} are not finite (NaN or inf); "
                f"drop these rows, or pass allow_nonfinite=True."
            )
        self._set_task()
        if self.inputs is not None:
            check_inputs(self.inputs, self.architecture.sizes and self.architecture.sizes[0])
        self._set_labels()

    def _set_task(self) -> None:
        if self.task is not None:
            check_option("task", self.task, TASKS)
        if self.likelihood is not None:
            task = self.task or self.likelihood.task
            object.__setattr__(self, "likelihood", resolve_likelihood(task, self.likelihood))
            object.__setattr__(self, "task", task)

    def _set_labels(self) -> None:
        n = self.n_networks
        chain = self._column("chain", range(n) if self.chain is None else self.chain)
        draw = self._column("draw", [0] * n if self.draw is None else self.draw)
        labels = {
            "chain": chain.long(),
            "draw": draw.long(),
            "buffers": check_buffers(self.buffers, self.architecture.buffer_shapes, n) or None,
            "metrics": {name: self._column(name, m) for name, m in (self.metrics or {}).items()},
        }
        for name, value in labels.items():
            object.__setattr__(self, name, value)

    def _column(self, name: str, values: Tensor | Sequence[int]) -> Tensor:
        values = torch.as_tensor(values, device=self.weights.device)
        if values.shape != (self.n_networks,):
            raise ValueError(
                f"{name} must have shape ({self.n_networks},), one entry per network, "
                f"got {tuple(values.shape)}."
            )
        return values

    @classmethod
    def from_modules(
        cls, modules: Sequence[nn.Module], *, architecture: Architecture | None = None, **labels
    ) -> WeightPopulation:
        """Collect trained modules; their buffers come along.

        Parameters
        ----------
        modules : sequence of nn.Module
            Modules of one architecture.
        architecture : Architecture, optional
            By default that of the first module.
        **labels
            `chain`, `draw`, `task`, `likelihood`, `metrics`, as in the constructor.

        Raises
        ------
        ValueError
            If there is no module or one has another architecture (named by index).

        Examples
        --------
        >>> modules = [nn.Linear(3, 2) for _ in range(5)]
        >>> WeightPopulation.from_modules(modules, task="regression").n_networks
        5
        """
        modules = list(modules)
        architecture = loading.common_architecture(modules, architecture)
        return cls.from_state_dicts(
            [module.state_dict() for module in modules], architecture=architecture, **labels
        )

    @classmethod
    def from_state_dicts(
        cls, state_dicts: Sequence[Mapping[str, Tensor]], *, architecture: Architecture, **labels
    ) -> WeightPopulation:
        """Collect state dicts, as ``module.state_dict()`` returns them.

        Parameters
        ----------
        state_dicts : sequence of mappings from name to Tensor
            One per network.
        architecture : Architecture
            Architecture of all networks.
        **labels
            `chain`, `draw`, `task`, `likelihood`, `metrics`, as in the constructor.

        Raises
        ------
        ValueError
            If there is none, or one does not fit the architecture (named by index).
        """
        stacked = loading.stack_state_dicts(list(state_dicts), architecture)
        weights = architecture.flatten({name: stacked[name] for name in architecture.names})
        buffers = {name: stacked[name] for name in architecture.buffer_shapes if name in stacked}
        return cls(weights, architecture=architecture, buffers=buffers, **labels)

    @classmethod
    def from_checkpoints(
        cls, folder: str | Path, *, architecture: Architecture, pattern: str = "*.pt", **labels
    ) -> WeightPopulation:
        """Collect files written by ``torch.save(module.state_dict(), path)``.

        Parameters
        ----------
        folder : path
            Where the files are.
        architecture : Architecture
            Architecture of all networks.
        pattern : str
            Glob pattern below `folder`. Files of one subfolder (pattern "*/*.pt") form one chain,
            in natural order of their names ("epoch_9" before "epoch_10"); files directly in
            `folder` are a chain each.
        **labels
            `task`, `likelihood`, `metrics`, as in the constructor.

        Raises
        ------
        ValueError
            If no file matches, or one does not fit the architecture (named).
        """
        files = loading.find_checkpoints(Path(folder), pattern)
        state_dicts = [loading.load_state_dict(file) for file in files]
        chain, draw = loading.label_checkpoints(files, Path(folder))
        return cls.from_state_dicts(
            state_dicts, architecture=architecture, chain=chain, draw=draw, **labels
        )

    @classmethod
    def from_array(
        cls, array: np.ndarray | Tensor, *, architecture: Architecture, **labels
    ) -> WeightPopulation:
        """Take flat weights, for example from MCMC.

        Parameters
        ----------
        array : array of shape (n_networks, n_weights) or (n_chains, n_draws, n_weights)
            Three dimensions set `chain` and `draw`.
        architecture : Architecture
            What the last dimension means.
        **labels
            `chain`, `draw`, `task`, `likelihood`, `buffers`, `metrics`, as in the
            constructor.

        Examples
        --------
        >>> mlp = Architecture.mlp([2, 1])
        >>> draws = np.zeros((4, 100, mlp.n_weights))
        >>> WeightPopulation.from_array(draws, architecture=mlp)
        WeightPopulation(n_networks=400, n_chains=4, task=None, \
architecture=Architecture.mlp([2, 1], activation='identity'))
        """
        weights = torch.as_tensor(array)
        if weights.ndim == 3:
            n_chains, n_draws, _ = weights.shape
            labels.setdefault("chain", torch.arange(n_chains).repeat_interleave(n_draws))
            labels.setdefault("draw", torch.arange(n_draws).repeat(n_chains))
            weights = weights.flatten(0, 1)
        return cls(weights, architecture=architecture, **labels)

    @property
    def n_networks(self) -> int:
        """Number of rows."""
        return self.weights.shape[0]

    @property
    def n_chains(self) -> int:
        """Number of distinct trajectories."""
        return len(self.chain.unique())

    @property
    def diverged(self) -> Tensor:
        """Mask ``(n_networks,)`` of the networks with NaN or infinite weights."""
        return ~torch.isfinite(self.weights).all(dim=1)

    def split(self, test_size: float = 0.2, *, random_state: RandomState = None) -> PopulationSplit:
        """Split at random into two populations that share no chain.

        Parameters
        ----------
        test_size : float in (0, 1) or int
            Fraction, or number, of the chains that go to the second population.
        random_state : int, generator or None
            Decides which chains.

        Returns
        -------
        PopulationSplit
            Named tuple ``(train, test)``; both keep the order of the rows.

        Raises
        ------
        ValueError
            If one of the two would be empty.

        Examples
        --------
        >>> mlp = Architecture.mlp([4, 8, 3])
        >>> population = WeightPopulation(torch.zeros(10, mlp.n_weights), architecture=mlp)
        >>> [len(part) for part in population.split(0.3, random_state=0)]
        [7, 3]
        """
        chains = self.chain.unique().cpu()
        n_test = test_size if isinstance(test_size, int) else round(test_size * len(chains))
        if not 0 < n_test < len(chains):
            raise ValueError(
                f"test_size must leave at least one of the {len(chains)} chains on each side, "
                f"got {test_size!r}."
            )
        shuffled = np.random.default_rng(draw_seed(random_state)).permutation(chains.numpy())
        in_test = torch.isin(self.chain, self.chain.new_tensor(shuffled[:n_test]))
        return PopulationSplit(self[~in_test], self[in_test])

    def replace(
        self, weights: Tensor, *, buffers: dict[str, Tensor] | None = None
    ) -> WeightPopulation:
        """Return the same networks with new weights, for example after alignment.

        Parameters
        ----------
        weights : Tensor of shape (n_networks, n_weights)
        buffers : dict from name to Tensor of shape (n_networks, *shape), optional
            New buffers; by default they stay.
        """
        return dataclasses.replace(
            self,
            weights=weights,
            buffers=self.buffers if buffers is None else buffers,
            allow_nonfinite=bool(self.diverged.any()),
        )

    def apply(self, X: Tensor, *, chunk_size: int | None = None) -> Tensor:
        """Run all networks on all inputs; see `Architecture.apply`.

        Parameters
        ----------
        X : Tensor of shape (n_inputs, ...)
        chunk_size : int, optional
            Networks evaluated together.

        Returns
        -------
        Tensor of shape (n_networks, n_inputs, n_outputs)
        """
        return self.architecture.apply(self.weights, X, buffers=self.buffers, chunk_size=chunk_size)

    def __len__(self) -> int:
        return self.n_networks

    def __getitem__(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> WeightPopulation:
        if isinstance(index, int | np.integer):
            raise TypeError(
                f"a population is indexed by a slice, a mask or an index array, got {index!r}; "
                f"use population.weights[{index}] or population[[{index}]]."
            )
        rows = torch.arange(self.n_networks)[index].to(self.weights.device)
        return dataclasses.replace(
            self,
            weights=self.weights[rows],
            chain=self.chain[rows],
            draw=self.draw[rows],
            buffers={name: buffer[rows] for name, buffer in (self.buffers or {}).items()},
            metrics={name: metric[rows] for name, metric in self.metrics.items()},
            allow_nonfinite=True,
        )

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.weights.detach().cpu().numpy(), dtype=dtype, copy=True)

    def _repr_html_(self) -> str:
        return population_html(self)

    def __repr__(self) -> str:
        return (
            f"WeightPopulation(n_networks={self.n_networks}, n_chains={self.n_chains}, "
            f"task={self.task!r}, architecture={self.architecture!r})"
        )
