"""How layers carry scales to their outputs, parameters and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from bayesflow_nn.symmetry.labelled import Labelled, Rule, along, find_labelled, fixed, values_of
from bayesflow_nn.symmetry.operation_rules import moved
from bayesflow_nn.symmetry.scale_factors import Factor, ScaleRun
from bayesflow_nn.symmetry.scale_rules import equivariant, hardtanh, linear, pooling


def _linear(run: ScaleRun, module: nn.Linear, x: Labelled) -> Labelled:
    return linear(run, x, module.weight, module.bias)


def _convolution(run: ScaleRun, module: nn.modules.conv._ConvNd, x: Labelled) -> Labelled:
    if not run.knows(module.weight, module.bias):
        return NotImplemented
    value, axis = module(x.value), x.value.ndim - len(module.kernel_size) - 1
    channels = run.reduce(x.units, axis)
    made = run.units.new(module.out_channels, run.event)
    rows, columns = (1, 0) if module.transposed else (0, 1)
    factors = {Factor("weight", rows): made, Factor("outgoing", columns): channels}
    if module.groups > 1:
        if module.transposed:
            return NotImplemented
        factors = {Factor("weight", 0): made}
        if module.groups == module.in_channels:
            inputs = np.repeat(channels, module.out_channels // module.in_channels)
            factors[Factor("outgoing", 0)] = inputs
        else:
            run.units.fix(channels)  # which column reads which channel depends on the row
    run.use(module.weight, factors)
    run.use(module.bias, {Factor("bias", 0): made})
    return Labelled(value, along(made, axis, value.shape))


def _affine(run: ScaleRun, module: nn.Module, value: Tensor, axis: int) -> Labelled:
    """Output of a norm, which has no scale but that of its own weight and bias."""
    bias = getattr(module, "bias", None)
    if module.weight is None or not run.knows(module.weight, bias):
        return fixed(value)
    made = run.units.new(len(module.weight), run.event)
    run.use(module.weight, {Factor("weight", 0): made})
    run.use(bias, {Factor("bias", 0): made})
    return Labelled(value, along(made, axis, value.shape))


def _batch_norm(run: ScaleRun, module: nn.modules.batchnorm._BatchNorm, x: Labelled) -> Labelled:
    if run.signs or module.running_var is None:
        run.units.fix(x.units)
    else:
        channels = run.reduce(x.units, 1)
        run.use(module.running_mean, {Factor("mean", 0): channels})
        run.use(module.running_var, {Factor("variance", 0, module.eps): channels})
    return _affine(run, module, module(x.value), 1)


def _layer_norm(run: ScaleRun, module: nn.LayerNorm | nn.RMSNorm, x: Labelled) -> Labelled:
    if len(module.normalized_shape) > 1:
        return NotImplemented
    run.units.fix(x.units)
    return _affine(run, module, module(x.value), x.value.ndim - 1)


def _group_norm(run: ScaleRun, module: nn.GroupNorm, x: Labelled) -> Labelled:
    run.units.fix(x.units)
    return _affine(run, module, module(x.value), 1)


def _embedding(run: ScaleRun, module: nn.Embedding, x: Labelled) -> Labelled:
    if module.max_norm is not None or not run.knows(module.weight):
        return NotImplemented
    value = module(x.value)
    made = run.units.new(module.embedding_dim, run.event)
    run.use(module.weight, {Factor("weight", 1): made})
    return Labelled(value, along(made, value.ndim - 1, value.shape))


def _attention(
    run: ScaleRun,
    module: nn.MultiheadAttention,
    query: Labelled,
    key: Labelled,
    value: Labelled,
    **options: Any,
) -> tuple[Labelled, Labelled | None]:
    """`nn.MultiheadAttention`: outputs are linear in the values, whose weights must not change."""
    parts = module.in_proj_weight, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias
    plain = module.bias_k is None and not module.add_zero_attn
    if not plain or module.in_proj_weight is None or not run.knows(*parts):
        return NotImplemented
    for part in find_labelled(options):
        run.units.fix(part.units)
    output, weights = module(*values_of((query, key, value)), **values_of(options))
    stream = run.reduce(query.units, -1)
    run.units.unify(stream, run.reduce(key.units, -1))
    run.units.unify(stream, run.reduce(value.units, -1))
    projected = run.units.new(3 * module.embed_dim, run.event)
    run.units.fix(projected[: 2 * module.embed_dim])
    made = run.units.new(module.embed_dim, run.event)
    values = projected[2 * module.embed_dim :]
    run.use(parts[0], {Factor("weight", 0): projected, Factor("outgoing", 1): stream})
    run.use(parts[1], {Factor("bias", 0): projected})
    run.use(parts[2], {Factor("weight", 0): made, Factor("outgoing", 1): values})
    run.use(parts[3], {Factor("bias", 0): made})
    return Labelled(output, along(made, output.ndim - 1, output.shape)), fixed(weights)


def _prelu(run: ScaleRun, module: nn.PReLU, x: Labelled) -> Labelled:
    run.use(module.weight, {})
    return equivariant(module, "positive")(run, x)


def _hardtanh(run: ScaleRun, module: nn.Hardtanh, x: Labelled) -> Labelled:
    return hardtanh(run, x, module.min_val, module.max_val)


def _moving(run: ScaleRun, module: nn.Module, x: Labelled) -> Labelled:
    return moved(module)(run, x)


def _elements(kind: str) -> Rule:
    return lambda run, module, x: equivariant(module, kind)(run, x)


def _pooling(n_spatial: int, *, linear: bool) -> Rule:
    return lambda run, module, x: pooling(module, n_spatial, linear=linear)(run, x)


def _upsample(run: ScaleRun, module: nn.Upsample, x: Labelled) -> Labelled:
    return pooling(module, x.value.ndim - 2, linear=True)(run, x)


_KINDS = {
    "positive": (nn.ReLU, nn.LeakyReLU),
    "odd": (nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
    "linear": (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
}
_MAXIMA = ("MaxPool", "AdaptiveMaxPool")
_AVERAGES = ("AvgPool", "AdaptiveAvgPool", "ZeroPad", "ReflectionPad", "ReplicationPad")

MODULES: dict[type, Rule] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention,
    nn.PReLU: _prelu,
    nn.Hardtanh: _hardtanh,
    nn.Upsample: _upsample,
    nn.Flatten: _moving,
    nn.Unflatten: _moving,
    **{module: _elements(kind) for kind, modules in _KINDS.items() for module in modules},
    **{
        getattr(nn, f"{name}{d}d"): _pooling(d, linear=name in _AVERAGES)
        for name in (*_MAXIMA, *_AVERAGES)
        for d in (1, 2, 3)
    },
}
"""Rules of layers."""
