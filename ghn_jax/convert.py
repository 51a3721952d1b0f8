"""Weights of the published PyTorch implementation as parameters of `Hypernetwork`.

Works on NumPy arrays; PyTorch is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ghn_jax.ghn import config as hypernet_config
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.shape_encoder import channel_vocabulary, spatial_vocabulary
from ghn_jax.graph import NODE_TYPES

CONFIG_ENTRY = "__config__"
"""Entry of an npz file that holds the configuration as JSON."""


class ConversionError(ValueError):
    """A state dictionary that does not belong to the hypernetwork."""


class Entry(NamedTuple):
    """An entry of a state dictionary: its shape there, and how and where it enters the parameters."""

    shape: tuple[int, ...]
    path: tuple[str, ...]
    layout: Callable[[np.ndarray], np.ndarray]


def from_torch(state_dict: Mapping[str, np.ndarray], config: HypernetConfig) -> dict[str, Any]:
    """Parameters of `Hypernetwork(config)` from a state dictionary of the published implementation.

    Raises:
      ConversionError: naming entries that are missing, too many, of another shape or not numbers.
    """
    expected = entries(config)
    missing = sorted(set(expected) - set(state_dict))
    surplus = sorted(set(state_dict) - set(expected))
    if missing or surplus:
        found = (("missing", missing), ("surplus", surplus))
        parts = "; ".join(f"{label} {', '.join(names)}" for label, names in found if names)
        raise ConversionError(f"the state dictionary does not belong to {config}: {parts}")
    params: dict[str, Any] = {}
    for name, entry in expected.items():
        values = np.asarray(state_dict[name])
        if values.shape != entry.shape:
            raise ConversionError(f"{name} has shape {values.shape}: expected {entry.shape} for {config}")
        if not np.issubdtype(values.dtype, np.floating):
            raise ConversionError(f"{name} has type {values.dtype}: expected floating point numbers")
        tree = params
        for key in entry.path[:-1]:
            tree = tree.setdefault(key, {})
        tree[entry.path[-1]] = jnp.asarray(entry.layout(values), jnp.float32)
    return params


def load_npz(path: str | os.PathLike[str]) -> tuple[HypernetConfig, dict[str, Any]]:
    """Configuration and parameters from a file with the entries of a state dictionary and `__config__`.

    Raises:
      ConversionError: no configuration in it, or entries that do not belong to it.
      ConfigError: a configuration that makes no hypernetwork.
    """
    with np.load(path, allow_pickle=False) as archive:
        state_dict = {name: archive[name] for name in archive.files}
    if CONFIG_ENTRY not in state_dict:
        raise ConversionError(f"{os.fspath(path)} has no entry {CONFIG_ENTRY}")
    config = hypernet_config.from_json(str(state_dict.pop(CONFIG_ENTRY)))
    return config, from_torch(state_dict, config)


def entries(config: HypernetConfig) -> dict[str, Entry]:
    """The entries of a published state dictionary for `config`, by name."""
    hid = config.hid
    found = {
        "embed.weight": Entry((len(NODE_TYPES), hid), ("node_type", "embedding"), _same),
        "shape_enc.embed_channel.weight": Entry(
            (len(channel_vocabulary(config.num_classes)) + 1, hid // 4), ("shape_encoder", "channels"), _same
        ),
        "shape_enc.embed_spatial.weight": Entry(
            (len(spatial_vocabulary(config.max_kernel)) + 1, hid // 4), ("shape_encoder", "spatial"), _same
        ),
    }
    if config.layernorm:
        found["ln.weight"] = Entry((hid,), ("norm", "scale"), _same)
        found["ln.bias"] = Entry((hid,), ("norm", "bias"), _same)
    if config.hypernet == "mlp":
        found |= _mlp("gnn", ("gnn",), hid, hid, hid)
    else:
        hidden = hid // 2 if config.ve else hid
        found |= _mlp("gnn.mlp", ("gnn", "message"), hid, hidden, hid)
        if config.ve:
            found |= _mlp("gnn.mlp_ve", ("gnn", "message_ve"), hid, hidden, hid)
        for name, layer in (("ih", "gru_input"), ("hh", "gru_hidden")):
            found[f"gnn.gru.weight_{name}"] = Entry((3 * hid, hid), ("gnn", layer, "kernel"), np.transpose)
            found[f"gnn.gru.bias_{name}"] = Entry((3 * hid,), ("gnn", layer, "bias"), _same)
    found |= _conv_decoder(config) if config.decoder == "conv" else _mlp_decoder(config)
    channels = max(config.max_out, config.max_in)
    found |= _mlp("decoder_1d", ("vector_decoder", "mlp"), hid, 2 * hid, 2 * channels)
    found |= _linear("bias_class.1", ("vector_decoder", "classes"), channels, config.num_classes)
    return found


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _linear(name: str, path: tuple[str, ...], inputs: int, features: int) -> dict[str, Entry]:
    return {
        f"{name}.weight": Entry((features, inputs), (*path, "kernel"), np.transpose),
        f"{name}.bias": Entry((features,), (*path, "bias"), _same),
    }


def _pointwise(name: str, path: tuple[str, ...], inputs: int, features: int) -> dict[str, Entry]:
    """A 1x1 convolution, which is a linear layer here."""
    return {
        f"{name}.weight": Entry((features, inputs, 1, 1), (*path, "kernel"), lambda values: values[:, :, 0, 0].T),
        f"{name}.bias": Entry((features,), (*path, "bias"), _same),
    }


def _mlp(name: str, path: tuple[str, ...], inputs: int, hidden: int, features: int) -> dict[str, Entry]:
    first = _linear(f"{name}.fc.0", (*path, "first"), inputs, hidden)
    return first | _linear(f"{name}.fc.2", (*path, "second"), hidden, features)


def _conv_decoder(config: HypernetConfig) -> dict[str, Entry]:
    hid, (out, inputs, side, _) = config.hid, config.max_shape
    features = 4 * hid
    positions = side * side

    def kernel_by_position(values):  # [4 hid * S * S, hid] -> [S * S, hid, 4 hid]
        return values.reshape(features, positions, hid).transpose(1, 2, 0)

    def bias_by_position(values):
        return values.reshape(features, positions).T

    def last_bias(values):
        return values.reshape(out, inputs).T

    def last_kernel(values):  # [out * in, 8 hid, 1, 1] -> [8 hid, in, out]
        return values.reshape(out, inputs, 2 * features).transpose(2, 1, 0)

    return {
        "decoder.fc.0.weight": Entry((features * positions, hid), ("decoder", "position_kernel"), kernel_by_position),
        "decoder.fc.0.bias": Entry((features * positions,), ("decoder", "position_bias"), bias_by_position),
        **_pointwise("decoder.conv.0", ("decoder", "conv"), features, 2 * features),
        "decoder.conv.2.weight": Entry((out * inputs, 2 * features, 1, 1), ("decoder", "kernel"), last_kernel),
        "decoder.conv.2.bias": Entry((out * inputs,), ("decoder", "bias"), last_bias),
        **_pointwise("decoder.class_layer_predictor.1", ("decoder", "classes"), out, config.num_classes),
    }


def _mlp_decoder(config: HypernetConfig) -> dict[str, Entry]:
    (out, inputs, side, _), hidden = config.max_shape, 2 * config.hid
    positions = side * side
    classes = config.num_classes

    def kernel_by_position(values):  # [out * in * S * S, 2 hid] -> [S * S, 2 hid, in, out]
        return values.reshape(out, inputs, positions, hidden).transpose(2, 3, 1, 0)

    def bias_by_position(values):
        return values.reshape(out, inputs, positions).transpose(2, 1, 0)

    def class_kernel(values):  # [classes * in, 2 hid] -> [2 hid, in, classes]
        return values.reshape(classes, inputs, hidden).transpose(2, 1, 0)

    return {
        **_linear("decoder.mlp.fc.0", ("decoder", "first"), config.hid, hidden),
        "decoder.mlp.fc.2.weight": Entry(
            (out * inputs * positions, hidden), ("decoder", "position_kernel"), kernel_by_position
        ),
        "decoder.mlp.fc.2.bias": Entry((out * inputs * positions,), ("decoder", "position_bias"), bias_by_position),
        "decoder.class_layer_predictor.1.weight": Entry(
            (classes * inputs, hidden), ("decoder", "class_kernel"), class_kernel
        ),
        "decoder.class_layer_predictor.1.bias": Entry(
            (classes * inputs,), ("decoder", "class_bias"), lambda values: values.reshape(classes, inputs).T
        ),
    }
