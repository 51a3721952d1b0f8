"""Predicted parameters as files that others read, and back: safetensors, NumPy, Orbax, PyTorch.

| name | format | layout |
|---|---|---|
| `NAME.safetensors` | safetensors; no library is needed | "jax" or "torch" |
| `NAME.npz` | NumPy's archive | "jax" or "torch" |
| `NAME.pt`, `NAME.pth` | a state dictionary of PyTorch; writing needs torch (`ghn_jax[torch]`) | "torch" |
| `NAME` without an ending | a folder of Orbax | "jax" |
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ghn_jax.checks import files
from ghn_jax.checks.fields import Flag, shown, taken
from ghn_jax.errors import GHNError, extra
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph, Tensor
from ghn_jax.graphs.torch_layout import from_torch, to_torch
from ghn_jax.runtime import own_settings
from ghn_jax.weights import archive, checkpoint, hypernetwork_file, pretrained, safetensors_file, torch_file
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.torch_pickle import Stored

LAYOUTS = ("jax", "torch")
ENDINGS = (".safetensors", ".npz", ".pt", ".pth")
_TORCH = (".pt", ".pth")

_ORBAX_MARK = "_CHECKPOINT_METADATA"
"""A file that every folder of Orbax has."""


def save(
    what: Any,
    path: str | os.PathLike[str],
    *,
    layout: str = "jax",
    graph: Graph | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes parameters or a hypernetwork to a file whose ending says in which format (`ghn_jax.weights.saving`).

    The file or folder appears under its name when it is complete, and not before.

    Args:
      what: parameters, as from `predict_params`: a pytree of arrays; or a `GHN`, for `.npz` and `.safetensors`.
      path: where to.
      layout: "jax" keeps arrays as they are, under their names joined by slashes; "torch" makes a state dictionary of
        PyTorch, with its names and its order of axes, which needs the `graph` of an architecture (`build_graph`).  The
        one of a ResNet-50 has the names of torchvision's.
      graph: that the parameters were predicted for: names are then its own, and shapes are checked.
      overwrite: replace a file, or a folder of Orbax, that is there.
      provenance: of a hypernetwork, as from `ghn_jax.provenance`.

    Returns:
      The path.

    Raises:
      CheckpointError: an ending or layout that there is not, parameters of another network than `graph`, something at
        `path` that may not be replaced, or the system cannot write; nothing is left behind then.
      MissingExtraError: for `.pt`, PyTorch is not installed.

    >>> graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1, 1), width=8))
    >>> params = ghn_jax.predict_params(graph)
    >>> path = ghn_jax.save(params, 'params.safetensors', layout='torch', graph=graph)
    >>> again = ghn_jax.load_params(path, graph, layout='torch')
    >>> bool((again['fc.weight'] == params['fc.weight']).all())
    True
    """
    path = _as_path(path)
    check_name(path, layout)
    overwrite = taken(overwrite, Flag(), CheckpointError, "overwrite")
    if isinstance(what, GHN):
        if layout != "jax" or graph is not None:
            raise CheckpointError("a hypernetwork is saved with layout='jax' and without a graph")
        with _complete(path, overwrite) as temporary:
            hypernetwork_file.write(temporary, what, {} if provenance is None else provenance)
        return path
    if provenance is not None:
        raise CheckpointError("provenance is stored with a hypernetwork, not with parameters")
    arrays = _named(what, graph)
    if layout == "torch":
        arrays = _as_torch(arrays, graph)
    with _complete(path, overwrite) as temporary:
        _write(temporary, arrays, layout)
    return path


