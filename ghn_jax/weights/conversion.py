"""Weights of the published PyTorch implementations as parameters of `Hypernetwork`.

Works on NumPy arrays; PyTorch is not needed.

Source: names of entries and forms of files from the code of GHN-2 (NeurIPS 2021) and of GHN-3 (ICML 2023).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax.checks import files
from ghn_jax.ghn import config as hypernet_config
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.embedders.graphormer import EDGE_ROWS, MAX_DEGREE, MAX_INPUT_DISTANCE
from ghn_jax.ghn.shape_encoder import channel_vocabulary, spatial_vocabulary
from ghn_jax.graphs.graph import NODE_TYPES
from ghn_jax.weights import joblib_file, torch_file
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.torch_pickle import Stored

CONFIG_ENTRY = "__config__"
"""Entry of an npz file that holds the configuration as JSON."""

_FIRST_LAYER = "gnn.0."

_MOVED = ("centrality_embed_in.weight", "centrality_embed_out.weight", "input_dist_embed.weight")
"""Entries of GHN-3 that its training script writes as parts of the first layer, and its published files do not."""


class ConversionError(CheckpointError):
    """A state dictionary or configuration that does not belong to a hypernetwork."""


class Published(NamedTuple):
    """A checkpoint of the published implementation.

    Attributes:
      config: of the hypernetwork.
      params: of `Hypernetwork(config)`, float32.
      epochs: of training, None if the file does not say.
    """

    config: HypernetConfig
    params: dict[str, Any]
    epochs: int | None


class StateEntry(NamedTuple):
    """An entry of a state dictionary: its shape there, and how and where it enters the parameters.

    Attributes:
      shape: as it is usually written.
      path: of the parameter.
      layout: from the entry to the parameter.
      also: another shape that it may have.
    """

    shape: tuple[int, ...]
    path: tuple[str, ...]
    layout: Callable[[np.ndarray], np.ndarray]
    also: tuple[int, ...] | None = None


def load_checkpoint(path: str | os.PathLike[str]) -> Published:
    """A checkpoint file of a published implementation, without running anything in it.

    Three forms are known.  The training scripts of GHN-2 and GHN-3 write `state_dict`, `config`, `epoch` (counted from
    0), and more that is not read (`torch.save`).  The hub's files of GHN-3 are a state dictionary alone
    (`joblib.dump`): its configuration follows from names and shapes (`inferred_config`).  So may `torch.save`'s be.

    Raises:
      CheckpointError: no such file, one that is damaged or holds anything but a state dictionary's parts, or a state
        dictionary that does not belong to the configuration beside it.
    """
    name = os.fspath(path)
    with _opened(path) as file:
        contents = file.contents
        try:
            if _is_state_dict(contents):
                stored = _stored(contents, file.size)
                config = inferred_config({entry: tensor.shape for entry, tensor in stored.items()})
            elif isinstance(contents, dict) and {"state_dict", "config"} <= set(contents):
                config = published_config(contents["config"], file.size)
                stored = _stored(contents["state_dict"], file.size)
            else:
                found = f"entries {sorted(map(str, contents))[:8]}" if isinstance(contents, dict) else "no dictionary"
                raise ConversionError(f"it has {found}: expected state_dict and config, or a state dictionary alone")
            _check(stored, config)
            params = params_from_torch({entry: file.array(tensor) for entry, tensor in stored.items()}, config)
        except ConversionError as error:
            raise ConversionError(f"{name}: {error}") from error
    epoch = None if _is_state_dict(contents) else contents.get("epoch")
    return Published(config, params, epoch + 1 if type(epoch) is int and epoch >= 0 else None)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[torch_file.TorchFile | joblib_file.JoblibFile]:
    """The file, whichever library wrote it."""
    opened = joblib_file.opened if joblib_file.looks_like_one(path) else torch_file.opened
    with opened(path) as file:
        yield file


def _is_state_dict(contents: Any) -> bool:
    return isinstance(contents, dict) and bool(contents) and all(type(v) is Stored for v in contents.values())


def inferred_config(shapes: Mapping[str, tuple[int, ...]]) -> HypernetConfig:
    """The configuration of a state dictionary that has none beside it, from the shapes of its entries.

    What shapes do not say is taken to be as in all published ones: predicted weights are normalised.

    Raises:
      ConversionError: entries that are missing, or shapes that make no hypernetwork.
    """

    def sizes(name: str) -> tuple[int, ...]:
        shape = shapes.get(name)
        if shape is None:
            raise ConversionError(f"the state dictionary has no {name}, from which its configuration could be inferred")
        if len(shape) != 2 and (len(shape) != 4 or shape[2:] != (1, 1)):
            raise ConversionError(f"{name} has shape {shape}: expected a matrix or a 1x1 convolution")
        return shape[:2]

    _, hid = sizes("embed.weight")
    classes, out = sizes("decoder.class_layer_predictor.1.weight")
    kernels, _ = sizes("decoder.conv.2.weight")
    positions = sizes("decoder.fc.0.weight")[0] // (4 * hid)
    layers = sum(name.startswith("gnn.") and name.endswith(".ln1.weight") for name in shapes)
    fields: dict[str, Any] = {
        "max_shape": (out, kernels // out, math.isqrt(positions), math.isqrt(positions)),
        "num_classes": classes,
        "weight_norm": True,
        "layernorm": "ln.weight" in shapes,
        "hid": hid,
    }
    if layers:
        heads = sizes(f"{_FIRST_LAYER}attn.proj_e.2.weight")[0]
        fields |= {"hypernet": "graphormer", "decoder": "conv3", "ve": True, "heads": heads, "layers": layers}
    else:
        fields |= {"hypernet": "gatedgnn", "ve": "gnn.mlp_ve.fc.0.weight" in shapes}
    try:
        return hypernet_config.from_fields(fields)
    except ConfigError as error:
        raise ConversionError(f"the shapes of the state dictionary make no hypernetwork: {error}") from error


def published_config(fields: Any, largest: int) -> HypernetConfig:
    """The configuration that a published checkpoint holds: the arguments of the original's `GHN` or `GHN3`.

    Fields that are left out take the original's defaults, which are those of `HypernetConfig`; `max_shape` and
    `num_classes` have none.  `is_ghn2` is of GHN-3's code alone: if False, embedder and decoder are GHN-3's, whatever
    else is said of them; if True, heads and layers mean nothing.  Only `pretrained` and `debug_level`, which are of no
    consequence, are ignored.

    Args:
      fields: as they were read.
      largest: no size may exceed it, such as the number of bytes that all weights take.

    Raises:
      ConversionError: naming what is missing, unknown or wrong.
    """
    if not isinstance(fields, dict):
        raise ConversionError("config is no dictionary")
    missing = {"max_shape", "num_classes"} - set(fields)
    if missing:
        raise ConversionError(f"config has no {', '.join(sorted(missing))}")
    plain = {str(field): _plain(field, value) for field, value in fields.items() if field not in _IGNORED}
    is_ghn2 = plain.pop("is_ghn2", None)
    if type(is_ghn2) not in (bool, type(None)):
        raise ConversionError(f"config has is_ghn2={is_ghn2!r}: expected True or False")
    if is_ghn2 is False:
        missing = {"heads", "layers"} - set(plain)
        if missing:
            raise ConversionError(f"config has no {', '.join(sorted(missing))}")
        plain |= {"hypernet": "graphormer", "decoder": "conv3"}
    elif is_ghn2:
        plain = {field: value for field, value in plain.items() if field not in ("heads", "layers")}
    sizes = [plain["num_classes"], plain.get("hid", 0), *np.atleast_1d(np.array(plain["max_shape"], object))]
    for size in sizes:
        if type(size) is int and size > largest:
            raise ConversionError(f"config asks for {size:,} of something, more than the file has bytes")
    try:
        return hypernet_config.from_fields(plain)
    except ConfigError as error:
        raise ConversionError(f"config: {error}") from error


_IGNORED = ("pretrained", "debug_level")


def _plain(field: Any, value: Any) -> Any:
    """A number, a short text, or a few of them; other values could not even be shown in a message."""
    single = (bool, int, float, str, type(None))
    items = value if type(value) in (tuple, list) else (value,)
    if len(items) > 8 or any(type(item) not in single or len(str(item)) > 80 for item in items):
        raise ConversionError(f"config[{str(field)[:80]!r}] is a {type(value).__name__}: expected numbers or a name")
    return tuple(value) if type(value) is list else value


def _stored(state_dict: Any, size: int) -> dict[str, Stored]:
    """The entries, all of them tensors, of the state dictionary of a file of this size, by the names of the hub."""
    if not isinstance(state_dict, dict):
        raise ConversionError("state_dict is no dictionary")
    for entry, value in state_dict.items():
        if not isinstance(value, Stored) or type(entry) is not str:
            raise ConversionError(f"state_dict[{str(entry)[:80]!r}] is no tensor")
        if value.elements > size:
            raise ConversionError(f"{entry[:80]} has {value.elements:,} elements, more than the file has bytes")
    try:
        torch_file.check_total(state_dict.values(), size)
    except CheckpointError as error:
        raise ConversionError(str(error)) from None
    moved: dict[str, str] = {_FIRST_LAYER + entry: entry for entry in _MOVED}
    if twice := [entry for entry in moved if entry in state_dict and moved[entry] in state_dict]:
        raise ConversionError(f"state_dict has both {twice[0]} and {moved[twice[0]]}")
    return {moved.get(str(entry), str(entry)): value for entry, value in state_dict.items()}


def params_from_torch(state_dict: Mapping[str, np.ndarray], config: HypernetConfig) -> dict[str, Any]:
    """Parameters of `Hypernetwork(config)` from a state dictionary of the published implementation.

    Raises:
      ConversionError: naming entries that are missing, too many, of another shape, not numbers or not finite.
    """
    expected = _check(state_dict, config)
    params: dict[str, Any] = {}
    for name, entry in expected.items():
        with np.errstate(over="ignore"):
            values = np.asarray(state_dict[name], np.float32)
        if not np.isfinite(values).all():
            raise ConversionError(f"{name} has values that are not finite float32 numbers")
        tree = params
        for key in entry.path[:-1]:
            tree = tree.setdefault(key, {})
        tree[entry.path[-1]] = jax.device_put(
            np.array(entry.layout(values))
        )  # a copy: what it is made of stays its owner's
    return params


def _check(state_dict: Mapping[str, np.ndarray | Stored], config: HypernetConfig) -> dict[str, StateEntry]:
    """The entries that `config` has, after checking that the state dictionary has these."""
    expected = state_entries(config)
    missing = sorted(set(expected) - set(state_dict))
    surplus = sorted(set(state_dict) - set(expected))
    if missing or surplus:
        found = (("missing", missing), ("surplus", surplus))
        parts = "; ".join(f"{label} {_listed(names)}" for label, names in found if names)
        raise ConversionError(f"the state dictionary does not belong to {config}: {parts}")
    for name, entry in expected.items():
        values = state_dict[name]
        if values.shape not in (entry.shape, entry.also):
            raise ConversionError(f"{name} has shape {values.shape}: expected {entry.shape} for {config}")
        if not np.issubdtype(values.dtype, np.floating):
            raise ConversionError(f"{name} has type {values.dtype}: expected floating point numbers")
    return expected


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def load_npz(path: str | os.PathLike[str]) -> tuple[HypernetConfig, dict[str, Any]]:
    """Configuration and parameters from a file with the entries of a state dictionary and `__config__`.

    Raises:
      ConversionError: no configuration in it, or entries that do not belong to it.
      ConfigError: a configuration that makes no hypernetwork.
    """
    with files.open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
        state_dict = {name: archive[name] for name in archive.files}
    if CONFIG_ENTRY not in state_dict:
        raise ConversionError(f"{os.fspath(path)} has no entry {CONFIG_ENTRY}")
    config = hypernet_config.from_json(str(state_dict.pop(CONFIG_ENTRY)))
    return config, params_from_torch(state_dict, config)


def state_entries(config: HypernetConfig) -> dict[str, StateEntry]:
    """The entries of a published state dictionary for `config`, by name."""
    hid = config.hid
    found = {
        "embed.weight": StateEntry((len(NODE_TYPES), hid), ("node_type", "embedding"), _same),
        "shape_enc.embed_channel.weight": StateEntry(
            (len(channel_vocabulary(config.num_classes)) + 1, hid // 4), ("shape_encoder", "channels"), _same
        ),
        "shape_enc.embed_spatial.weight": StateEntry(
            (len(spatial_vocabulary(config.max_kernel)) + 1, hid // 4), ("shape_encoder", "spatial"), _same
        ),
    }
    if config.layernorm:
        found["ln.weight"] = StateEntry((hid,), ("norm", "scale"), _same)
        found["ln.bias"] = StateEntry((hid,), ("norm", "bias"), _same)
    if config.hypernet not in _KINDS:
        known = ", ".join(_KINDS)
        raise ConversionError(f"no published checkpoints of hypernet={config.hypernet!r} are known, only of {known}")
    found |= _KINDS[config.hypernet](config)
    found |= _DECODERS[config.decoder](config)
    channels = max(config.max_out, config.max_in)
    found |= _mlp("decoder_1d", ("vector_decoder", "mlp"), hid, 2 * hid, 2 * channels)
    found |= _linear("bias_class.1", ("vector_decoder", "classes"), channels, config.num_classes)
    return found


def _gated_gnn(config: HypernetConfig) -> dict[str, StateEntry]:
    hid = config.hid
    hidden = hid // 2 if config.ve else hid
    found = _mlp("gnn.mlp", ("gnn", "message"), hid, hidden, hid)
    if config.ve:
        found |= _mlp("gnn.mlp_ve", ("gnn", "message_ve"), hid, hidden, hid)
    for name, layer in (("ih", "gru_input"), ("hh", "gru_hidden")):
        found[f"gnn.gru.weight_{name}"] = StateEntry((3 * hid, hid), ("gnn", layer, "kernel"), np.transpose)
        found[f"gnn.gru.bias_{name}"] = StateEntry((3 * hid,), ("gnn", layer, "bias"), _same)
    return found


def _node_mlp(config: HypernetConfig) -> dict[str, StateEntry]:
    return _mlp("gnn", ("gnn",), config.hid, config.hid, config.hid)


def _graphormer(config: HypernetConfig) -> dict[str, StateEntry]:
    hid = config.hid
    tables = {
        "centrality_embed_in": (MAX_DEGREE + 1, "in_degree"),
        "centrality_embed_out": (MAX_DEGREE + 1, "out_degree"),
        "input_dist_embed": (MAX_INPUT_DISTANCE + 1, "input_distance"),
        f"{_FIRST_LAYER}attn.edge_embed.embed": (EDGE_ROWS, "edge"),
    }
    found = {f"{name}.weight": StateEntry((rows, hid), ("gnn", field), _same) for name, (rows, field) in tables.items()}
    found |= _linear(f"{_FIRST_LAYER}attn.proj_e.0", ("gnn", "edge_bias", "first"), 2 * hid, hid)
    found |= _linear(f"{_FIRST_LAYER}attn.proj_e.2", ("gnn", "edge_bias", "second"), hid, config.heads)
    for layer in range(config.layers):
        name, path = f"gnn.{layer}", ("gnn", f"layers_{layer}")
        for norm, field in (("ln1", "attention_norm"), ("ln2", "mlp_norm")):
            found[f"{name}.{norm}.weight"] = StateEntry((hid,), (*path, field, "scale"), _same)
            found[f"{name}.{norm}.bias"] = StateEntry((hid,), (*path, field, "bias"), _same)
        found[f"{name}.attn.to_qkv.weight"] = StateEntry((3 * hid, hid), (*path, "qkv"), np.transpose)
        found |= _linear(f"{name}.attn.to_out.0", (*path, "out"), hid, hid)
        found |= _linear(f"{name}.ff.net.0", (*path, "first"), hid, 4 * hid)
        found |= _linear(f"{name}.ff.net.3", (*path, "second"), 4 * hid, hid)
    return found


_KINDS = {"gatedgnn": _gated_gnn, "graphormer": _graphormer, "mlp": _node_mlp}


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _linear(name: str, path: tuple[str, ...], inputs: int, features: int) -> dict[str, StateEntry]:
    return {
        f"{name}.weight": StateEntry((features, inputs), (*path, "kernel"), np.transpose),
        f"{name}.bias": StateEntry((features,), (*path, "bias"), _same),
    }


def _pointwise(name: str, path: tuple[str, ...], inputs: int, features: int) -> dict[str, StateEntry]:
    """A 1x1 convolution of GHN-2, a linear layer of GHN-3's code and here."""

    def kernel(values):
        return values.reshape(features, inputs).T

    return {
        f"{name}.weight": StateEntry((features, inputs, 1, 1), (*path, "kernel"), kernel, (features, inputs)),
        f"{name}.bias": StateEntry((features,), (*path, "bias"), _same),
    }


