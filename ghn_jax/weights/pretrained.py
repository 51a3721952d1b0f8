"""The hypernetworks that come with the package, and files like theirs.

A file holds the parameters, and a JSON text that says what they are and where they come from (their provenance).
Those in the package are stored in half precision, which changes predictions by less than rounding an image does.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ghn_jax.checks import files
from ghn_jax.checks.fields import shown
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.runtime import outside_of_traces
from ghn_jax.weights import archive
from ghn_jax.weights.errors import CheckpointError

DEFAULT = Path(__file__).parent / "data" / "ghn2_fashion_mnist.npz"
_ABOUT = "__about__"

_MOST_ABOUT_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 10
_TYPES = (np.dtype(np.float16), np.dtype(np.float32))


@functools.cache
def load() -> GHN:
    """GHN-2 trained on Fashion-MNIST (see `about` for how)."""
    return read(DEFAULT)[0]


def about() -> dict[str, Any]:
    """Provenance of `load()`: data, steps, configuration and measured accuracy."""
    return read_about(DEFAULT)[1]


def paths() -> dict[str, Path]:
    """Files of the hypernetworks in the package, by name."""
    return {path.stem: path for path in sorted(DEFAULT.parent.glob("*.npz"))}


def measured_accuracies(provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The measured accuracies in a provenance: figures such as "mean" and "best", by what they are of.

    They are the innermost dictionaries of `provenance["accuracy"]`, however deep: {"test": {"predicted": {"mean":
    0.6}}} holds "test, predicted".
    """
    found: dict[str, dict[str, float]] = {}

    def visit(value: Any, place: tuple[str, ...]) -> None:
        if not isinstance(value, Mapping):
            return
        figures = {name: figure for name, figure in value.items() if type(figure) in (int, float)}
        if figures:
            found[", ".join(place)] = figures
        for name, inner in value.items():
            visit(inner, (*place, str(name)))

    visit(provenance.get("accuracy"), ())
    return found


@outside_of_traces()
def read(path: str | os.PathLike[str]) -> tuple[GHN, dict[str, Any]]:
    """A hypernetwork and its provenance.

    Raises:
      CheckpointError: no such file, or one that `write` did not write; an array that is missing, surplus, of another
        shape or type, or not finite is named.
    """
    with archive.opened(path) as zipped:
        archive.check_unpacked(zipped)
        config, provenance = _about(zipped)
        # Finding the shapes takes longer than reading; the package's own file is checked by its tests.
        if path != DEFAULT:
            check_size(path, config, len(zipped.infolist()), sum(info.file_size for info in zipped.infolist()))
        expected = None if path == DEFAULT else shapes(config)
        names = [name for name in array_names(zipped) if name != _ABOUT]
        if expected is not None:
            check_names(path, names, expected)
        flat = {name: _array(zipped, name, None if expected is None else expected[name]) for name in names}
    return GHN(config, traverse_util.unflatten_dict(flat, sep="/")), provenance


def read_about(path: str | os.PathLike[str]) -> tuple[HypernetConfig, dict[str, Any]]:
    """Configuration and provenance of a hypernetwork, without its parameters.

    Raises:
      CheckpointError: no such file, or one that `write` did not write.
    """
    with archive.opened(path) as zipped:
        return _about(zipped)


def write(
    path: str | os.PathLike[str], ghn: GHN, provenance: Mapping[str, Any], dtype: type[np.floating] = np.float16
) -> None:
    """Writes what `read` reads, under a temporary name first.

    Args:
      path: the file, ending in `.npz`.
      ghn: the hypernetwork.
      provenance: what JSON can hold, under any names but "ghn".
      dtype: np.float16 or np.float32 (exact).

    Raises:
      CheckpointError: parameters that are not finite or too large for `dtype`, or a provenance that JSON cannot hold.
        Nothing is written then.
      ConfigError: parameters that are not those of its configuration.
    """
    path = Path(path)
    if np.dtype(dtype) not in _TYPES or path.suffix != ".npz":
        raise CheckpointError(f"{path} of {np.dtype(dtype)}: expected a name ending in .npz, and float16 or float32")
    check_params(ghn)
    text = about_as_json(ghn.config, provenance)
    entries = {}
    for name, values in traverse_util.flatten_dict(ghn.params, sep="/").items():
        values = np.asarray(values, np.float32)
        largest = np.abs(values).max(initial=0)
        if not largest <= np.finfo(dtype).max:  # nor if it is not a number
            raise CheckpointError(f"array {name} has a value of {largest}, which {np.dtype(dtype)} cannot hold")
        entries[name] = values.astype(dtype)
    with files.replacing(path) as temporary:
        write_arrays(temporary, {**entries, _ABOUT: np.array(text)}, zipfile.ZIP_DEFLATED)


