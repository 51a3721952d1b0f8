"""The best of several starts of training, found by trying them on a few batches."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ghn_jax.checks.fields import Batches, OneOf, Real, Several, Whole, shown, taken
from ghn_jax.errors import GHNError
from ghn_jax.evaluation.fine_tuning import Protocol, Trainer
from ghn_jax.evaluation.orthogonalise import orthogonalise
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph, Role
from ghn_jax.images import Batch
from ghn_jax.networks.architecture import AnyArchitecture, Task
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import Network, make_network
from ghn_jax.prediction.predict import chosen_ghn, predict_params
from ghn_jax.prediction.report import Verdict, report
from ghn_jax.runtime import own_settings

PREDICTED, RANDOM, SEEN, BODY, ORTHOGONAL = "predicted", "random", "seen tensors", "body", "orthogonal"
"""Starts: all predicted; all random; predicted where the hypernetwork has seen such tensors; predicted but for the
class layers; predicted, with noise and orthogonal weights (`orthogonalise`)."""

STARTS = (PREDICTED, RANDOM, SEEN, BODY, ORTHOGONAL)

_STARTS = Several(OneOf(*STARTS), 1, 1 << 10)
_UNTIL = 1 << 30
"""Steps of the schedule: in a few of them the rate does not fall."""


class StartError(GHNError):
    """Starts that cannot be compared.

    >>> ghn_jax.best_start(ghn_jax.named('resnet50'), [])
    Traceback (most recent call last):
        ...
    ghn_jax.evaluation.best_start.StartError: 0 batches: expected at least 2
    """


@dataclasses.dataclass(frozen=True)
class Start:
    """The start that was chosen.

    Attributes:
      name: "predicted", "random", "seen tensors", "body" or "orthogonal".
      params: the parameters at the start, in the structure of the model's own.
      losses: of all starts, mean over the last quarter of the batches, each before its step; inf where it diverged.
      accuracies: of all starts of an architecture (0..1), on the same batches; none for a model of your own.

    >>> start = ghn_jax.Start('predicted', {}, {'predicted': 0.9, 'random': 1.2}, {'predicted': 0.75, 'random': 0.5})
    >>> print(start)
    predicted: top-1 75.0%, loss 0.900 on the last batches, against 50.0%, 1.200 (random)
    """

    name: str
    params: Any
    losses: Mapping[str, float]
    accuracies: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        def shown(name: str, what: str = "", loss: str = "") -> str:
            top1 = f"{what}{self.accuracies[name]:.1%}, " if self.accuracies else ""
            return f"{top1}{loss}{self.losses[name]:.3f}"

        others = [f"{shown(name)} ({name})" for name in self.losses if name != self.name]
        chosen = shown(self.name, "top-1 ", "loss ")
        return f"{self.name}: {chosen} on the last batches, against {', '.join(others) or 'no other'}"


class _Before(NamedTuple):
    """What there was on a batch before its step: the loss, and the share of right answers where labels are known."""

    loss: float
    accuracy: float | None = None


class _Candidate(NamedTuple):
    """Parameters at the start, and a function that makes a step on a batch."""

    params: Any
    step: Callable[[Any], _Before]


@own_settings()
def best_start(
    model: AnyArchitecture | Graph,
    batches: Iterable[Any],
    *,
    loss: Callable[[Any, Any], jax.Array] | None = None,
    ghn: GHN | None = None,
    starts: Collection[str] | None = None,
    learning_rate: float = 0.025,
    seed: int = 0,
) -> Start:
    """Tries predicted, partly predicted and random parameters on a few batches, and takes the best.

    Every start is trained with SGD (momentum 0.9, clipping to a norm of 5) on all batches in their order.  For an
    architecture the accuracy on the last quarter of them, each before its step, decides: random parameters without
    normalisation have losses of hundreds at first, and may learn well nevertheless.  For a model of your own, whose
    answers nobody knows, the mean loss there decides.

    Args:
      model: an architecture, or the graph of a model of your own from `ghn_jax.trace`.
      batches: at least 2; for an architecture pairs of normalised images `[B, S, S, 3]` and labels `[B]`, all of one
        size; otherwise whatever `loss` takes.
      loss: for the graph of a model: a function of its parameters and a batch, which JAX can differentiate.
      ghn: the hypernetwork; None takes the one shipped with the package.
      starts: names of those to try, such as "predicted" and "random"; None for all that differ.
      learning_rate: of SGD.
      seed: of random parameters, noise and dropout.

    Raises:
      StartError: fewer than 2 batches, batches of several sizes or of something else, a graph without a loss or an
        architecture with one, a loss that fails (its own error is the cause), a rate, seed or start that is none,
        or no start with a finite loss.
      GraphError, ConfigError: as for `predict_params`.

    >>> import numpy as np
    >>> edges = (('conv_1x1', 0), ('none', 1))
    >>> network = ghn_jax.Architecture(ghn_jax.Genotype(edges, (2,), edges, (2,)), n_cells=3, C=8, stem_type=1)
    >>> images, labels = np.zeros((4, 32, 32, 3), 'float32'), np.arange(4)
    >>> start = ghn_jax.best_start(network, [(images, labels)] * 2)
    >>> start.name in start.losses, list(start.params) == list(ghn_jax.predict_params(ghn_jax.build_graph(network)))
    (True, True)
    """
    ghn = chosen_ghn(ghn, "best_start")
    batches = list(taken(batches, Batches(), StartError, "batches"))
    if len(batches) < 2:
        raise StartError(f"{len(batches)} batches: expected at least 2")
    rate = taken(learning_rate, Real(0, 1e3, with_low=False), StartError, "learning_rate")
    seed = taken(seed, Whole(0, 1 << 31), StartError, "seed")
    if starts is not None:
        starts = taken(list(starts) if isinstance(starts, (set, frozenset)) else starts, _STARTS, StartError, "starts")
    if isinstance(model, Graph) != (loss is not None):
        raise StartError("expected either an architecture, or a graph of ghn_jax.trace with a loss")
    if isinstance(model, Graph):
        assert loss is not None
        _check_loss(model, loss, batches[0])
        candidates = _of_a_model(model, loss, ghn, rate, seed)
    else:
        candidates = _of_an_architecture(model, batches, ghn, rate, seed)
    judged = max(1, len(batches) // 4)
    losses, accuracies, tried = {}, {}, {}
    for name, make in candidates:
        if starts is not None and name not in starts:
            continue
        candidate = make()
        tried[name] = candidate.params
        last = [candidate.step(batch) for batch in batches][-judged:]
        loss_there = float(np.mean([before.loss for before in last]))
        losses[name] = loss_there if np.isfinite(loss_there) else float("inf")
        if answers := [before.accuracy for before in last if before.accuracy is not None]:
            accuracies[name] = float(np.mean(answers))
    if not losses:
        raise StartError(f"starts={starts}: none of them differs from another start of this network")
    best = min(losses, key=lambda name: (losses[name] == float("inf"), -accuracies.get(name, 0.0), losses[name]))
    if losses[best] == float("inf"):
        raise StartError(
            f"no start has a finite loss after {len(batches)} steps: expected a lower learning_rate={rate}"
        )
    return Start(best, tried[best], losses, accuracies)


def _check_loss(graph: Graph, loss: Callable[[Any, Any], jax.Array], batch: Any) -> None:
    """Raises StartError for a loss that JAX cannot differentiate, before long work; nothing is computed but shapes."""
    if not callable(loss):
        raise StartError(f"loss={shown(loss)}: expected a function of parameters and a batch")
    if graph.tree is None:
        raise StartError("the graph of an architecture: expected the architecture itself, or a graph of ghn_jax.trace")
    params = graph.tree.rebuild([jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in graph.tree.leaves])
    with _failing("the loss fails on the first batch"):
        jax.eval_shape(jax.value_and_grad(loss), params, batch)


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """Whatever a user's function raises becomes the cause of a StartError."""
    try:
        yield
    except GHNError:
        raise
    except Exception as error:
        raise StartError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error


