"""Compares this package with figures computed by the published PyTorch implementation.

    python benchmarks/check_parity.py --reference=../shared/reference
    python benchmarks/check_parity.py --published=DIR --data_dir=CIFAR10

Prints a line for each kind of figure: how many were checked and the worst error.  Figures of GHN-3 are looked for in a
folder `ghn3` beside the others.  Ends with status 1, naming file, key and value, if one is off.  Takes three minutes on
two idle CPU cores.  With `--published` it compares with what was published about weights that anybody can get; see
`published_figures.py` for the files it looks for.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
import published_figures
import tqdm
from flax import traverse_util

import ghn_jax
from ghn_jax import images
from ghn_jax.deepnets.files.matching import MismatchError, match_nodes
from ghn_jax.deepnets.files.nodes import node_labels
from ghn_jax.errors import GHNError
from ghn_jax.ghn.config import ConfigError
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs import torch_layout
from ghn_jax.graphs.graph import Graph, GraphError
from ghn_jax.networks.architecture import ArchitectureError, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Program
from ghn_jax.networks.program_graph import graph_of
from ghn_jax.prediction.predict import embed_nodes, predict_params
from ghn_jax.studies import parity
from ghn_jax.studies.parity import (
    GRAPHS,
    LONGEST_VIRTUAL_EDGE,
    META,
    NETWORKS,
    PREDICTIONS,
    TASKS,
    Figures,
    ParityError,
    Reference,
)
from ghn_jax.weights import conversion
from ghn_jax.weights.errors import CheckpointError

LOGITS_TOLERANCE = 1e-4
EMBEDDINGS_TOLERANCE = 1e-4
STATISTICS_TOLERANCE = 1e-4
PREDICTED_LOGITS_TOLERANCE = 1e-3
ROUNDING = 0.5e-6
"""Stored logits have six decimals."""

STORED_LOGITS = 20
"""Of an image at most."""

SENSITIVITY_DRAWS = 3
SENSITIVITY_FACTOR = 3
"""How many times the effect of the last bits of its parameters the error of an ill-conditioned network may be."""

FAILURES_SHOWN = 20


@dataclasses.dataclass
class Section:
    """One kind of figure: the errors found, what is off, and what the reader should know.

    Several threads may add to the lists.
    """

    title: str
    tolerance: float
    checked: int = 0
    errors: list[float] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def equal(self, place: str, stored: object, ours: object) -> None:
        """Checks that two values are the same."""
        if stored != ours:
            self.failures.append(f"{place} is {stored}, expected {ours}")

    def within(self, place: str, error: float, tolerance: float) -> None:
        """Checks that an error is small; one that is not a number is too large."""
        self.errors.append(float(error))
        if not error <= tolerance:
            self.failures.append(f"{place} has an error of {error:.2g}, allowed are {tolerance:.2g}")

    def each(self, file: str, keys: Collection[str], check: Callable[[str], None]) -> Section:
        """Calls `check` with every key of a file, on all CPU cores; returns itself."""

        def attempt(key: str) -> None:
            try:
                check(key)
            except KeyError as error:
                self.failures.append(f"{file}: {key}: no entry {error}")
            except (ParityError, ArchitectureError, CheckpointError, GraphError, MismatchError) as error:
                self.failures.append(f"{file}: {key}: {error}")

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(attempt, keys)
            for _ in tqdm.tqdm(done, self.title, total=len(keys), leave=False, disable=None):
                self.checked += 1
        return self

    def show(self) -> bool:
        """Prints a summary and says whether all is well."""
        if not self.checked and not self.failures:
            self.failures.append("there is nothing to check in this folder")
        worst = max(self.errors, default=0.0)
        found = f"worst error {worst:.2g} (allowed {self.tolerance:.0e})" if self.tolerance else "exact"
        verdict = "FAILED" if self.failures else found
        print(f"{self.title}: {self.checked} checked, {verdict}", flush=True)
        for line in sorted(self.notes):
            print(f"    {line}")
        for line in sorted(self.failures)[:FAILURES_SHOWN]:
            print(f"  ! {line}")
        if len(self.failures) > FAILURES_SHOWN:
            print(f"  ! and {len(self.failures) - FAILURES_SHOWN} more")
        return not self.failures


def check_shapes(reference: Reference) -> Section:
    """Names, shapes and number of the parameters of networks."""
    section = Section("parameter names, shapes and counts of networks", 0)

    def check(name: str) -> None:
        stored = reference.networks[name]
        program = _program(reference, name)
        shapes = {t.name: list(torch_layout.torch_shape(t.role, t.shape)) for t in program.tensors + program.unused}
        place = f"{NETWORKS}: {name}"
        for tensor in stored["param_shapes"].keys() | shapes.keys():
            section.equal(f"{place}: shape of {tensor}", stored["param_shapes"].get(tensor), shapes.get(tensor))
        section.equal(f"{place}: num_params", stored["num_params"], program.num_params_with_unused)

    return section.each(NETWORKS, reference.networks, check)


def check_graphs(reference: Reference) -> Section:
    """Nodes and shortest paths of graphs, and the sizes that the meta file gives."""
    section = Section("graphs: nodes, shortest paths and sizes", 0)

    def check_deepnets(key: str) -> None:
        graph, _ = _matched(reference, key, "cifar10")
        entry = reference.entry(key)
        section.equal(f"{META}: {key}: num_nodes", entry["num_nodes"], graph.num_nodes)
        # The published counts are of networks with these widths and ten classes, whatever the data set.
        architecture = dataclasses.replace(reference.architecture(key), C=32, fc_dim=256)
        for dataset, stored in entry["num_params"].items():
            program = lower(architecture, dataclasses.replace(_task(dataset), num_classes=10))
            section.equal(f"{META}: {key}: num_params of {dataset}", stored, program.num_params_with_unused)

    def check_predefined(key: str) -> None:
        _, dataset, name = key.split("/")
        _matched(reference, f"predefined/{name}", dataset)

    section.each(GRAPHS, reference.deepnets_keys, check_deepnets)
    graphs = [key for key in reference.predictions if key.startswith("graph/")]
    return section.each(PREDICTIONS, graphs, check_predefined)


def check_logits(reference: Reference) -> Section:
    """Logits of networks with given parameters."""
    section = Section("logits of networks", LOGITS_TOLERANCE)

    def check(name: str) -> None:
        place = f"{NETWORKS}: {name}: logits"
        stored = np.array(reference.networks[name]["logits"])
        stored_norm = reference.networks[name]["logits_norm"]
        program = _program(reference, name)
        params = {tensor.name: parity.parameter(tensor) for tensor in program.tensors}
        ours = parity.logits(program, params)
        if not _same_shape(section, place, stored, ours[:, :STORED_LOGITS]):
            return
        if stored.size == ours.size:
            # This alone limits changes of logits that are known to few digits.
            error = abs(np.linalg.norm(stored) - stored_norm)
            section.within(f"{place}_norm", error / stored_norm, 1e-6 + ROUNDING * stored.size**0.5 / stored_norm)
        errors = [_relative(ours[:, :STORED_LOGITS], stored), _relative(np.linalg.norm(ours), stored_norm)]
        if all(error <= LOGITS_TOLERANCE for error in errors):  # false if one is not a number
            section.errors.extend(errors)
            return
        sensitivity = _sensitivity(program, params, ours)
        section.notes.append(
            f"{name} is ill-conditioned: error {max(errors):.1e}, last bits of its parameters make {sensitivity:.1e}"
        )
        for field, error in zip((place, f"{place}_norm"), errors, strict=True):
            tolerance = max(LOGITS_TOLERANCE, SENSITIVITY_FACTOR * sensitivity)
            if not error <= tolerance:
                section.within(field, error, tolerance)

    return section.each(NETWORKS, reference.networks, check)


def _sensitivity(program: Program, params: dict[str, np.ndarray], logits: np.ndarray) -> float:
    """The largest relative change of the logits when every parameter changes at random by its last bit."""
    changes = []
    for seed in range(SENSITIVITY_DRAWS):
        rng = np.random.default_rng(seed)
        bits = {name: rng.integers(0, 2, values.shape, np.int8) for name, values in params.items()}
        moved = {name: values * np.float32(1 + (2 * bits[name] - 1) * 2.0**-23) for name, values in params.items()}
        changes.append(_relative(parity.logits(program, moved), logits))
    return max(changes)


def load_hypernetworks(figures: Figures) -> dict[str, GHN]:
    """All hypernetworks of the folder by the names of their files."""
    found = {}
    for path in sorted(figures.folder.glob("*.npz")):
        if not path.stem.endswith("_embeddings"):
            try:
                found[path.stem] = GHN(*conversion.load_npz(path))
            except (conversion.ConversionError, ConfigError) as error:
                raise ParityError(f"{figures.place}{path.name}: {error}") from error
    return found


def check_embeddings(reference: Reference, figures: Figures, hypernetworks: dict[str, GHN]) -> Section:
    """Embeddings of the nodes of graphs."""
    section = Section(f"{figures.title}node embeddings", EMBEDDINGS_TOLERANCE)
    for hypernetwork, ghn in hypernetworks.items():
        path = figures.folder / f"{hypernetwork}_embeddings.npz"
        file = f"{figures.place}{path.name}"
        if not path.exists():
            section.failures.append(f"{file}: no such file")
            continue
        with np.load(path) as archive:
            embeddings = {key.replace("__", "/"): archive[key] for key in archive.files}

        def check(key: str, hypernetwork=hypernetwork, ghn=ghn, file=file, embeddings=embeddings) -> None:
            graph = _as_stored(reference, key, _dataset(hypernetwork))
            ours = embed_nodes(graph, ghn)
            if _same_shape(section, f"{file}: {key}", embeddings[key], ours):
                error = np.abs(ours - embeddings[key]).max(axis=1)
                node = int(np.argmax(error))
                section.within(f"{file}: {key}: node {node}", error[node], EMBEDDINGS_TOLERANCE)

        section.each(file, embeddings, check)
    return section


def check_predictions(reference: Reference, figures: Figures, hypernetworks: dict[str, GHN]) -> tuple[Section, Section]:
    """Statistics of predicted parameters, and logits of the networks that have them."""
    statistics = Section(f"{figures.title}predicted parameters", STATISTICS_TOLERANCE)
    logits = Section(f"{figures.title}logits of networks with predicted parameters", PREDICTED_LOGITS_TOLERANCE)
    file = f"{figures.place}{PREDICTIONS}"

    def check(name: str) -> None:
        place = f"{file}: {name}"
        hypernetwork, _, key = name.partition("/")
        if hypernetwork not in hypernetworks:
            raise ParityError(f"no hypernetwork {hypernetwork}.npz")
        dataset = _dataset(hypernetwork)
        graph = _as_stored(reference, key, dataset)
        params = predict_params(graph, hypernetworks[hypernetwork])
        stored = figures.predictions[name]
        in_torch = {t.name: torch_layout.to_torch(t.role, np.asarray(params[t.name])) for t in graph.tensors}
        ours = {tensor: _statistics(values, figures.fewer) for tensor, values in in_torch.items()}
        for tensor in stored["params"].keys() | ours.keys():
            if tensor not in ours or tensor not in stored["params"]:
                where = "not predicted" if tensor in stored["params"] else "predicted, but not in the file"
                statistics.failures.append(f"{place}: {tensor} is {where}")
                continue
            values = np.array(stored["params"][tensor])
            if _same_shape(statistics, f"{place}: {tensor}", values, ours[tensor]):
                error = np.abs(ours[tensor] - values) / _scale(ours[tensor], params[tensor].size)
                worst = int(np.argmax(error))
                statistics.within(f"{place}: {tensor}: figure {worst}", error[worst], STATISTICS_TOLERANCE)
        theirs = np.array(stored["logits"])
        our_logits = parity.logits(_program(reference, f"{key}/{dataset}"), params)[:, :STORED_LOGITS]
        if _same_shape(logits, f"{place}: logits", theirs, our_logits):
            tolerance = PREDICTED_LOGITS_TOLERANCE + ROUNDING / np.abs(theirs).max()
            logits.within(f"{place}: logits", _relative(our_logits, theirs), tolerance)

    names = [name for name in figures.predictions if not name.startswith("graph/")]
    statistics.each(file, names, check)
    logits.checked = statistics.checked
    return statistics, logits


def check_checkpoints(figures: Figures) -> Section | None:
    """Published checkpoint files hold the same as the arrays of the same name; None if there are none."""
    names = sorted(path.name for path in figures.folder.glob("*.pt"))
    if not names:
        print(f"{figures.title}checkpoints: none in this folder")
        return None
    section = Section(f"{figures.title}checkpoints", 0)

    def check(name: str) -> None:
        published = conversion.load_checkpoint(figures.folder / name)
        arrays = name.removesuffix(".pt").removesuffix(".joblib")
        config, stored = conversion.load_npz(figures.folder / f"{arrays}.npz")
        section.equal(f"{name}: config", published.config, config)
        if published.config != config:
            return
        params = traverse_util.flatten_dict(published.params, sep="/")
        for key, values in traverse_util.flatten_dict(stored, sep="/").items():
            same = np.array_equal(params[key], values)
            section.equal(f"{name}: {key}", "the same" if same else "different", "the same")

    return section.each("checkpoint", names, check)


def _task(dataset: str) -> Task:
    if dataset not in TASKS:
        raise ParityError(f"no data set {dataset!r}: expected {' or '.join(TASKS)}")
    return TASKS[dataset]


def _dataset(hypernetwork: str) -> str:
    return hypernetwork.rpartition("_")[2]


def _program(reference: Reference, name: str) -> Program:
    """The program of "<split>/<index>/<data set>"."""
    key, _, dataset = name.rpartition("/")
    return lower(reference.architecture(key), _task(dataset))


@functools.cache
def _matched(reference: Reference, key: str, dataset: str) -> tuple[Graph, np.ndarray]:
    """Our graph and the order in which the folder lists its nodes, after checking that they are the same graph."""
    graph = graph_of(_program(reference, f"{key}/{dataset}"))
    stored = reference.graph(key, dataset)
    if key.startswith("predefined/"):
        labels = parity.predefined_labels(graph)
        distances = np.where(graph.distances <= LONGEST_VIRTUAL_EDGE, graph.distances, 0)
    else:
        labels = node_labels(graph)
        distances = graph.distances
    _, order = match_nodes(labels, distances, stored.rows, stored.distances)
    return graph, order


@functools.cache
def _as_stored(reference: Reference, key: str, dataset: str) -> Graph:
    """The graph as the published implementation reads it, which pairs the i-th node listed with the i-th distances."""
    return published_figures.as_listed(*_matched(reference, key, dataset), reference.graph(key, dataset).distances)


def _statistics(values: np.ndarray, fewer: int) -> np.ndarray:
    """L2 norm, mean, standard deviation (`Figures.fewer`), the first and the last four values."""
    flat = values.reshape(-1).astype(np.float64)
    return np.array([np.linalg.norm(flat), flat.mean(), flat.std(ddof=fewer), *flat[:4], *flat[-4:]])


def _scale(statistics: np.ndarray, size: int) -> np.ndarray:
    """What errors of `_statistics` are relative to: the norm for itself, else the root of the mean square."""
    scale = np.full(len(statistics), statistics[0] / size**0.5)
    scale[0] = statistics[0]
    return scale


def _relative(ours: np.ndarray, stored: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(ours - stored).max() / np.abs(stored).max())


def _same_shape(section: Section, place: str, stored: np.ndarray, ours: np.ndarray) -> bool:
    section.equal(f"{place}: shape", stored.shape, ours.shape)
    return stored.shape == ours.shape


def check_published_norms(folder: pathlib.Path) -> Section:
    """Norms of what the weights of GHN-3's hub predict for models of torchvision."""
    section = Section("norms of parameters predicted for models of torchvision", published_figures.NORM_TOLERANCE)
    norms = published_figures.published_norms(folder)
    for file in published_figures.hub_files(folder):
        ghn = ghn_jax.load(folder / file)

        def check(name: str, file=file, ghn=ghn) -> None:
            error = abs(published_figures.predicted_norm(published_figures.TWINS[name](), ghn) - norms[name][file])
            section.within(f"{published_figures.RESULTS}: {name} of {file}", error, section.tolerance)

        section.each(file, [name for name in published_figures.TWINS if name in norms], check)
    return section


