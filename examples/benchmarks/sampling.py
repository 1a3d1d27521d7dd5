"""Gradient evaluations per second of `LogPosterior`, against its bare matrix products.

64 chains of 13-16-16-2 on 500 inputs, class probabilities, normal prior. The bare products are the
eight matrix products of one forward and backward pass, into buffers allocated once, in the fastest
layout found. All that a gradient needs beside them (activations, soft maximum, biases, prior,
copies to the flat vector) is what the ratio charges.
All run in turns in this process; the figures are medians, and the least times. Autograd through
``Architecture.apply`` is timed beside them.

    python examples/benchmarks/sampling.py [--n-rounds 200]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bayesflow_nn.weights import Architecture
from bayesflow_nn.weights.log_posterior import LogPosterior

N_CHAINS, N_INPUTS, SIZES = 64, 500, [13, 16, 16, 2]


def make_bare_products() -> Callable[[], None]:
    n, rows, n_in = N_CHAINS, N_INPUTS, SIZES[0] + 1
    X = torch.randn(rows, n_in)
    w_1, w_2, w_3 = torch.randn(n, 16, n_in), torch.randn(n, 16, 16), torch.randn(n, 2, 16)
    h_1, h_2, d_1, d_2 = (torch.randn(n, 16, rows) for _ in range(4))
    z, d_3 = torch.randn(n, 2, rows), torch.randn(n, 2, rows)
    g_1, g_2, g_3 = torch.empty(n_in, n * 16), torch.empty_like(w_2), torch.empty_like(w_3)

    def run() -> None:
        torch.mm(w_1.view(-1, n_in), X.T, out=h_1.view(-1, rows))
        torch.bmm(w_2, h_1, out=h_2)
        torch.bmm(w_3, h_2, out=z)
        torch.bmm(d_3, h_2.mT, out=g_3)
        torch.bmm(w_3.mT, d_3, out=d_2)
        torch.bmm(d_2, h_1.mT, out=g_2)
        torch.bmm(w_2.mT, d_2, out=d_1)
        torch.mm(X.T, d_1.view(-1, rows).T, out=g_1)

    return run


def make_autograd(log_posterior: LogPosterior, weights: Tensor) -> Callable[[], None]:
    def run() -> None:
        leaf = weights.clone().requires_grad_()
        torch.autograd.grad(log_posterior(leaf).sum(), leaf)

    return run


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rounds", type=int, default=200)
    n_rounds = parser.parse_args().n_rounds
    torch.manual_seed(0)
    mlp = Architecture.mlp(SIZES)
    X = torch.randn(N_INPUTS, SIZES[0])
    log_posterior = LogPosterior(mlp, X, (X[:, 0] > 0).long(), prior=1.0)
    weights = torch.randn(N_CHAINS, mlp.n_weights)
    runs = {
        "bare products": make_bare_products(),
        "value_and_gradient": lambda: log_posterior.value_and_gradient(weights),
        "autograd": make_autograd(log_posterior, weights),
    }
    times = {name: [] for name in runs}
    for _ in range(n_rounds + 5):
        for name, run in runs.items():
            times[name].append(seconds(run))
    print(f"threads {torch.get_num_threads()}")
    # The least times are those of an idle machine.
    for statistic in (statistics.median, min):
        values = {name: statistic(values[5:]) for name, values in times.items()}
        for name, value in values.items():
            rate, ratio = N_CHAINS / value, value / values["bare products"]
            label = f"{name} ({statistic.__name__})"
            print(f"{label:28s} {1e3 * value:7.2f} ms {rate:8.0f} gradients/s {ratio:6.2f} x")


if __name__ == "__main__":
    main()
