r"""Sinkhorn re-basin [P23]: permutations that lower any differentiable objective.

A permutation is relaxed to the doubly stochastic matrix of free scores X at temperature tau,

.. math:: P = \arg\max_P \langle P, X \rangle + \tau h(P) ,

with the entropy h (see :mod:`bayesflow_nn.symmetry.relaxation`). Adam moves the scores of all
networks and groups at once; linear assignments turn the relaxed permutations into permutations.
No network depends on those beside it.

- [P23] F. A. Guerrero Peña et al., *Re-basin via Implicit Sinkhorn Differentiation*, CVPR 2023,
  arXiv 2212.12042.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import trange

from bayesflow_nn.symmetry.block_matching import assign
from bayesflow_nn.symmetry.groups import PermutationGroup, compose, permute_all, split_signs
from bayesflow_nn.symmetry.objectives import L2Objective, Loss, Objective
from bayesflow_nn.symmetry.relaxation import normalise, permute_softly, sinkhorn
from bayesflow_nn.weights.random_state import RandomState, draw_seed
from bayesflow_nn.weights.validation import check_integer, check_real

_START_PROBABILITY = 0.9
"""Of the given permutation in the relaxed start: nearly hard, yet with gradients left."""


def match_sinkhorn(
    groups: Sequence[PermutationGroup],
    networks: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    objective: Objective | Loss | None = None,
    *,
    start: Sequence[Tensor] | None = None,
    n_steps: int = 50,
    learning_rate: float = 0.5,
    temperature: float = 1.0,
    n_sinkhorn: int = 5,
    check_every: int = 2,
    random_state: RandomState = None,
    progress: bool = False,
) -> list[Tensor]:
    """Permutations that bring every network close to the reference, by gradient descent.

    Parameters
    ----------
    groups : sequence of PermutationGroup
        Those of the module; see `discover`.
    networks : mapping of str to Tensor of shape (n_networks, ...)
        Parameters and buffers. Tensors of the groups that are missing are left out.
    reference : mapping of str to Tensor
        One network, without the leading axis.
    objective : Objective or callable, optional
        From a dict of networks, permuted or mixed, to a Tensor of shape (n_networks,), row by row.
        Default: `L2Objective` of the reference. Others bring their own reference.
    start : sequence of Tensor of shape (n_networks, size), optional
        Permutations to begin at, one per group; default: all permutations in equal parts. Signs
        that they change stay changed; others are not.
    n_steps : int
    learning_rate, temperature : float
        Of Adam and of the relaxation. Adam forgets the scale of gradients, so that only
        ``learning_rate / temperature`` matters.
    n_sinkhorn : int
        Iterations per step. Each step goes on from the scores normalised by those before it.
    check_every : int
        Number of steps after which permutations are made hard and the best of each network kept.
        Every evaluation counts: the path meets better permutations than it ends at.
    random_state : int, generator or None
        Draws the points of `RandomPointObjective`.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    list of Tensor of shape (n_networks, size)
        One per group, with the meaning that `permute_all` has for them: the best of those seen,
        in the objective, not above the start (without one, the networks as they are).

    Raises
    ------
    ValueError
        If a number is out of range, or networks, reference, start or values of the objective do
        not fit each other and the groups.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bayesflow_nn.symmetry import discover
    >>> from bayesflow_nn.symmetry.groups import permute_all
    >>> module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    >>> groups = discover(module, torch.randn(2, 4))
    >>> reference = module.state_dict()
    >>> order = torch.tensor([[3, 1, 0, 5, 4, 2]])
    >>> networks = permute_all(groups, {k: v[None] for k, v in reference.items()}, [order])
    >>> (found,) = match_sinkhorn(groups, networks, reference)
    >>> order.gather(1, found)
    tensor([[0, 1, 2, 3, 4, 5]])
    """
    check_every = check_integer("check_every", check_every)
    n_steps = check_integer("n_steps", n_steps, low=0)
    n_sinkhorn = check_integer("n_sinkhorn", n_sinkhorn)
    check_real("learning_rate", learning_rate, 0, strict=True)
    check_real("temperature", temperature, 0, strict=True)
    networks = _check_networks(groups, networks, reference)
    if start is not None:
        _check_start(groups, networks, start)
    if not groups:
        return []
    signs = None
    if start is not None:
        start, signs = zip(*map(_without_signs, start), strict=True)
        networks = permute_all(groups, networks, signs)
    objective = L2Objective(reference) if objective is None else objective
    descent = _Descent(groups, networks, objective, start, temperature, n_sinkhorn)
    optimizer = torch.optim.Adam(descent.scores, lr=learning_rate)
    generator = torch.Generator().manual_seed(draw_seed(random_state))
    for step in trange(n_steps, disable=not progress, desc="sinkhorn", leave=False):
        descent.set_gradients(generator)
        optimizer.step()
        if (step + 1) % check_every == 0 or step + 1 == n_steps:
            descent.harden()
    if signs is None:
        return descent.best
    return [compose(sign, best) for sign, best in zip(signs, descent.best, strict=True)]


def _without_signs(permutation: Tensor) -> tuple[Tensor, Tensor]:
    """The order of a signed permutation, and the changes of sign that come before it."""
    order, flipped = split_signs(permutation)
    flipped = torch.zeros_like(flipped).scatter(1, order, flipped)
    elements = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return order, torch.where(flipped, ~elements, elements)


class _Descent:
    """Scores of all networks, and the best permutations seen on their way."""

    def __init__(
        self,
        groups: Sequence[PermutationGroup],
        networks: dict[str, Tensor],
        objective: Objective | Loss,
        start: Sequence[Tensor] | None,
        temperature: float,
        n_sinkhorn: int,
    ) -> None:
        self.groups, self.networks, self.objective = groups, networks, objective
        self.temperature, self.n_sinkhorn = temperature, n_sinkhorn
        example = next(networks[name] for name in _moved(groups[0], networks))
        self.n_networks = len(example)
        self.scores = [
            example.new_zeros(self.n_networks, group.size, group.size).requires_grad_()
            for group in groups
        ]
        if start is None:
            self.best = [
                torch.arange(group.size, device=example.device).repeat(self.n_networks, 1)
                for group in groups
            ]
        else:
            self.best = [permutation.to(example.device) for permutation in start]
            for scores, permutation in zip(self.scores, self.best, strict=True):
                scores.data.scatter_(-1, permutation.unsqueeze(-1), self._start_score(scores))
        self.lowest = self._values(self.best)

    def set_gradients(self, generator: torch.Generator) -> None:
        """Normalise the scores, which leaves the relaxed permutations, and find the gradients."""
        draw = getattr(self.objective, "draw", lambda networks, _: self.objective(networks))
        with torch.enable_grad():
            for scores in self.scores:
                scores.data = self.temperature * self._normalised(scores)
            softs = [sinkhorn(scores / self.temperature, 0) for scores in self.scores]
            values = draw(permute_softly(self.groups, self.networks, softs), generator)
            self._check_values(values)
            if not values.requires_grad:
                raise ValueError(
                    "objective must be differentiable in the networks, got values without a "
                    "gradient; compute them in torch, without detach or no_grad."
                )
            gradients = torch.autograd.grad(values.sum(), self.scores, materialize_grads=True)
        for scores, gradient in zip(self.scores, gradients, strict=True):
            # A network whose loss is not finite must not spoil its scores.
            scores.grad = gradient.nan_to_num(0, 0, 0)

    def harden(self) -> None:
        """Assign permutations to the scores, and keep those that lower the objective."""
        found = [assign(self._normalised(scores).exp()) for scores in self.scores]
        values = self._values(found)
        lower = values < self.lowest
        self.lowest = torch.where(lower, values, self.lowest)
        self.best = [
            torch.where(lower.unsqueeze(-1), new, old)
            for new, old in zip(found, self.best, strict=True)
        ]

    def _normalised(self, scores: Tensor) -> Tensor:
        return normalise(scores.detach() / self.temperature, self.n_sinkhorn)

    def _start_score(self, scores: Tensor) -> float:
        """Score of one entry per row, beside zeros, that gives it the wanted probability."""
        odds = _START_PROBABILITY / (1 - _START_PROBABILITY)
        return self.temperature * math.log(odds * max(scores.shape[-1] - 1, 1))

    @torch.no_grad()
    def _values(self, permutations: Sequence[Tensor]) -> Tensor:
        values = self.objective(permute_all(self.groups, self.networks, permutations))
        self._check_values(values)
        return values.nan_to_num(math.inf)

    def _check_values(self, values: Tensor) -> None:
        if not isinstance(values, Tensor) or values.shape != (self.n_networks,):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"objective must return a Tensor of shape ({self.n_networks},), one value per "
                f"network, got {got}."
            )


def _check_networks(
    groups: Sequence[PermutationGroup],
    networks: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the networks without their history, or raise if something does not fit."""
    if missing := set(reference) - set(networks):
        raise ValueError(
            f"networks must hold all tensors of the reference, {sorted(missing)} are missing; pass "
            f"all of them, stacked along a leading axis."
        )
    if not networks or len({tensor.shape[:1] for tensor in networks.values()}) != 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in networks.items()}
        raise ValueError(
            f"networks must be tensors with one leading axis for the same networks, got {shapes}."
        )
    for name, tensor in reference.items():
        if networks[name].shape[1:] != tensor.shape:
            raise ValueError(
                f"networks[{name!r}] must have shape {('n_networks', *tensor.shape)} as the "
                f"reference has it, got {tuple(networks[name].shape)}."
            )
    dtypes = set()
    for group in groups:
        if not (moved := _moved(group, networks)):
            raise ValueError(
                f"networks must hold tensors of every group, got none of that of {group.name!r}."
            )
        dtypes |= {networks[name].dtype for name in moved}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"networks must have one floating dtype in all tensors that are permuted, got "
            f"{sorted(map(str, dtypes))}; convert them."
        )
    return {name: tensor.detach() for name, tensor in networks.items()}


def _moved(group: PermutationGroup, networks: Mapping[str, Tensor]) -> list[str]:
    return [slot.parameter for slot in group.slots if slot.parameter in networks]


def _check_start(
    groups: Sequence[PermutationGroup], networks: dict[str, Tensor], start: Sequence[Tensor]
) -> None:
    """Raise unless the start is a permutation of each group for each network."""
    n_networks = len(next(iter(networks.values())))
    if len(start) != len(groups):
        raise ValueError(
            f"start must hold one tensor for each of the {len(groups)} groups, got {len(start)}."
        )
    for group, permutation in zip(groups, start, strict=True):
        expected = torch.arange(group.size, device=permutation.device).expand(n_networks, -1)
        order = split_signs(permutation)[0] if group.odd else permutation
        if not torch.equal(order.sort(-1).values, expected):
            raise ValueError(
                f"start must hold permutations of shape ({n_networks}, {group.size}) for the group "
                f"of {group.name!r}, got {tuple(permutation.shape)}, or rows with an element twice."
            )
