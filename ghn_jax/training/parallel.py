"""Data parallelism: the only place that knows of several devices and processes.

Every device runs its own share of the meta-batch with the same compiled program; gradients are summed over devices.
With several processes (one a host), each makes the inputs of its own devices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from ghn_jax.convolution import compiler_options
from ghn_jax.garbage import collector_paused
from ghn_jax.ghn.config import ConfigError
from ghn_jax.machine.assemble import UNIT
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


def available_memory() -> int:
    """Bytes that a device of this process can have."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


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


def broadcast(array: np.ndarray) -> np.ndarray:
    """The array once for every device of this process."""
    return np.broadcast_to(array, (jax.local_device_count(), *array.shape))


def new_memory(units: int, dtype=jnp.float32) -> jax.Array:
    """A machine's memory on every device."""
    return jax.pmap(lambda _: jnp.zeros((units, UNIT), dtype))(np.zeros(jax.local_device_count()))


def compile_step(step: Callable, *args: Any) -> Callable:
    """The step of one device, compiled for all devices and for arguments of these shapes.

    Args:
      step: from `make_step`.
      *args: state, memory, inputs, images and labels, all with a leading axis over the devices of this process.

    Returns:
      A function of the same arguments.  State and memory are used up, their space is that of the new ones.
    """
    mapped = jax.pmap(step, axis_name=DEVICES, donate_argnums=(0, 1))
    if jax.process_count() > 1:
        # Compiled by the first call, with XLA's own choice of libraries: pmap takes no options, and cannot lower shapes
        # of arrays of several processes.
        return mapped
    with collector_paused():
        lowered = mapped.lower(*args)
    return lowered.compile(compiler_options())


def check_same_everywhere(text: str) -> None:
    """Raises ConfigError unless all processes call it with the same text, the run's configuration."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1, 2)
    different = [index for index, other in enumerate(digests) if not np.array_equal(other, digests[0])]
    if different:
        raise ConfigError(f"processes {different} run another configuration than process 0")
