"""Distillation: a trained network says what it thinks of the images of a step, and the networks of the step learn that.

A label says of an image what it is; the probabilities of a trained network also say what it resembles.  The loss of a
network is then (1 - share) times the one by labels plus share times the one by these probabilities.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2, at temperature 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax import images
from ghn_jax.checks import fields, files
from ghn_jax.errors import GHNError
from ghn_jax.evaluation.accuracy import ByOperation
from ghn_jax.execution import whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.config import ConfigError
from ghn_jax.images import Batch, Dataset
from ghn_jax.networks.architecture import AnyArchitecture, Task, from_json, to_json
from ghn_jax.networks.losses import TaughtLabels
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Program
from ghn_jax.training.config import TrainConfig
from ghn_jax.weights import safetensors_file
from ghn_jax.weights.errors import CheckpointError

ARCHITECTURE = "architecture"
"""Entry of a teacher's file: which network its parameters are of."""


class Teacher(NamedTuple):
    """A trained network.

    Attributes:
      architecture: of it.
      program: the same for the images of a task.
      params: its parameters by name.
    """

    architecture: AnyArchitecture
    program: Program
    params: Mapping[str, np.ndarray]

    @property
    def fingerprint(self) -> str:
        """A short hash of what it is and of its parameters, which a run is stored with."""
        found = hashlib.blake2b(json.dumps(to_json(self.architecture), sort_keys=True).encode(), digest_size=8)
        for name, values in sorted(self.params.items()):
            found.update(name.encode())
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


def save(
    path: str | os.PathLike[str],
    architecture: AnyArchitecture,
    params: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes a trained network as a file of safetensors that says which network it is.

    Args:
      path: ends in `.safetensors`.
      architecture: of the network.
      params: by name, as `predict_params` has them.
      overwrite: replace a file that is there.

    Raises:
      CheckpointError: another ending, no architecture, or parameters that are no finite numbers.
      FileError: there is something that may not be replaced.
      OSError: the system cannot write.

    >>> from ghn_jax.training import teacher
    >>> network = ghn_jax.ResNet(depths=(1,), width=8)
    >>> params = ghn_jax.predict_params(ghn_jax.build_graph(network))
    >>> teacher.save('teacher.safetensors', network, params)
    >>> teacher.load('teacher.safetensors', ghn_jax.CIFAR10).architecture == network
    True
    """
    check_name(path)
    if not isinstance(architecture, AnyArchitecture):
        raise CheckpointError(f"{fields.shown(architecture)}: expected the architecture of a teacher")
    arrays = {str(name): _finite(values, f"{os.fspath(path)}: array {name}") for name, values in params.items()}
    metadata = {"format": "flax", "layout": "jax", ARCHITECTURE: json.dumps(to_json(architecture))}
    with files.replacing(path, refuse_existing=not overwrite) as temporary:
        safetensors_file.write(temporary, arrays, metadata)


def _finite(values: Any, where: str) -> np.ndarray:
    """Numbers as float32.  Raises CheckpointError for others, and for those that are not finite."""
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: expected finite numbers, got {fields.shown(values)}") from error
    if not np.isfinite(numbers).all():
        raise CheckpointError(f"{where} has values that are not finite: nothing is to be learned from such a network")
    return numbers


def check_name(path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError for a name that does not end as a teacher's does."""
    if os.path.splitext(path)[1] != ".safetensors":
        raise CheckpointError(f"{os.fspath(path)}: expected a name ending in .safetensors")


def load(path: str | os.PathLike[str], task: Task) -> Teacher:
    """A trained network that `save` wrote.

    Raises:
      CheckpointError: no such file, a damaged one, one that does not say of which network it is, or parameters of
        another network, for another number of classes, or that are not finite.
    """
    header = safetensors_file.read_header(path)
    if ARCHITECTURE not in header.metadata:
        raise CheckpointError(f"{path} does not say of which network it is: expected a file of training.teacher.save")
    if (layout := header.metadata.get("layout", "jax")) != "jax":
        raise CheckpointError(f"{path} was written with layout={layout[:80]!r}: expected 'jax'")
    try:
        architecture = from_json(files.parse_json(header.metadata[ARCHITECTURE]))
        program = lower(architecture, task)
        # By the header: what is of no use is not read either.
        whole.check_params(program, header.entries)
    except (GHNError, ValueError) as error:
        raise CheckpointError(f"{path} is no network for {task.num_classes} classes: {error}") from error
    wanted = f"{path}: expected finite numbers of type float32 in array"
    for name, entry in header.entries.items():
        if entry.dtype != np.float32:
            raise CheckpointError(f"{wanted} {name}, which has {entry.dtype}")
    arrays, _ = safetensors_file.read(path)
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"{wanted} {name}")
    return Teacher(architecture, program, arrays)


def batches(
    config: TrainConfig, dataset: Dataset, programs: Programs, teacher: Teacher | None
) -> Callable[[int], Batch]:
    """The images and labels of a step, by its number; a teacher sees images at full size, all of a step as one batch.

    Args:
      config: of the run.
      dataset: its images.
      programs: whose programs a teacher uses and adds to.
      teacher: of the run (`of_run`).
    """
    size = config.images_of_step

    def plain(step: int) -> Batch:
        return images.train_batch(dataset, size, config.seed, step)

    if teacher is None:
        return plain
    logits = ByOperation(size, programs)(teacher.program, teacher.params)

    def taught(step: int) -> Batch:
        batch = plain(step)
        probabilities = np.asarray(jax.nn.softmax(logits(batch.images)), np.float32)
        return Batch(batch.images, TaughtLabels(batch.labels, probabilities))

    return taught


def of_run(config: TrainConfig, task: Task) -> Teacher | None:
    """The teacher of a run, None if it has none.  Raises ConfigError where `load` raises."""
    if config.teacher is None:
        return None
    try:
        return load(config.teacher, task)
    except GHNError as error:
        raise ConfigError(f"config.teacher={config.teacher!r}: {error}") from error
