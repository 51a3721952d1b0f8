"""Properties of networks predicted from their graphs: how well does an embedding order networks?

A regression is fitted to the embeddings of some networks and their measured properties, and judged on others by
Kendall's tau, beside simple predictors such as the number of parameters.

Source: paper, section 5.2; the grid and the five repetitions are those of the published code.
"""

from __future__ import annotations

import collections
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ghn_jax.checks import files
from ghn_jax.checks.fields import ByName, Real, taken
from ghn_jax.errors import extra
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.graphs.graph import NODE_TYPES, Graph
from ghn_jax.studies.train_networks import FROM_HE, FROM_PREDICTED, StudyError

GRID = {
    "C": (1, 10, 50, 100, 200, 500, 1000),
    "gamma": ("auto", 0.05, 0.1, 0.2, 0.5),
    "epsilon": (0.05, 0.1, 0.2),
}
"""What the regression chooses from, by cross-validation."""

FOLDS = 5
REPETITIONS = 5

PROPERTIES = {
    "accuracy": "accuracy, %",
    "noisy_accuracy": "accuracy on noisy images, %",
    "time": "time per image, ms",
    "convergence": "convergence, share of the schedule",
}
"""Properties and what their axes are called."""

NEVER = 2.0
"""Convergence of a network that does not get there."""

_MOST_BYTES = 1 << 28
"""Of a file of times."""

Values = Mapping[str, Any]
"""By network, such as "val/3": a number or a vector."""


class Networks(NamedTuple):
    """What is known of networks.

    Attributes:
      properties: numbers by property and network.
      baselines: other predictors than embeddings: numbers by title and network.
    """

    properties: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]]


def convergence(train_accuracy: Sequence[float], reach: float, window: int = 10) -> float:
    """Share of the schedule after which the training accuracy, a mean over steps, first reaches a value.

    Args:
      train_accuracy: of every step, 0..1.
      reach: the value.
      window: the mean is over so many steps.

    Returns:
      In 0..1, or `NEVER`.
    """
    means = np.convolve(train_accuracy, np.ones(window) / window, "valid")
    reached = np.flatnonzero(means >= reach - 1e-9)  # sums of shares are not exact
    return (int(reached[0]) + window) / len(train_accuracy) if reached.size else NEVER


