"""How well predicted parameters classify, over architectures that the hypernetwork has never seen.

Source: Knyazev et al. 2021, section 5.1: top-1 accuracy (for ImageNet top-5) with the batch statistics of test batches
of 64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax import images
from ghn_jax.checks.fields import Maybe, Whole, taken
from ghn_jax.evaluation.results import Result
from ghn_jax.execution import operations, whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import ExecutionError, Given, Plan
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset, ImageError, Split, eval_batches, in_memory
from ghn_jax.networks.architecture import AnyArchitecture
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import Network
from ghn_jax.networks.platforms import compiler_options
from ghn_jax.networks.program import Program
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import own_settings

BATCH_SIZE = 64

TOP5_ABOVE = 10
"""With more classes than this, top-5 accuracy is measured too."""


Logits = Callable[[Program, Mapping[str, np.ndarray]], Callable[[np.ndarray], np.ndarray]]
"""A way of running networks: from a program and its parameters to a function from images to logits."""


def as_a_whole(program: Program, params: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles the network as one program of its own: the fastest for one network and many images."""
    compiled = _compiled(program)
    there = jax.device_put(dict(params))
    return lambda images: np.asarray(compiled(there, images))


@functools.lru_cache(maxsize=1)
def _compiled(program: Program):
    return jax.jit(functools.partial(whole.run, program), compiler_options=compiler_options(jax.default_backend()))