@own_settings()
def load_params(path: str | os.PathLike[str], graph: Graph | None = None, *, layout: str = "jax") -> Any:
    """Parameters that `save` wrote.  Nothing that a file contains is run, and PyTorch is not needed.

    Args:
      path: the file or folder; its ending says in which format.
      graph: of the network they are for, as for `predict_params`.
      layout: that they were written in; "torch" needs the `graph` of an architecture.

    Returns:
      With `graph` what `predict_params(graph)` returns; without, a dictionary of arrays by name.

    Raises:
      CheckpointError: no such file, a damaged one, one of another layout, or one of another network than `graph`: the
        arrays that are missing, too many or of another shape are named.

    >>> import numpy
    >>> path = ghn_jax.save({'layer': {'kernel': numpy.ones((2, 3), 'float32')}}, 'params')
    >>> ghn_jax.load_params(path)['layer/kernel'].shape
    (2, 3)
    """
    path = _as_path(path)
    check_name(path, layout)
    arrays = _read(path, layout)
    if layout == "torch":
        arrays = _from_torch(arrays, graph, path)
    if graph is None:
        return {name: _as_jax(values, None, f"{path}: array {name}") for name, values in arrays.items()}
    expected = _expected(graph)
    _check_same(arrays, expected, os.fspath(path))
    leaves = [_as_jax(arrays[name], dtype, f"{path}: array {name}") for name, (_, dtype) in expected.items()]
    return dict(zip(expected, leaves, strict=True)) if graph.tree is None else graph.tree.rebuild(leaves)


def _as_path(path: Any) -> Path:
    """Raises CheckpointError for what is no path."""
    try:
        return files.as_path(path)
    except files.FileError as error:
        raise CheckpointError(str(error)) from None


def _as_jax(values: np.ndarray, dtype: Any, where: str) -> jax.Array:
    """An array of JAX with the same values, rounded if need be.

    Args:
      values: as they were stored.
      dtype: of the parameter, None to keep the type, or the one of half as many bits where JAX has no other.
      where: for messages.

    Raises:
      CheckpointError: values of another kind than the parameter, or too large for its type.
    """
    dtype = jax.dtypes.canonicalize_dtype(values.dtype) if dtype is None else np.dtype(dtype)
    if not any(jnp.issubdtype(values.dtype, kind) and jnp.issubdtype(dtype, kind) for kind in _KINDS):
        raise CheckpointError(f"{where} is of type {values.dtype}, expected {dtype}")
    if values.dtype.itemsize > dtype.itemsize and values.size:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values.astype(dtype)
        lost = np.isinf(narrow) & np.isfinite(values) if dtype.kind in "fV" else narrow != values
        if lost.any():
            raise CheckpointError(f"{where} has the value {shown(values[lost][0])}, which {dtype} cannot hold")
        values = narrow
    return jax.device_put(values.astype(dtype, copy=False))  # jnp.asarray compiles something for every shape


_KINDS = (jnp.floating, jnp.integer, jnp.bool_)
"""Of numbers, which do not stand for each other."""