def read_times(path: str | os.PathLike) -> dict[str, float]:
    """Seconds for an image by network, from a JSON file of `experiments/time_networks.py`.

    Raises:
      StudyError: no such file, or another content.
    """
    try:
        times = files.parse_json(files.read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise StudyError(f"{path} is no JSON file: {error}") from error
    return taken(times, ByName(Real(0, 1e6)), StudyError, os.fspath(path))


def collect(rows: Sequence[Row], times: Mapping[str, float], reach: float) -> Networks:
    """Properties and baselines of the networks that were trained from He initialization.

    Args:
      rows: from `train_networks.train`, all measured in the same way.
      times: seconds for an image, by name of the network; the others have no such property.
      reach: training accuracy that counts as convergence.

    Raises:
      StudyError: no such networks, or one that was not measured.
    """
    properties, baselines = collections.defaultdict(dict), collections.defaultdict(dict)
    for row in rows:
        name, accuracy = f"{row['split']}/{row['number']}", row["accuracy"]
        if row["start"] == FROM_PREDICTED and "0" in accuracy:
            baselines["accuracy of predicted parameters"][name] = accuracy["0"]
        if row["start"] != FROM_HE:
            continue
        steps = sorted(int(step) for step in accuracy if step != "0")
        if not steps or str(steps[-1]) not in row["noisy_accuracy"]:
            raise StudyError(f"{name} was measured after no step, or not on noisy images after the last one")
        first, last = steps[0], steps[-1]
        properties["accuracy"][name] = 100 * accuracy[str(last)]
        properties["noisy_accuracy"][name] = 100 * row["noisy_accuracy"][str(last)]
        properties["convergence"][name] = convergence(row["train_accuracy"], reach)
        if name in times:
            properties["time"][name] = 1e3 * times[name]
        baselines["parameters"][name] = row["parameters"]
        baselines["multiply-adds"][name] = row["multiply_adds"]
        baselines[f"accuracy after {first} steps"][name] = accuracy[str(first)]
    if not properties:
        raise StudyError("no network was trained from He initialization: expected rows of train_networks")
    return Networks(dict(properties), dict(baselines))


def zero_shot(rows: Iterable[Row], title: str) -> dict[str, float]:
    """Accuracy of predicted parameters by network.

    Args:
      rows: from `evaluate_splits.measure`.
      title: of the hypernetwork, in these rows.

    Raises:
      StudyError: no row has this hypernetwork.
    """
    found = {f"{row['split']}/{row['number']}": row["accuracy"].get(title) for row in rows}
    found = {name: accuracy for name, accuracy in found.items() if accuracy is not None}
    if not found:
        raise StudyError(f"no network was measured with {title!r}: expected the title of a hypernetwork in the file")
    return found


def operation_counts(graph: Graph) -> np.ndarray:
    """How many nodes of each type a graph has, `[15]` float64."""
    return np.bincount(graph.node_types, minlength=len(NODE_TYPES)).astype(np.float64)


def matched(vectors: Values, values: Values, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `[n, d]` and values `[n]` of the same networks, in the same order.

    Raises:
      StudyError: they are of different networks, or of none.
    """
    for have, lack, of in ((values, vectors, "no embedding"), (vectors, values, f"no {what}")):
        missing = [name for name in have if name not in lack]
        if missing:
            listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise StudyError(
                f"{len(missing)} of {len(have)} networks have {of} ({listed}): expected embeddings and properties of "
                "the same networks"
            )
    if not values:
        raise StudyError(f"no network has a {what}: expected at least one")
    return np.stack([np.asarray(vectors[name], np.float64) for name in values]), np.asarray(list(values.values()))


class Prediction(NamedTuple):
    """A property predicted for networks that were not fitted to.

    Attributes:
      taus: Kendall's tau between predicted and measured values, one a repetition.
      predicted, measured: by network; the prediction is that of the last repetition.
    """

    taus: tuple[float, ...]
    predicted: dict[str, float]
    measured: dict[str, float]


def predict(
    vectors: Values, fitted: Values, judged: Values, what: str = "value", repetitions: int = REPETITIONS
) -> Prediction:
    """Support vector regression from vectors to a property, its settings chosen by cross-validation.

    Args:
      vectors: of all networks of both.
      fitted, judged: the property by network, of those that are fitted to and of those that tau is of.
      what: name of the property, for errors.
      repetitions: with other folds each; the last one has the networks in their order.

    Raises:
      StudyError: properties of other networks than the vectors, networks that are both fitted to and judged, or fewer
        than two networks a fold.
    """
    with extra("studies"):
        from sklearn import config_context
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVR
    if len(fitted) < 2 * FOLDS:
        raise StudyError(
            f"{len(fitted)} networks to fit {what} to: expected at least {2 * FOLDS}, two for each of {FOLDS} folds"
        )
    if both := fitted.keys() & judged.keys():
        raise StudyError(
            f"{len(both)} networks, the first {min(both)}, are fitted to and judged: expected others for either"
        )
    names = {*fitted, *judged}
    vectors = {name: vector for name, vector in vectors.items() if name in names}
    matched(vectors, {**fitted, **judged}, what)
    inputs, targets = (np.asarray(part) for part in matched({n: vectors[n] for n in fitted}, fitted, what))
    others, measured = matched({n: vectors[n] for n in judged}, judged, what)
    taus, predicted = [], np.zeros(len(measured))
    for repetition in range(repetitions):
        order = np.arange(len(targets))
        if repetition < repetitions - 1:
            order = np.random.default_rng(repetition).permutation(len(targets))
        search = GridSearchCV(SVR(kernel="rbf"), {k: list(v) for k, v in GRID.items()}, cv=FOLDS, refit=False)
        with config_context(skip_parameter_validation=True, assume_finite=True):  # hundreds of small fits
            search.fit(inputs[order], targets[order])
        predicted = SVR(kernel="rbf", **search.best_params_).fit(inputs, targets).predict(others)
        taus.append(kendall(predicted, measured))
    return Prediction(tuple(taus), dict(zip(judged, predicted.tolist(), strict=True)), dict(judged))


def kendall(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-b, 0 where one of both has a single value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tau = getattr(stats.kendalltau(first, second), "statistic")  # noqa: B009
    return 0.0 if np.isnan(tau) else float(tau)


def compare(
    embeddings: Mapping[str, Values],
    networks: Networks,
    fitted_split: str,
    judged_split: str,
    repetitions: int = REPETITIONS,
) -> dict[str, dict[str, Prediction]]:
    """All properties from all predictors, by property and title.

    Args:
      embeddings: vectors by title and network.
      networks: properties and baselines; a baseline is no regression, its tau is that of its own values.
      fitted_split, judged_split: splits of DeepNets-1M.
      repetitions: of every regression.

    Raises:
      StudyError: as for `predict`, or a split without networks.
    """
    found: dict[str, dict[str, Prediction]] = {}
    for what, values in networks.properties.items():
        parts = [
            {name: value for name, value in values.items() if name.startswith(f"{split}/")}
            for split in (fitted_split, judged_split)
        ]
        for split, part in zip((fitted_split, judged_split), parts, strict=True):
            if not part:
                raise StudyError(f"no network of {split} has a {what}: expected some")
        fitted, judged = parts
        found[what] = {
            title: predict(vectors, fitted, judged, what, repetitions) for title, vectors in embeddings.items()
        }
        for title, known in networks.baselines.items():
            both = {name: value for name, value in judged.items() if name in known}
            if len(both) > 1:
                own = {name: float(known[name]) for name in both}
                tau = kendall(list(own.values()), list(both.values()))
                found[what][title] = Prediction((tau,), own, both)
    return found


def table(found: Mapping[str, Mapping[str, Prediction]]) -> str:
    """Kendall's tau, mean and standard deviation over the repetitions, as Markdown."""
    titles = list(dict.fromkeys(title for predictions in found.values() for title in predictions))
    header = ["", *(what.replace("_", " ") for what in found)]
    lines = [header, ["---"] * len(header)]

    def cell(prediction: Prediction | None) -> str:
        if prediction is None:
            return ""
        spread = f" +- {np.std(prediction.taus):.2f}" if len(prediction.taus) > 1 else ""
        return f"{np.mean(prediction.taus):.2f}{spread}"

    lines += [[title, *(cell(predictions.get(title)) for predictions in found.values())] for title in titles]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(path: str | os.PathLike, found: Mapping[str, Mapping[str, Prediction]], title: str) -> None:
    """Draws measured against predicted values of one predictor, a panel for every property."""
    with extra("plot"):
        import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(3.6 * len(found), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (what, predictions) in zip(panels, found.items(), strict=True):
        one = predictions[title]
        predicted = [one.predicted[name] for name in one.measured]
        measured = list(one.measured.values())
        ends = [min(predicted + measured), max(predicted + measured)]
        axes.plot(ends, ends, color="0.8", linewidth=1)
        axes.plot(measured, predicted, "o", markersize=4, alpha=0.7)
        axes.set(xlabel=f"measured {PROPERTIES[what]}", ylabel="predicted", title=f"tau {np.mean(one.taus):.2f}")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{len(next(iter(found.values()))[title].measured)} networks that were not fitted to, {title}")
    figure.savefig(path, dpi=110)