def _of_an_architecture(
    architecture: AnyArchitecture, batches: Sequence[Any], ghn: GHN, rate: float, seed: int
) -> Iterator[tuple[str, Callable[[], _Candidate]]]:
    """The starts of a network that runs operation by operation."""
    for batch in batches:
        _check_batch(batch, ghn.config.num_classes)
    shapes = {(np.shape(images), np.shape(labels)) for images, labels in batches}
    if len(shapes) > 1:
        raise StartError(f"batches of shapes {sorted(shapes)}: expected one size")
    ((size, _),) = shapes
    if len(size) != 4 or size[1] != size[2] or size[3] != 3:
        raise StartError(f"images of shape {size}: expected [batch, size, size, 3]")
    network = make_network(0, architecture, Task(ghn.config.num_classes, size[1], large_images=size[1] > 32))
    trainer = Trainer(Protocol(_UNTIL, size[0], learning_rate=rate, weight_decay=0.0))

    def candidate(params: Mapping[str, Any]) -> _Candidate:
        training, steps = trainer.begin(network.program, params), itertools.count()

        def step(batch: Any) -> _Before:
            pixels, labels = (np.asarray(batch[0], np.float32), np.asarray(batch[1], np.int32))
            key = jax.random.fold_in(jax.random.key(seed), next(steps))
            before = training.step(Batch(pixels, labels), key)
            return _Before(float(before.loss), int(before.correct) / len(labels))

        return _Candidate(params, step)

    for name, params in _starts_of(network, ghn, seed).items():
        yield name, functools.partial(candidate, params)


