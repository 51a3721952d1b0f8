"""Figures published with weights that anybody can get, compared with what this package makes of those weights.

Part of `check_parity.py --published=DIR`.  Nothing in DIR comes with this package.  Looked for are

- weights of GHN-3's hub, `ghn2.pt`, `ghn3tm8.pt`, `ghn3xlm16.pt`, with its results, `ghn3_results.json`: norms of all
  parameters predicted for models of torchvision;
- `ghn2_cifar10.pt` and `deepnets1m_eval.hdf5` with its meta file, of the original: mean accuracies on CIFAR-10.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import ghn_jax
from ghn_jax import images
from ghn_jax.checks import files
from ghn_jax.deepnets.files.matching import match_nodes
from ghn_jax.deepnets.files.nodes import matching_rows, node_labels
from ghn_jax.deepnets.files.reading import DeepNetsFile, StoredSplit, file_name
from ghn_jax.evaluation import accuracy
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program_graph import graph_of
from ghn_jax.studies.parity import ParityError

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from examples.models import densenet, mobilenet, resnet, vgg  # noqa: E402

RESULTS = "ghn3_results.json"
WEIGHTS = {"ghn2.pt": "ghn2", "ghn3tm8.pt": "ghn3-t", "ghn3xlm16.pt": "ghn3"}
"""Files of the hub, and what its results call them."""

NORM_TOLERANCE = 1e-2
"""That of the published check."""

TWINS: Mapping[str, Callable[[], Any]] = {
    "resnet18": resnet.resnet18,
    "resnet34": lambda: resnet.ResNet((3, 4, 6, 3), resnet.BasicBlock),
    "resnet50": resnet.resnet50,
    "resnet101": lambda: resnet.ResNet((3, 4, 23, 3), resnet.BottleneckBlock),
    "densenet121": densenet.densenet121,
    "vgg16_bn": vgg.vgg16,
    "mobilenet_v2": mobilenet.mobilenet_v2,
}
"""Models of Flax with the layers of torchvision's, all of whose parameters the published code predicts."""

IMAGE_SIZE = 224

_MOST_BYTES = 1 << 20

CIFAR10_WEIGHTS = "ghn2_cifar10.pt"
CIFAR10_ACCURACIES = {"test": 0.669, "wide": 0.640, "deep": 0.605, "dense": 0.658, "bnfree": 0.368}
"""Mean top-1 of GHN-2 that Knyazev et al. 2021 published."""

ACCURACY_TOLERANCE = 0.01
"""The means depend a little on how images are batched, since batch norm takes its statistics from the batch."""


def published_norms(folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """The norms in `RESULTS`, by the name of the model and then of the hypernetwork's file.

    Raises:
      ParityError: there is no such file, or it is another one.
    """
    try:
        results = files.parse_json(files.read_regular(folder / RESULTS, _MOST_BYTES))
        return {
            name: {file: float(fields[f"{key}-paramnorm"]) for file, key in WEIGHTS.items()}
            for name, fields in results.items()
            if name in TWINS
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParityError(f"{RESULTS}: expected the results of GHN-3's hub: {error!r}") from error


def predicted_norm(model: Any, ghn: GHN, image_size: int = IMAGE_SIZE) -> float:
    """Norm of all parameters that a hypernetwork predicts for a model of Flax.

    Raises:
      GraphError: it leaves one.
    """
    given = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    params = ghn_jax.predict_params(ghn_jax.trace(model, given), ghn, strict=True)
    return math.sqrt(sum(float(jnp.vdot(leaf, leaf)) for leaf in jax.tree.leaves(params)))


def hub_files(folder: pathlib.Path) -> list[str]:
    """The weights of the hub that are there.

    Raises:
      ParityError: there are none.
    """
    found = [file for file in WEIGHTS if (folder / file).exists()]
    if not found and not (folder / CIFAR10_WEIGHTS).exists():
        raise ParityError(f"expected at least one of {', '.join([*WEIGHTS, CIFAR10_WEIGHTS])}")
    return found


def mean_accuracy(folder: pathlib.Path, split: str, ghn: GHN, dataset: images.Dataset) -> float:
    """Mean top-1 (0..1) of the networks of a published split on all test images."""
    with DeepNetsFile(folder / file_name(split)) as file:
        networks = file[split]
        run = accuracy.ByOperation(min(accuracy.BATCH_SIZE, len(dataset.test.labels)))
        found = []
        for number in tqdm.tqdm(range(len(networks)), split, leave=False, disable=None):
            program = lower(networks.architecture(number), dataset.task)
            params = ghn_jax.predict_params(as_published(networks, number, dataset.task), ghn)
            found.append(accuracy.accuracy(run(program, params), dataset.test, dataset))
    return statistics.fmean(found)


def as_published(networks: StoredSplit, number: int, task: Task) -> Graph:
    """The graph as the published code reads it, which pairs the i-th node listed with the i-th distances."""
    graph = graph_of(lower(networks.architecture(number), task))
    rows, distances = matching_rows(networks.named_nodes(number)), networks.arrays(number).adj.astype(np.int32)
    _, order = match_nodes(node_labels(graph), graph.distances, rows, distances)
    return as_listed(graph, order, distances)


def as_listed(graph: Graph, order: np.ndarray, distances: np.ndarray) -> Graph:
    """A graph whose i-th node is number `order[i]`, with the distances given instead of its own."""
    place = np.argsort(order)
    tensors = tuple(dataclasses.replace(tensor, node=int(place[tensor.node])) for tensor in graph.tensors)
    return Graph(graph.node_types[order], graph.node_shapes[order], distances, tensors)
