"""Whether networks fit into the memory of a device, told before it is used up."""

from __future__ import annotations

import heapq

from ghn_jax.execution.operations import ExecutionError, Plan
from ghn_jax.networks.architecture import Task
from ghn_jax.networks.network import Network
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.meta_batches import meta_batches

LOOK_AHEAD = 64
"""Positions of the stream of architectures that are looked at before a run."""


def plan_of(target: Network, config: TrainConfig) -> Plan:
    """How a network is run in training."""
    return Plan(
        target.program,
        config.batch_size,
        config.compute_dtype,
        config.label_smoothing,
        teacher_share=config.teacher_share if config.teacher is not None else 0.0,
    )


def check_first_networks(config: TrainConfig, task: Task) -> None:
    """Checks the first networks of a run; later ones are checked when they are drawn.

    Raises:
      ExecutionError: as `check_network`.
    """
    for meta_batch in meta_batches(config, task, stop=max(LOOK_AHEAD, config.meta_batch)):
        check_networks(meta_batch.targets, config)


def check_networks(targets: tuple[Network, ...], config: TrainConfig) -> None:
    """Checks that as many networks as run at once fit, the largest of a meta-batch.

    Raises:
      ExecutionError: naming the largest network, what it needs, what there is and what to lower.
    """
    available = parallel.device_memory()
    at_once = parallel.threads_of_a_device()
    largest = heapq.nlargest(at_once, ((plan_of(t, config).peak_bytes, t.number) for t in targets))
    needed = sum(need for need, _ in largest)
    if needed > available:
        need, number = largest[0]
        together = f", {at_once} networks at once {needed / 2**30:.2f} GiB" if at_once > 1 else ""
        raise ExecutionError(
            f"architecture {number} needs {need / 2**30:.2f} GiB for activations{together}, but a device has "
            f"{available / 2**30:.2f} GiB: lower config.batch_size={config.batch_size} or "
            f"config.max_multiply_adds={config.max_multiply_adds}, or set config.compute_dtype='bfloat16'"
        )