def _check_batch(batch: Any, classes: int) -> None:
    """Raises StartError for what is no pair of images and their labels."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise StartError(f"a batch is a {type(batch).__name__}: expected a pair of images and labels")
    if any(isinstance(part, np.ma.MaskedArray) for part in batch):
        raise StartError("a batch has a masked array: expected images and labels, nothing stands for what is masked")
    try:
        images, labels = map(np.asarray, batch)
    except (TypeError, ValueError) as error:
        raise StartError(f"images or labels that make no array: {error}") from None
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise StartError(f"labels of type {labels.dtype} and shape {labels.shape}: expected an integer an image")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise StartError(f"labels from {labels.min()} to {labels.max()}: expected 0 to {classes - 1}")
    numbers = images.dtype.kind in "iu" or jax.numpy.issubdtype(images.dtype, np.floating)
    with np.errstate(over="ignore"):
        if not numbers or not np.isfinite(images.astype(np.float32)).all():
            raise StartError("images: expected finite numbers")


def _starts_of(network: Network, ghn: GHN, seed: int) -> dict[str, dict[str, Any]]:
    """Parameters of all starts; one that is the same as another is left out."""
    graph = network.graph
    predicted, random = predict_params(graph, ghn), he_init(network.program, seed)
    seen = {row.name for row in report(graph, ghn).of(Verdict.SEEN)}
    body = {tensor.name for tensor in graph.tensors if tensor.role not in (Role.CLASS_WEIGHT, Role.CLASS_BIAS)}
    starts = {PREDICTED: predicted, RANDOM: random}
    for name, chosen in ((SEEN, seen), (BODY, body)):
        if chosen and len(chosen) < len(predicted):
            starts[name] = {key: predicted[key] if key in chosen else random[key] for key in predicted}
    orthogonal = orthogonalise(graph, predicted, seed=seed)
    if any(not np.array_equal(orthogonal[name], values) for name, values in predicted.items()):
        starts[ORTHOGONAL] = orthogonal
    return starts


def _of_a_model(
    graph: Graph, loss: Callable[[Any, Any], jax.Array], ghn: GHN, rate: float, seed: int
) -> Iterator[tuple[str, Callable[[], _Candidate]]]:
    """The starts of a model of a user's own."""
    tree = graph.tree
    assert tree is not None
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(rate, momentum=0.9))

    @jax.jit
    def update(params: Any, state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def candidate(params: Any) -> _Candidate:
        held = [params, optimizer.init(params)]

        def step(batch: Any) -> _Before:
            with _failing("the loss fails on a batch"):
                held[0], held[1], value = update(held[0], held[1], batch)
            return _Before(float(value))

        return _Candidate(params, step)

    predicted = predict_params(graph, ghn, seed=seed)
    arrays = tree.arrays(predicted)
    yield PREDICTED, functools.partial(candidate, predicted)
    initial = tree.initial(range(len(tree.leaves)), seed)
    if all(values is not None for values in initial):
        yield RANDOM, functools.partial(candidate, tree.rebuild(list(initial)))
        classes = {
            tensor.placed.leaf for tensor in graph.tensors if tensor.role in (Role.CLASS_WEIGHT, Role.CLASS_BIAS)
        }
        seen = {row.name for row in report(graph, ghn).of(Verdict.SEEN)}
        chosen_of = {
            SEEN: {index for index, leaf in enumerate(tree.leaves) if leaf.name in seen},
            BODY: set(range(len(arrays))) - classes,
        }
        for name, chosen in chosen_of.items():
            if chosen and len(chosen) < len(arrays):
                mixed = [arrays[index] if index in chosen else initial[index] for index in range(len(arrays))]
                yield name, functools.partial(candidate, tree.rebuild(mixed))
    orthogonal = orthogonalise(graph, predicted, seed=seed)
    pairs = zip(tree.arrays(orthogonal), arrays, strict=True)
    if any(not np.array_equal(mine, other) for mine, other in pairs):
        yield ORTHOGONAL, functools.partial(candidate, orthogonal)