class ByOperation:
    """Runs any networks operation by operation: the fastest for many networks and few images each.

    Args:
      batch_size: number of images.
      programs: whose programs are used and added to; None for new ones.
    """

    def __init__(self, batch_size: int, programs: Programs | None = None):
        self._batch_size = batch_size
        self._programs = Programs(jax.local_devices()[:1]) if programs is None else programs

    def __call__(self, program: Program, params: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
        whole.check_params(program, params)
        network = Plan(program, self._batch_size).prepare(self._programs)
        device = self._programs.devices[0]
        given = Given(program, jax.device_put(dict(params), device))

        def logits(images: np.ndarray) -> np.ndarray:
            pixels = jax.device_put(np.asarray(images, np.float32), device)
            return np.asarray(operations.logits(network, given, pixels))

        return logits


def accuracy(
    logits: Callable[[np.ndarray], np.ndarray],
    split: Split,
    dataset: Dataset,
    num_images: int | None = None,
    noise: float = 0.0,
) -> float:
    """Top-1 accuracy (0..1) on the first `num_images` images of `split` (None: all), in batches of 64.

    Args:
      logits: from images `[B, H, W, 3]` to `[B, classes]`, with the statistics of the batch.
      split: images to classify.
      dataset: what they are normalised with.
      num_images: how many of them.
      noise: standard deviation of noise on images scaled to 0..1 (`images.eval_batches`).
    """
    return accuracies(logits, split, dataset, num_images, noise)[0]


def accuracies(
    logits: Callable[[np.ndarray], np.ndarray],
    split: Split,
    dataset: Dataset,
    num_images: int | None = None,
    noise: float = 0.0,
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, as `accuracy`; of equal logits the first ones count as the largest."""
    total = len(split.labels) if num_images is None else min(num_images, len(split.labels))
    split = Split(split.images[:total], split.labels[:total])
    correct, among_five = 0, 0
    for batch, count in eval_batches(split, dataset, min(BATCH_SIZE, total), noise):
        values, labels = logits(batch.images)[:count], batch.labels[:count]
        correct += int(np.sum(np.argmax(values, -1) == labels))
        largest = np.argsort(-values, axis=-1, kind="stable")[:, :5]
        among_five += int(np.sum(largest == labels[:, None]))
    return correct / total, among_five / total


@own_settings()
def measure_accuracy(
    architecture: AnyArchitecture,
    params: Mapping[str, Any],
    dataset: str | Dataset = "fashion_mnist",
    num_images: int | None = None,
    data_dir: str | None = None,
) -> float:
    """Top-1 accuracy (0..1) of one network on the first test images of a data set, with batch statistics.

    Args:
      architecture: the network.
      params: its parameters by name, from `predict_params`.
      dataset: name of an image data set, or one of `images.from_arrays`.
      num_images: how many images, None for all.
      data_dir: where the data set's files are; None looks in the usual places.

    Raises:
      ImageError: the data set is not there; the message says where to get it.  Or a number of images that is none.
      ExecutionError: parameters that are not finite, of another type or of another network; the first one is named.

    >>> edges = (('conv_1x1', 0), ('none', 1))
    >>> cell = ghn_jax.Genotype(edges, (2,), edges, (2,))
    >>> network = ghn_jax.Architecture(cell, n_cells=3, C=8, stem_type=1)
    >>> params = ghn_jax.predict_params(ghn_jax.build_graph(network))
    >>> 0 <= ghn_jax.measure_accuracy(network, params, 'digits', num_images=32) <= 1
    True
    """
    data = dataset if isinstance(dataset, Dataset) else images.load(dataset, data_dir)
    num_images = taken(num_images, Maybe(Whole(1, 1 << 53)), ImageError, "num_images")
    program = lower(architecture, data.task)
    found = _checked(program, params)
    return accuracy(as_a_whole(program, found), data.test, data, num_images)


def _checked(program: Program, params: Any) -> dict[str, Any]:
    """The parameters of a network as float32, if that is what they are."""
    if not isinstance(params, Mapping):
        raise ExecutionError(f"parameters are a {type(params).__name__}: expected a dictionary by name")
    found = {}
    for name, values in params.items():
        floats = isinstance(values, (np.ndarray, np.generic, jax.Array)) and jnp.issubdtype(values.dtype, jnp.floating)
        if not floats or isinstance(values, np.ma.MaskedArray):
            raise ExecutionError(f"parameter {name!r} is a {type(values).__name__}: expected an array of floats")
        with np.errstate(over="ignore"):
            found[name] = np.asarray(values, np.float32)
        if not np.isfinite(found[name]).all():
            raise ExecutionError(f"parameter {name!r} has values that are not finite")
    try:
        whole.check_params(program, found)
    except ValueError as error:
        raise ExecutionError(str(error)) from None
    return found


@own_settings()
def evaluate(
    ghn: GHN,
    targets: Sequence[tuple[str, Network]],
    dataset: Dataset,
    split: Split,
    num_images: int | None,
    report: Callable[[Result], None],
    mode: str = "auto",
    noise: float = 0.0,
) -> list[Result]:
    """Predicts the parameters of every target and measures them beside He initialisation.

    Args:
      ghn: the hypernetwork.
      targets: names and networks.
      dataset: what images are normalised with.
      split: images to classify.
      num_images: how many of them, None for all.
      report: called with every result when it is there.
      mode: "operations" (operation by operation), "whole" (a program for every network), or "auto": operations for
        several networks, whole for one.
      noise: standard deviation of noise on images scaled to 0..1 (`images.eval_batches`).

    Raises:
      ImageError: photographs that do not fit into memory, or a damaged one; noise that is not in 0..1.
    """
    programs = [target.program for _, target in targets]
    if mode == "auto":
        mode = "operations" if len(programs) > 1 else "whole"
    batch_size = min(BATCH_SIZE, len(split.labels), num_images or BATCH_SIZE)
    run_network: Logits = ByOperation(batch_size) if mode == "operations" else as_a_whole
    split = in_memory(split, dataset, num_images)
    results = []
    for name, target in targets:
        predicted, random = (
            accuracies(run_network(target.program, params), split, dataset, noise=noise)
            for params in (predict_params(target.graph, ghn), he_init(target.program, target.number))
        )
        top5 = (predicted[1], random[1]) if dataset.num_classes > TOP5_ABOVE else ()
        results.append(Result(name, target.program.num_params, predicted[0], random[0], *top5))
        report(results[-1])
    return results
