"""Data parallelism: the only place that knows of several devices and processes.

All devices compute embeddings and the update together (`jax.pmap`), each for its own share of the meta-batch; between
the two every device runs its networks by itself.  With several processes (one a host), each makes the inputs of its own
devices.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.config import ConfigError
from ghn_jax.networks.platforms import compiler_options, processors
from ghn_jax.training.step import DEVICES


def connect(coordinator: str | None, num_processes: int, process: int) -> None:
    """Makes this process number `process` of several that train together; to be called before anything else of JAX.

    Args:
      coordinator: "host:port" of process 0; None for a single process.
      num_processes: how many there are.
      process: from 0 on.
    """
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process)


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return jax.process_index() == 0


def decide(anywhere: bool, *by_first: bool) -> list[bool]:
    """What all processes do next: whether `anywhere` holds in one of them, and the other decisions of the first."""
    if jax.process_count() == 1:
        return [anywhere, *by_first]
    votes = np.asarray(multihost_utils.process_allgather(np.array([anywhere, *by_first])))
    votes = votes.reshape(jax.process_count(), -1).astype(bool)
    return [bool(votes[:, 0].any()), *votes[0, 1:].tolist()]


def from_first(value: float) -> float:
    """The value of the first process, in all of them."""
    return float(multihost_utils.broadcast_one_to_all(np.float64(value)))


def num_devices() -> int:
    """Devices of all processes."""
    return jax.device_count()


@functools.cache
def device_memory() -> int:
    """Bytes of memory of a device of this process; on CPUs its share of what is free when this is first asked."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


def threads_of_a_device() -> int:
    """Networks that a device of this process runs at once.

    An accelerator runs one after the other, and a thread is enough to keep it busy.  On CPUs a network leaves other
    cores idle now and then, so there are as many threads as cores.
    """
    if jax.default_backend() != "cpu":
        return 1
    return max(1, processors() // jax.local_device_count())


def local_shares(shares: Sequence[Any]) -> Sequence[Any]:
    """Those of the shares, one a device of all processes, that belong to the devices of this process."""
    first = jax.process_index() * jax.local_device_count()
    return shares[first : first + jax.local_device_count()]


def replicate(tree: Any) -> Any:
    """A copy of every array on every device."""
    return jax_utils.replicate(tree)


def first_copy(tree: Any) -> Any:
    """The arrays of the first device of this process, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data).squeeze(0), tree)


def part_of_device(tree: Any, device: int) -> Any:
    """What the device of this number in this process has of every array, with a leading axis of length 1; no copy."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[device].data, tree)


def join(parts: Sequence[Any], like: jax.Array) -> Any:
    """Arrays of the devices of this process, each with a leading axis of length 1, as `pmap` takes them.

    Args:
      parts: one tree a device.
      like: what `pmap` returned.
    """

    def joined(*leaves: jax.Array) -> jax.Array:
        shape = (len(leaves), *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, like.sharding, leaves)

    return jax.tree.map(joined, *parts)


class Mapped:
    """The two functions that all devices run together: embeddings, and the update.

    They are compiled for every number of nodes that graphs are padded to, ahead of need.

    Args:
      programs: whose threads compile.
      embed, update: from `step`.
    """

    def __init__(self, programs: Programs, embed: Callable[..., Any], update: Callable[..., Any]):
        self._programs = programs
        self._embed = jax.pmap(embed, axis_name=DEVICES)
        self._update = jax.pmap(update, axis_name=DEVICES, donate_argnums=0)
        self._compiled: dict[int, tuple[Future, Future]] = {}

    def begin(self, state: Any, graphs: Any, found: Any) -> None:
        """Begins to compile for such graphs, unless that has begun before.

        Args:
          state: replicated.
          graphs: of the devices of this process.
          found: shapes of what networks leave behind, with a leading axis of length 1.
        """
        if jax.process_count() > 1:
            # The first call compiles: pmap cannot lower shapes of arrays of several processes.
            return
        size = _padded_nodes(graphs)
        if size in self._compiled:
            return
        state, graphs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), (state, graphs))
        devices = jax.local_device_count()
        found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((devices, *leaf.shape[1:]), leaf.dtype), found)
        lowered = self._programs.submit(self._embed.lower, state.params, graphs)

        def update() -> Callable[..., Any]:
            _, pull_back = lowered.result().out_info
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), pull_back)
            return _compile(self._update.lower(state, shapes, found))

        self._compiled[size] = (
            self._programs.submit(lambda: _compile(lowered.result())),
            self._programs.submit(update),
        )

    def embed(self, params: Any, graphs: Any) -> Any:
        """Embeddings and how their gradient is pulled back, with a leading axis over devices."""
        return self._get(graphs, 0, self._embed)(params, graphs)

    def update(self, state: Any, pull_back: Any, found: Any, graphs: Any) -> Any:
        """The new state and the metrics, replicated; the state is used up."""
        return self._get(graphs, 1, self._update)(state, pull_back, found)

    def _get(self, graphs: Any, which: int, mapped: Any) -> Callable[..., Any]:
        if jax.process_count() > 1:
            return mapped
        return self._compiled[_padded_nodes(graphs)][which].result()


def _compile(lowered: jax.stages.Lowered) -> Callable[..., Any]:
    return lowered.compile(compiler_options(jax.default_backend()))


def _padded_nodes(graphs: Any) -> int:
    return graphs.graphs.nodes["type"].shape[-1]


def check_same_everywhere(text: str) -> None:
    """Raises ConfigError unless all processes call it with the same text, the run's configuration."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1, 2)
    different = [index for index, other in enumerate(digests) if not np.array_equal(other, digests[0])]
    if different:
        raise ConfigError(f"processes {different} run another configuration than process 0")