def about_as_json(config: HypernetConfig, provenance: Mapping[str, Any]) -> str:
    """What is stored of a hypernetwork beside its parameters.

    Raises:
      CheckpointError: a provenance that is no mapping, that JSON cannot hold, or that has an entry "ghn".
    """
    if not isinstance(provenance, Mapping):
        raise CheckpointError(f"provenance={shown(provenance)}: expected what is known, by name")
    if "ghn" in provenance:
        raise CheckpointError("a provenance has an entry 'ghn', which is the configuration's place")
    try:
        return json.dumps({"ghn": dataclasses.asdict(config), **provenance}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"a provenance that JSON cannot hold: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> None:
    """Writes arrays as `np.savez` does, which has no place for one that is called `file`.

    Raises:
      CheckpointError: a name that an archive cannot have.
    """
    for name in arrays:
        if "\0" in name:
            raise CheckpointError(f"array {name!r}: expected a name without zero characters, where archives cut it off")
    with zipfile.ZipFile(path, "w", compression) as zipped:
        for name, values in arrays.items():
            with zipped.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def array_names(zipped: zipfile.ZipFile) -> list[str]:
    """Names of the arrays in an archive.

    Raises:
      CheckpointError: an entry that is called otherwise than arrays are.
    """
    for name in zipped.namelist():
        if not name.endswith(".npy"):
            raise CheckpointError(f"{zipped.filename} has a surplus array {name[:80]}: expected names ending in .npy")
    return [name.removesuffix(".npy") for name in zipped.namelist()]


def _about(zipped: zipfile.ZipFile) -> tuple[HypernetConfig, dict[str, Any]]:
    """Configuration and provenance in an archive."""
    name = zipped.filename
    if f"{_ABOUT}.npy" not in zipped.namelist():
        raise CheckpointError(f"{name} holds no hypernetwork: it has no entry {_ABOUT}")
    stored = io.BytesIO(archive.read(zipped, f"{_ABOUT}.npy", _MOST_ABOUT_BYTES))
    try:
        shape, _, dtype = _header(stored)
        if shape != () or dtype.kind != "U" or dtype.itemsize > _MOST_ABOUT_BYTES:
            raise ValueError(f"it is {dtype} {shape}, expected a text")
        order = "utf-32-be" if dtype.str[0] == ">" else "utf-32-le"
        text = stored.read(dtype.itemsize).decode(order).rstrip("\0")  # NumPy crashes at what is no character
        description = files.parse_json(text)
        config = ghn_config.from_fields(description.pop("ghn"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name} holds no hypernetwork: its {_ABOUT} is damaged: {str(error)[:400]}") from error
    return config, description


@functools.lru_cache(maxsize=8)
def shapes(config: HypernetConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a hypernetwork's parameters, by name."""
    params = jax.eval_shape(lambda: GHN.init(config, seed=0).params)
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def check_params(ghn: GHN) -> None:
    """Checks that the parameters of a hypernetwork are those of its configuration.

    Raises:
      ConfigError: an array that is missing, surplus or of another shape is named.
    """
    if load.cache_info().currsize and ghn is load():
        return  # finding the shapes takes longer than reading; the package's own file is checked by its tests
    expected = shapes(ghn.config)
    found = {
        jax.tree_util.keystr(keys, simple=True, separator="/"): np.shape(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(ghn.params)
    }
    for label, wrong in (("no", set(expected) - set(found)), ("a surplus", set(found) - set(expected))):
        if wrong:
            names = ", ".join(sorted(wrong)[:6])[:300]
            raise ConfigError(f"GHN.params has {label} array {names}: expected those of its configuration")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ConfigError(f"GHN.params: array {name} has shape {found[name]}, expected {shape}")


def check_size(path: str | os.PathLike[str], config: HypernetConfig, entries: int, stored: int) -> None:
    """Checks that a file can hold a hypernetwork at all, before its shapes are found, which takes time and memory.

    Args:
      path: of the file.
      config: of the hypernetwork.
      entries: that the file has.
      stored: bytes of them.

    Raises:
      CheckpointError: it cannot.
    """
    layers = config.layers if config.hypernet == "graphormer" else 0
    if layers > entries or max(*config.max_shape, config.num_classes, config.hid) > stored:
        raise CheckpointError(f"{os.fspath(path)} has {entries:,} arrays of {stored:,} bytes, too few for {config}")


def check_names(path: str | os.PathLike[str], names: list[str], expected: Mapping[str, Any]) -> None:
    """Checks that a file at `path` has arrays of exactly the expected names.

    Raises:
      CheckpointError: naming those that are missing or too many.
    """
    for label, wrong in (("no", set(expected) - set(names)), ("a surplus", set(names) - set(expected))):
        if wrong:
            raise CheckpointError(f"{os.fspath(path)} has {label} array {', '.join(sorted(wrong)[:12])[:400]}")


def _array(zipped: zipfile.ZipFile, name: str, expected: tuple[int, ...] | None) -> jax.Array:
    """An array, as float32; of any shape if none is expected."""
    where = f"{zipped.filename}: array {name}"
    limit = zipped.getinfo(f"{name}.npy").file_size
    if expected is not None:
        limit = _MOST_HEADER_BYTES + 4 * int(np.prod(expected, dtype=object))
    stored = io.BytesIO(archive.read(zipped, f"{name}.npy", limit))
    try:
        shape, fortran_order, dtype = _header(stored)
        if dtype not in _TYPES or fortran_order:
            raise CheckpointError(f"{where} is of type {dtype}, expected float16 or float32 in C order")
        if expected is not None and shape != expected:
            raise CheckpointError(f"{where} has shape {shape}, expected {expected}")
        values = np.frombuffer(stored.read(), dtype).reshape(shape)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if not np.isfinite(values).all():
        raise CheckpointError(f"{where} has values that are not finite")
    return jax.device_put(values.astype(np.float32))  # jnp.asarray compiles something for every shape


def any_array(zipped: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of numbers of any shape and type, in the byte order of this machine.

    Raises:
      CheckpointError: there is no such array, or it is damaged.
    """
    entry = zipped.getinfo(f"{name}.npy")
    stored = io.BytesIO(archive.read(zipped, entry.filename, entry.file_size))
    try:
        shape, fortran_order, dtype = _header(stored)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(f"it is of type {dtype}, expected numbers of at most 8 bytes")
        values = np.frombuffer(stored.read(), dtype).reshape(shape, order="F" if fortran_order else "C")
        return values.astype(dtype.newbyteorder("="), copy=False)
    except ValueError as error:
        raise CheckpointError(f"{zipped.filename}: array {name[:80]!r} is damaged: {error}") from error


def _header(stored: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array in NumPy's format.

    Raises:
      ValueError: another format or version than small arrays are written in, or a damaged header.
    """
    version = np.lib.format.read_magic(stored)
    if version != (1, 0):
        raise ValueError(f"version {version} of the format, expected (1, 0)")
    text = stored.read(int.from_bytes(stored.read(2), "little"))
    # NumPy evaluates a header as Python, which may warn; those of arrays of numbers and texts have one form only.
    found = _HEADER.fullmatch(text)
    if not found:
        raise ValueError(f"its header cannot be read: {text[:80]!r}")
    dtype, fortran_order, shape = (part.decode() for part in found.groups())
    sizes = tuple(int(size) for size in shape.replace(" ", "").split(",") if size)
    try:
        return sizes, fortran_order == "True", np.dtype(dtype)
    except TypeError as error:
        raise ValueError(str(error)) from None


_HEADER = re.compile(
    rb"\{'descr': '([<|>=]?[fiuUOSVcb][0-9]{0,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,20}(?:, ?[0-9]{1,20}){0,7},? ?)?)\), ?\} *\n"
)
