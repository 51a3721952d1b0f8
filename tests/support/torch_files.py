"""Writes files of `torch.save`, and of `joblib.dump` with tensors in them, without PyTorch; sound ones and others."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import conversion

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class Name(NamedTuple):
    """Something importable, which a pickle only names."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of something in a pickle."""

    function: Any
    arguments: tuple[Any, ...]


class Persistent(NamedTuple):
    """A reference out of a pickle."""

    value: Any


class Built(NamedTuple):
    """An object whose state is set."""

    value: Any
    state: Any


class Raw(NamedTuple):
    """Instructions as they are."""

    code: bytes


GHN2_FIELDS = ("max_shape", "num_classes", "hypernet", "decoder", "weight_norm", "ve", "layernorm", "hid")

TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
LOAD = Name("torch.storage", "_load_from_bytes")
ORDERED = Name("collections", "OrderedDict")


def pickled(value: Any, protocol: int = 2) -> bytes:
    """The pickle of a value, in the instructions of protocol 2 as PyTorch uses it, but for bytes."""
    return bytes([0x80, protocol]) + _code(value) + b"."


def _code(value: Any) -> bytes:
    match value:
        case Raw(code):
            return code
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return _code(function) + _code(arguments) + b"R"
        case Persistent(inner):
            return _code(inner) + b"Q"
        case Built(inner, state):
            return _code(inner) + _code(state) + b"b"
        case bool():
            return b"\x88" if value else b"\x89"
        case None:
            return b"N"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case Mapping():
            return b"}(" + b"".join(_code(key) + _code(item) for key, item in value.items()) + b"u"
    raise TypeError(f"cannot pickle {value!r}")


def storage(key: str, kind: str, elements: int) -> Persistent:
    """A reference to a storage."""
    return Persistent(("storage", Name("torch", kind), key, "cuda:0", elements))


def tensor(key: str, kind: str, shape: tuple, elements: int, offset: Any = 0, strides: Any = None) -> Call:
    """A tensor in a storage, contiguous unless strides are given."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return Call(TENSOR, (storage(key, kind, elements), offset, shape, strides, False, Call(ORDERED, ())))


def storage_bytes(
    values: np.ndarray,
    *,
    order: str = "<",
    version: int = 1001,
    saved: Any = None,
    keys: Any = ("94",),
    elements: int | None = None,
) -> bytes:
    """A storage of these numbers as PyTorch before 1.6 wrote it, and as it lies in the pickles of newer ones."""
    kind = Name("torch", STORAGES[values.dtype.name])
    saved = Persistent(("storage", kind, "94", "cpu", values.size, None)) if saved is None else saved
    system = {"protocol_version": version, "little_endian": order == "<", "type_sizes": {"int": 4}}
    parts = [pickled(0x1950A86A20F9469CFC6C), pickled(version), pickled(system), pickled(saved), pickled(list(keys))]
    count = struct.pack(f"{order}q", values.size if elements is None else elements)
    return b"".join(parts) + count + values.astype(values.dtype.newbyteorder(order)).tobytes()


def inline_tensor(
    saved: bytes, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0
) -> Call:
    """A tensor whose storage lies in the pickle."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return Call(TENSOR, (Call(LOAD, (saved,)), offset, shape, strides, False, Call(ORDERED, ())))


def joblib_bytes(state: Mapping[str, np.ndarray]) -> bytes:
    """A file of `joblib.dump`, not compressed, with a dictionary of tensors."""
    return pickled({name: inline_tensor(storage_bytes(values), values.shape) for name, values in state.items()}, 4)


def as_published(config: HypernetConfig, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dictionary in the shapes that GHN-3's code writes: 1x1 convolutions are linear layers."""
    also = {name: entry.also for name, entry in conversion.state_entries(config).items()}
    return {name: values.reshape(also[name] or values.shape) for name, values in state.items()}


def zipped(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def checkpoint(
    config: HypernetConfig, state: Mapping[str, np.ndarray], changes: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, bytes]]:
    """What the original's training script saves, to be pickled, and the bytes of the storages."""
    saved, storages = state_dict(state)
    momenta = {"step": 7, "exp_avg": tensor("0", "FloatStorage", (1,), next(iter(state.values())).size)}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "params": [0, 1]}]
    contents = {
        "state_dict": saved,
        "optimzer": {"state": {0: momenta}, "param_groups": groups},  # as the original spells it
        "epoch": 299,
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name in GHN2_FIELDS},
    }
    if config.hypernet == "graphormer":  # the code of GHN-3 calls embedder and decoder by the names of GHN-2's
        named = {"hypernet": "gatedgnn", "decoder": "conv", "is_ghn2": False, "pretrained": False}
        contents["config"] |= {"heads": config.heads, "layers": config.layers} | named
    return contents | (changes or {}), storages


def state_dict(state: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, bytes]]:
    """A state dictionary, to be pickled, and the bytes of its storages."""
    tensors, storages = {}, {}
    for number, (name, values) in enumerate(state.items()):
        tensors[name] = tensor(str(number), STORAGES[values.dtype.name], values.shape, values.size)
        storages[f"ghn/data/{number}"] = values.tobytes()
    versions = {"_metadata": {"": {"version": 1}}}
    return Built(Raw(_code(Call(ORDERED, ())) + _items(tensors)), versions), storages


def _items(values: Mapping[str, Any]) -> bytes:
    return b"(" + b"".join(_code(key) + _code(value) for key, value in values.items()) + b"u"


def archived(contents: Any, storages: Mapping[str, bytes]) -> bytes:
    """The bytes of a file that holds `contents`."""
    return zipped({"ghn/data.pkl": pickled(contents), **storages, "ghn/version": b"3\n"})


def random_state_dict(config: HypernetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dictionary of the original for `config`."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(e.shape).astype(np.float32) for name, e in conversion.state_entries(config).items()
    }


def random_ghn(config: HypernetConfig, seed: int = 0) -> GHN:
    """A hypernetwork with random weights, without compiling anything."""
    return GHN(config, conversion.params_from_torch(random_state_dict(config, seed), config))


def write_checkpoint(
    path: pathlib.Path, config: HypernetConfig, changes: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Writes a checkpoint of the original with random weights; returns its state dictionary."""
    state = random_state_dict(config)
    path.write_bytes(archived(*checkpoint(config, state, changes)))
    return state