def check_name(path: Path, layout: str) -> None:
    """Checks that a name and a layout go together.

    Raises:
      CheckpointError: they do not, or there is no such layout or ending.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout={layout!r}: expected {' or '.join(map(repr, LAYOUTS))}")
    if path.suffix and path.suffix not in ENDINGS:
        raise CheckpointError(f"{path}: expected a name ending in {', '.join(ENDINGS)}, or without an ending")
    if layout == "jax" and path.suffix in _TORCH:
        raise CheckpointError(f"{path} holds a state dictionary of PyTorch: expected layout='torch', and the graph")
    if layout == "torch" and not path.suffix:
        raise CheckpointError(f"{path}: layout='torch' is for files ending in {', '.join(ENDINGS)}")


def _named(what: Any, graph: Graph | None) -> dict[str, np.ndarray]:
    """The arrays of a pytree by name: as the graph has them, or by their path."""
    if graph is None:
        found = _leaves(what)
        names = [jax.tree_util.keystr(keys, simple=True, separator="/").removesuffix("/value") for keys, _ in found]
        leaves = [leaf for _, leaf in found]
    else:
        expected = _expected(graph)
        if graph.tree is None:
            if not isinstance(what, Mapping):
                raise CheckpointError(f"parameters are a {type(what).__name__}: expected a dictionary by name")
            names, leaves = list(what), list(what.values())
        else:
            names, leaves = list(expected), graph.tree.arrays(what)
            if len(names) != len(leaves):
                raise CheckpointError(f"the parameters have {len(leaves)} arrays, those of the graph {len(names)}")
    arrays = {}
    for name, leaf in zip(map(str, names), leaves, strict=True):
        values = np.asarray(leaf)
        # Kind V: of bfloat16 and its like, and of the structures of NumPy, which are no numbers.
        numbers = values.dtype.kind in "biufV" and values.dtype.type is not np.void and values.dtype.itemsize <= 8
        if np.ma.is_masked(leaf):
            raise CheckpointError(f"parameter {name!r} is a masked array: no file keeps what is masked")
        if not numbers or name in arrays:
            kind = f"is a {type(leaf).__name__} of {values.dtype}, expected an array of numbers"
            wrong = "is there twice" if name in arrays else kind
            raise CheckpointError(f"parameter {name!r} {wrong}")
        arrays[name or "parameter"] = values
    if not arrays:
        raise CheckpointError("there are no arrays to save")
    if graph is not None:
        _check_same(arrays, _expected(graph), "what is to be saved")
        arrays = {name: arrays[name] for name in _expected(graph)}
    return arrays


def _leaves(what: Any) -> list[tuple[Any, Any]]:
    """The leaves of a pytree with their paths.  Raises CheckpointError for one that JAX cannot put in order."""
    try:
        return jax.tree_util.tree_leaves_with_path(what)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"parameters by names of several types: expected texts ({error})") from None


def _expected(graph: Graph) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of a graph's parameters by name, in order."""
    if not isinstance(graph, Graph):
        raise CheckpointError(f"graph: expected a ghn_jax Graph, got {type(graph).__name__}")
    if graph.tree is not None:
        return {leaf.name: (leaf.shape, leaf.dtype) for leaf in graph.tree.leaves}
    return {tensor.name: (tensor.shape, np.float32) for tensor in graph.tensors}


def _check_same(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], where: str) -> None:
    """Checks names and shapes."""
    for label, wrong in (("no", set(expected) - set(arrays)), ("a surplus", set(arrays) - set(expected))):
        if wrong:
            raise CheckpointError(
                f"{where} has {label} array {', '.join(sorted(wrong)[:6])[:300]}: of another network?"
            )
    for name, (shape, _) in expected.items():
        if arrays[name].shape != tuple(shape):
            raise CheckpointError(f"{where}: array {name} has shape {arrays[name].shape}, expected {tuple(shape)}")


def _tensors(graph: Graph | None) -> tuple[Tensor, ...]:
    """The tensors of an architecture's graph, whose names are PyTorch's."""
    if not isinstance(graph, Graph) or graph.tree is not None:
        raise CheckpointError("layout='torch' needs graph=, the graph of an architecture (ghn_jax.build_graph)")
    return graph.tensors


def _as_torch(arrays: Mapping[str, np.ndarray], graph: Graph | None) -> dict[str, np.ndarray]:
    return {tensor.name: np.ascontiguousarray(to_torch(tensor.role, arrays[tensor.name])) for tensor in _tensors(graph)}


def _from_torch(arrays: Mapping[str, np.ndarray], graph: Graph | None, path: Path) -> dict[str, np.ndarray]:
    """Arrays of a state dictionary in JAX layout; statistics of batch norms, which are no parameters, are left out."""
    roles = {tensor.name: tensor.role for tensor in _tensors(graph)}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    kept = {name: values for name, values in arrays.items() if name.rpartition(".")[2] not in statistics}
    if surplus := sorted(set(kept) - set(roles)):
        raise CheckpointError(f"{path} has a surplus array {', '.join(surplus[:6])[:300]}: of another network?")
    return {name: from_torch(roles[name], values) for name, values in kept.items()}