def _mlp(name: str, path: tuple[str, ...], inputs: int, hidden: int, features: int) -> dict[str, StateEntry]:
    first = _linear(f"{name}.fc.0", (*path, "first"), inputs, hidden)
    return first | _linear(f"{name}.fc.2", (*path, "second"), hidden, features)


def _conv_decoder(config: HypernetConfig) -> dict[str, StateEntry]:
    hid, (out, inputs, side, _) = config.hid, config.max_shape
    features = 4 * hid
    positions = side * side

    def kernel_by_position(values):  # [4 hid * S * S, hid] -> [S * S, hid, 4 hid]
        return values.reshape(features, positions, hid).transpose(1, 2, 0)

    def bias_by_position(values):
        return values.reshape(features, positions).T

    def last_bias(values):
        return values.reshape(out, inputs).T

    def last_kernel(values):  # [out * in, 8 hid] or [out * in, 8 hid, 1, 1] -> [8 hid, in, out]
        return values.reshape(out, inputs, 2 * features).transpose(2, 1, 0)

    return {
        "decoder.fc.0.weight": StateEntry(
            (features * positions, hid), ("decoder", "position_kernel"), kernel_by_position
        ),
        "decoder.fc.0.bias": StateEntry((features * positions,), ("decoder", "position_bias"), bias_by_position),
        **_pointwise("decoder.conv.0", ("decoder", "conv"), features, 2 * features),
        "decoder.conv.2.weight": StateEntry(
            (out * inputs, 2 * features, 1, 1), ("decoder", "kernel"), last_kernel, (out * inputs, 2 * features)
        ),
        "decoder.conv.2.bias": StateEntry((out * inputs,), ("decoder", "bias"), last_bias),
        **_pointwise("decoder.class_layer_predictor.1", ("decoder", "classes"), out, config.num_classes),
    }


def _mlp_decoder(config: HypernetConfig) -> dict[str, StateEntry]:
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
        "decoder.mlp.fc.2.weight": StateEntry(
            (out * inputs * positions, hidden), ("decoder", "position_kernel"), kernel_by_position
        ),
        "decoder.mlp.fc.2.bias": StateEntry(
            (out * inputs * positions,), ("decoder", "position_bias"), bias_by_position
        ),
        "decoder.class_layer_predictor.1.weight": StateEntry(
            (classes * inputs, hidden), ("decoder", "class_kernel"), class_kernel
        ),
        "decoder.class_layer_predictor.1.bias": StateEntry(
            (classes * inputs,), ("decoder", "class_bias"), lambda values: values.reshape(classes, inputs).T
        ),
    }


_DECODERS = {"conv": _conv_decoder, "conv3": _conv_decoder, "mlp": _mlp_decoder}