def check_published_accuracies(folder: pathlib.Path, data_dir: str | None) -> Section:
    """Mean accuracies of the published networks with the parameters that GHN-2 predicts."""
    section = Section("mean accuracies of GHN-2 on CIFAR-10", published_figures.ACCURACY_TOLERANCE)
    dataset = images.load("cifar10", data_dir)
    ghn = ghn_jax.load(folder / published_figures.CIFAR10_WEIGHTS)

    def check(split: str) -> None:
        error = abs(
            published_figures.mean_accuracy(folder, split, ghn, dataset) - published_figures.CIFAR10_ACCURACIES[split]
        )
        section.within(f"{published_figures.CIFAR10_WEIGHTS}: {split}", error, section.tolerance)

    return section.each(published_figures.CIFAR10_WEIGHTS, published_figures.CIFAR10_ACCURACIES, check)


def check_published(folder: pathlib.Path, data_dir: str | None) -> bool:
    """All that there are files for; whether all is well.

    Raises:
      ParityError: there are none.
    """
    well = True
    if published_figures.hub_files(folder):
        well &= check_published_norms(folder).show()
    if (folder / published_figures.CIFAR10_WEIGHTS).exists():
        well &= check_published_accuracies(folder, data_dir).show()
    return well


def check_reference(folder: pathlib.Path) -> bool:
    """All figures of a folder; whether all is well.

    Raises:
      ParityError: the folder cannot be read.
    """
    reference = Reference(folder)
    well = check_shapes(reference).show()
    well &= check_graphs(reference).show()
    well &= check_logits(reference).show()
    hypernetworks = [load_hypernetworks(figures) for figures in reference.figures]
    for figures, ghns in zip(reference.figures, hypernetworks, strict=True):
        well &= check_embeddings(reference, figures, ghns).show()
        for section in check_predictions(reference, figures, ghns):
            well &= section.show()
        if (checkpoints := check_checkpoints(figures)) is not None:
            well &= checkpoints.show()
    return well


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare with figures of the published PyTorch implementation.")
    parser.add_argument("--reference", type=pathlib.Path, help="folder of the figures")
    parser.add_argument("--published", type=pathlib.Path, help="folder of published weights and results")
    parser.add_argument("--data_dir", help="where CIFAR-10 is, for accuracies of published weights")
    args = parser.parse_args(arguments)
    if args.reference is None and args.published is None:
        parser.error("expected --reference or --published")
    start, well = time.monotonic(), True
    for folder, check in (
        (args.reference, check_reference),
        (args.published, functools.partial(check_published, data_dir=args.data_dir)),
    ):
        try:
            well &= folder is None or check(folder)
        except GHNError as error:
            print(f"{folder}: {error}", file=sys.stderr)
            return 1
    print(f"{'all agree' if well else 'something is off'}, after {time.monotonic() - start:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
