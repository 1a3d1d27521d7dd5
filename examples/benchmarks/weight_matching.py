"""Weight matching of many networks at once against a plain loop over networks.

    python examples/benchmarks/weight_matching.py

prints the seconds for 10,000 networks of 30-16-16-2 (reference included), the ratio per network
to the loop below aligning to the same reference, and the ratio to the floor: one call of SciPy's
linear assignment for every network and layer that has to be solved at least once.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from bayesflow_nn.symmetry import PermutationAligner
from bayesflow_nn.symmetry.dense_layers import DenseWeights, split_layers
from bayesflow_nn.symmetry.matching_scale import matching_layers
from bayesflow_nn.weights import Architecture


def plain_weight_matching(matrices, biases, reference_matrices, reference_biases):
    """Match one network, layer by layer, as in Git Re-Basin; written for reading.

    Parameters
    ----------
    matrices, reference_matrices : list of array (n_out, n_in)
        Weight matrices of the network and of the reference, on the scale of comparison.
    biases, reference_biases : list of array (n_out,)

    Returns
    -------
    list of array (n_hidden,)
        Neuron i of the aligned network is neuron permutation[i] of the given one.
    """
    n_hidden = len(matrices) - 1
    permutations = [None] * n_hidden

    def incoming(layer):
        columns = matrices[layer]
        if layer > 0:
            columns = columns[:, permutations[layer - 1]]
        weights = reference_matrices[layer] @ columns.T
        return weights + np.outer(reference_biases[layer], biases[layer])

    def outgoing(layer):
        rows = matrices[layer + 1]
        if layer + 1 < n_hidden:
            rows = rows[permutations[layer + 1]]
        return reference_matrices[layer + 1].T @ rows

    for layer in range(n_hidden):
        similarity = incoming(layer)
        if layer == n_hidden - 1:
            similarity = similarity + outgoing(layer)
        permutations[layer] = linear_sum_assignment(similarity, maximize=True)[1]

    changed = True
    while changed:
        changed = False
        for layer in range(n_hidden):
            similarity = incoming(layer) + outgoing(layer)
            best = linear_sum_assignment(similarity, maximize=True)[1]
            neurons = np.arange(len(best))
            gain = similarity[neurons, best].sum()
            gain -= similarity[neurons, permutations[layer]].sum()
            if gain > 1e-9:
                permutations[layer] = best
                changed = True
    return permutations


def plain_permutations(aligner, weights):
    """Permutations of every network by the plain loop, ``(n_networks, n_hidden)`` per layer."""
    architecture, shift = aligner.architecture_, aligner.logit_shift_
    reference = {name: tensor[None].to(weights) for name, tensor in aligner.reference_.items()}
    reference = [
        DenseWeights(layer.matrix[0], layer.bias[0])
        for layer in split_layers(architecture, architecture.flatten(reference))
    ]
    layers = matching_layers(architecture, weights, logit_shift=shift)
    results = [
        plain_weight_matching(
            [layer.matrix[k].numpy() for layer in layers],
            [layer.bias[k].numpy() for layer in layers],
            [layer.matrix.numpy() for layer in reference],
            [layer.bias.numpy() for layer in reference],
        )
        for k in range(len(weights))
    ]
    return [torch.from_numpy(np.stack(layer)) for layer in zip(*results, strict=True)]


def seconds_of(function):
    """Run a function; seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-networks", type=int, default=10_000)
    parser.add_argument("--n-loop", type=int, default=500, help="networks aligned by the loop")
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 16, 16, 2])
    options = parser.parse_args()

    mlp = Architecture.mlp(options.sizes)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(options.n_networks, mlp.n_weights, generator=generator)
    aligner = PermutationAligner(mlp, random_state=0)

    fit_seconds, _ = seconds_of(lambda: aligner.fit(weights))
    seconds, _ = seconds_of(lambda: aligner.transform(weights))
    few = weights[: options.n_loop].double()
    loop_seconds, plain = seconds_of(lambda: plain_permutations(aligner, few))
    same = all(map(torch.equal, plain, aligner.permutations(few)))
    floor = assignment_seconds(mlp, options.n_networks)

    per_network = seconds / options.n_networks
    print(f"{options.n_networks} networks of {'-'.join(map(str, options.sizes))}")
    print(f"reference ({aligner.n_iter_} iterations)      {fit_seconds:8.2f} s")
    print(f"alignment                      {seconds:8.2f} s")
    print(f"together                       {fit_seconds + seconds:8.2f} s")
    print(f"alignment / assignment floor   {seconds / floor:8.1f}")
    print(
        f"plain loop / alignment         {loop_seconds / len(few) / per_network:8.1f} per network"
    )
    print(f"same permutations as the loop  {same!s:>8}")


def assignment_seconds(mlp, n_networks):
    """Seconds of one linear assignment per network and hidden layer."""
    rng = np.random.default_rng(0)
    sizes = [layer.n_out for layer in mlp.layers[:-1]]
    costs = [rng.normal(size=(n_networks, n, n)) for n in sizes]
    solve = linear_sum_assignment
    return seconds_of(lambda: [solve(c, maximize=True) for cost in costs for c in cost])[0]


if __name__ == "__main__":
    main()