def _write(path: Path, arrays: Mapping[str, np.ndarray], layout: str) -> None:
    """Writes named arrays under a name that is not in use."""
    match path.suffix:
        case ".safetensors":
            # Loaders of PyTorch ask for "format"; ours for "layout".
            metadata = {"format": "pt"} if layout == "torch" else {"format": "flax"}
            safetensors_file.write(path, arrays, metadata | {"layout": layout})
        case ".npz":
            # NumPy's files know no bfloat16.
            plain = {name: v.astype(np.float32) if v.dtype.kind == "V" else v for name, v in arrays.items()}
            pretrained.write_arrays(path, plain)
        case "":
            from orbax.checkpoint import v1 as ocp  # slow to import

            ocp.save(os.fspath(path), _nested(arrays))
        case _:
            with extra("torch"):
                import torch  # pyright: ignore[reportMissingImports]
            state = {name: torch.from_numpy(values.astype(np.float32)) for name, values in arrays.items()}
            torch.save(state, path)


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by the parts of their names.  Raises CheckpointError where one lies within the name of another."""
    for name in arrays:
        within = next((part for part in itertools.accumulate(name.split("/"), "{}/{}".format) if part in arrays), name)
        if within != name:
            raise CheckpointError(
                f"parameter {name!r} lies in {within!r}, which is an array: a folder cannot hold both"
            )
    return traverse_util.unflatten_dict(dict(arrays), sep="/")


def _read(path: Path, layout: str) -> dict[str, np.ndarray]:
    """Named arrays, in the layout of the file."""
    match path.suffix:
        case ".safetensors":
            arrays, metadata = safetensors_file.read(path)
            if metadata.get("layout", layout) != layout:
                raise CheckpointError(f"{path} was written with layout={metadata['layout']!r}, not {layout!r}")
            return arrays
        case ".npz":
            return _read_npz(path)
        case "":
            return _read_orbax(path)
    with torch_file.opened(path) as file:
        contents = file.contents
        if not isinstance(contents, dict) or not all(isinstance(value, Stored) for value in contents.values()):
            raise CheckpointError(f"{path} is no state dictionary: expected tensors by name")
        try:
            torch_file.check_total(contents.values(), file.size)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        return {str(name): np.asarray(file.array(tensor)) for name, tensor in contents.items()}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with archive.opened(path) as zipped:
        archive.check_unpacked(zipped)
        return {name: pretrained.any_array(zipped, name) for name in pretrained.array_names(zipped)}


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path / _ORBAX_MARK):
        raise CheckpointError(f"{path} is no folder of Orbax: expected one that ghn_jax.save wrote")
    checkpoint.check_files(path)
    from orbax.checkpoint import v1 as ocp  # slow to import

    try:
        checkpoint.check_shapes(path, ocp.metadata(os.fspath(path.absolute())).metadata)
        tree: Any = ocp.load(os.fspath(path.absolute()))
    except CheckpointError:
        raise
    except Exception as error:
        # Orbax raises a bare Exception where TensorStore could not read an array; what else it raises is a fault.
        if type(error) is not Exception and not isinstance(error, (ValueError, OSError, KeyError)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged: {reason[:300]}") from error
    return {name: np.asarray(values) for name, values in traverse_util.flatten_dict(tree, sep="/").items()}


@contextlib.contextmanager
def _complete(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary name for what takes the place of `path` when it is complete.

    Raises:
      CheckpointError: there is something that may not be replaced, or the system cannot write.
    """
    _refuse(path, overwrite)
    try:
        with files.replacing(path, refuse_existing=not overwrite) as temporary:
            yield temporary
    except files.FileError as error:
        raise CheckpointError(str(error)) from None
    except GHNError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # TensorStore and Orbax wrap what the system said
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be written: {reason[:300]}") from error


def _refuse(path: Path, overwrite: bool) -> None:
    """Checks that nothing is replaced unasked, and nothing that is of another kind."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise CheckpointError(f"{path} exists: overwrite=True replaces it")
    try:
        files.refuse_to_replace(path)
    except files.FileError as error:
        raise CheckpointError(str(error)) from None
