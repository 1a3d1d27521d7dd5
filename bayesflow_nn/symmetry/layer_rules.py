"""How layers tie the units of their inputs, outputs, parameters and buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from bayesflow_nn.symmetry.labelled import (
    Labelled,
    Rule,
    Run,
    UnsupportedOperationError,
    along,
    values_of,
)
from bayesflow_nn.symmetry.operation_rules import linear, moved, pooled, record_output, tie_along
from bayesflow_nn.symmetry.units import FIXED


def _linear_module(run: Run, module: nn.Linear, x: Labelled) -> Labelled:
    return linear(run, x, module.weight, module.bias)


def _convolution(run: Run, module: nn.modules.conv._ConvNd, x: Labelled) -> Labelled:
    if module.transposed:
        raise UnsupportedOperationError(f"module of type {type(module).__name__}")
    value, weight, bias = module(x.value), module.weight, module.bias
    channels = run.reduce(x.units, 1)
    if module.groups == 1:
        run.record(weight, 1, channels)
        return record_output(run, value, run.make(value, 1, len(weight)), weight, bias, 1)
    if module.groups == module.in_channels == module.out_channels:
        return record_output(run, value, along(channels, 1, value.shape), weight, bias, 1)
    # Whole groups may trade places, and output channels inside of them; the order of the inputs
    # inside of a group is left alone.
    blocks = run.units.new(module.groups, run.event)
    n_inputs = module.in_channels // module.groups
    run.units.adopt(channels, np.repeat(blocks, n_inputs))
    for place, same_place in enumerate(channels.reshape(module.groups, n_inputs).T):
        run.units.mark(same_place, 2**40 + place)
    units = run.make(value, 1, module.out_channels)
    run.units.adopt(run.reduce(units, 1), np.repeat(blocks, module.out_channels // module.groups))
    return record_output(run, value, units, weight, bias, 1)


def _batch_norm(run: Run, module: nn.modules.batchnorm._BatchNorm, x: Labelled) -> Labelled:
    channels = run.reduce(x.units, 1)
    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
        run.record(tensor, 0, channels)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _layer_norm(run: Run, module: nn.LayerNorm | nn.RMSNorm, x: Labelled) -> Labelled:
    if len(module.normalized_shape) > 1:
        run.units.fix(x.units)  # which axes could be permuted is not followed
    else:
        features = run.reduce(x.units, -1)
        run.record(module.weight, 0, features)
        run.record(getattr(module, "bias", None), 0, features)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _group_norm(run: Run, module: nn.GroupNorm, x: Labelled) -> Labelled:
    channels = run.reduce(x.units, 1)
    if 1 < module.num_groups < len(channels):
        blocks = run.units.new(module.num_groups, run.event)
        run.units.adopt(channels, np.repeat(blocks, len(channels) // module.num_groups))
    run.record(module.weight, 0, channels)
    run.record(module.bias, 0, channels)
    return Labelled(module(x.value), run.units.resolve(x.units))


def _pooling_module(run: Run, module: nn.Module, x: Labelled) -> Labelled:
    return pooled(run, module, x)


def _embedding(run: Run, module: nn.Embedding, x: Labelled) -> Labelled:
    value = module(x.value)
    units = run.make(value, value.ndim - 1, module.embedding_dim)
    run.record(module.weight, 1, run.reduce(units, -1))
    return Labelled(value, run.units.resolve(units))


def _attention_module(
    run: Run,
    module: nn.MultiheadAttention,
    query: Labelled,
    key: Labelled,
    value: Labelled,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Labelled, Labelled | None]:
    """`nn.MultiheadAttention`, from its parts."""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UnsupportedOperationError("nn.MultiheadAttention with kdim, add_bias_kv or zero_attn")
    options = values_of(
        {
            "key_padding_mask": key_padding_mask,
            "need_weights": need_weights,
            "attn_mask": attn_mask,
            "average_attn_weights": average_attn_weights,
            "is_causal": is_causal,
        }
    )
    output, weights = module(*values_of((query, key, value)), **options)
    if weights is not None:
        weights = Labelled(weights, np.full(weights.shape, FIXED))
    stream = run.reduce(query.units, -1)
    run.units.unify(stream, run.reduce(key.units, -1))
    run.units.unify(stream, run.reduce(value.units, -1))
    run.record(module.in_proj_weight, 1, run.units.resolve(stream))
    projected = run.units.new(3 * module.embed_dim, run.event)
    q, k, v = projected.reshape(3, module.num_heads, module.head_dim)
    run.units.unify(q, k)
    run.units.mark(v, 2**41 + run.event)  # q and k are told from v
    if module.num_heads > 1:
        heads = run.units.new(module.num_heads, run.event)[:, None]
        run.units.adopt(q, heads)
        run.units.adopt(v, heads)
        mask = options["attn_mask"]
        # A mask of its own for every head, or weights of every head, hold the heads in place.
        if (mask is not None and mask.ndim == 3) or (need_weights and not average_attn_weights):
            run.units.fix(heads)
    run.record(module.in_proj_weight, 0, projected)
    run.record(module.in_proj_bias, 0, projected)
    run.record(module.out_proj.weight, 1, v.flatten())
    made = run.units.new(module.embed_dim, run.event)
    run.record(module.out_proj.weight, 0, made)
    run.record(module.out_proj.bias, 0, made)
    return Labelled(output, along(made, output.ndim - 1, output.shape)), weights


def _module_of_elements(run: Run, module: nn.Module, x: Labelled) -> Labelled:
    return Labelled(module(x.value), x.units)


def _softmax(run: Run, module: nn.Softmax | nn.LogSoftmax, x: Labelled) -> Labelled:
    if module.dim is None:
        raise UnsupportedOperationError("a softmax without dim")
    return Labelled(module(x.value), tie_along(run, x.units, module.dim))


def _prelu(run: Run, module: nn.PReLU, x: Labelled) -> Labelled:
    if module.num_parameters > 1:
        run.record(module.weight, 0, run.reduce(x.units, 1))
    return Labelled(module(x.value), run.units.resolve(x.units))


def _flatten_module(run: Run, module: nn.Module, x: Labelled) -> Labelled:
    return moved(module)(run, x)


_ELEMENT_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.Softplus,
    nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Identity, nn.Dropout,
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
)  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip

MODULES: dict[type, Rule] = {
    nn.Linear: _linear_module,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention_module,
    nn.PReLU: _prelu,
    nn.Softmax: _softmax,
    nn.LogSoftmax: _softmax,
    nn.Flatten: _flatten_module,
    nn.Unflatten: _flatten_module,
    **dict.fromkeys(_ELEMENT_MODULES, _module_of_elements),
    **dict.fromkeys(_POOLING_MODULES, _pooling_module),
}
"""Rules of layers."""
