"""The forecast fitted to measured networks, and its error on groups of networks that it was not fitted to.

Sources: Friedman, "Greedy function approximation: a gradient boosting machine", and Efron, "Bootstrap methods" (the
interval between percentiles), Annals of Statistics 2001 and 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ghn_jax.checks.fields import taken
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.errors import extra
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.forecast import FEATURES, Score, Trees, references
from ghn_jax.prediction.report import report
from ghn_jax.studies.train_networks import FROM_HE, FROM_PREDICTED, StudyError

TREES, DEPTH, SHRINKAGE = 80, 3, 0.1
"""Number and depth of the trees, and what the value of each is multiplied with."""

MODELS = "public models"
"""The group of models that are no networks of DeepNets-1M; they judge, and nothing is fitted to them."""

HALF = 0.5
"""Of what networks like those of training reach: below it a prediction counts as poor."""


class Example(NamedTuple):
    """A measured network.

    Attributes:
      name: such as "test/7".
      group: its split, or what else it belongs to; whole groups are held out.
      features: in the order of `FEATURES`, `[F]`.
      accuracy: without training, above chance, relative to networks like those of training; None if not measured.
      helps: whether training from the prediction was ahead of training from random parameters; None if not measured.
    """

    name: str
    group: str
    features: np.ndarray
    accuracy: float | None = None
    helps: bool | None = None


def features_of_networks(
    networks: Iterable[tuple[str, int]], ghns: Mapping[str, GHN], path: Path
) -> dict[tuple[str, int, str], np.ndarray]:
    """Features of networks for every hypernetwork; those that a file does not have yet are added to it.

    Args:
      networks: splits and numbers.
      ghns: by name.
      path: a file with a JSON line for every network and hypernetwork.

    Returns:
      Features `[F]` by split, number and name of the hypernetwork.
    """
    weights = {name: {"checkpoint": name, json_lines.WEIGHTS: ghn.fingerprint} for name, ghn in ghns.items()}
    features = json_lines.numbers(len(FEATURES), len(FEATURES))
    found = {
        (row["split"], row["number"], row["checkpoint"]): np.array(row["features"], np.float64)
        for row in json_lines.resume(path, split=str, number=int, checkpoint=str, features=features)
        if json_lines.is_of(row, weights.get(row["checkpoint"], {}))
    }
    wanted = [(split, number) for split, number in networks]
    for split, number in tqdm(wanted, desc="features", unit="network", disable=None):
        missing = [name for name in ghns if (split, number, name) not in found]
        if not missing:
            continue
        graph = build_graph(sample_architecture(split, number))
        for name in missing:
            rounded = [round(float(value), 5) for value in report(graph, ghns[name]).features]
            found[split, number, name] = np.array(rounded)  # as they are read again, so that a fit can be repeated
            json_lines.append(path, {"split": split, "number": number, **weights[name], "features": rounded})
    return found


def examples_of(
    accuracies: Mapping[tuple[str, int], float],
    helps: Mapping[tuple[str, int], bool],
    features: Mapping[tuple[str, int], np.ndarray],
    reference: float,
    chance: float,
) -> list[Example]:
    """Examples of one hypernetwork, of the networks whose features are known.

    Args:
      accuracies: without training, 0..1, by split and number.
      helps: whether the prediction helped, by split and number.
      features: `[F]`, by split and number.
      reference: mean accuracy of networks like those of training.
      chance: accuracy of guessing.
    """
    examples = []
    for split, number in dict.fromkeys([*accuracies, *helps]):
        if (split, number) in features:
            accuracy = accuracies.get((split, number))
            relative = None if accuracy is None else (accuracy - chance) / (reference - chance)
            found = features[split, number]
            examples.append(Example(f"{split}/{number}", split, found, relative, helps.get((split, number))))
    return examples


def examples_of_models(path: Path, what: str, ghn: GHN, reference: float, chance: float) -> list[Example]:
    """Examples of models that are no networks of DeepNets-1M, of `benchmarks/forecast_models.py`.

    Args:
      path: a file with a JSON line for every model.
      what: name of the hypernetwork.
      ghn: the hypernetwork; lines of others do not count.
      reference, chance: as for `examples_of`.

    Raises:
      StudyError: no line of this hypernetwork, or one with other features or accuracies than a model has.
    """
    about = {"checkpoint": what, json_lines.WEIGHTS: ghn.fingerprint}
    examples = []
    for row in json_lines.read(path, model=str, features=list, accuracy=dict):
        if not json_lines.is_of(row, about):
            continue
        name = row["model"][:80]
        if len(row["features"]) != len(FEATURES):
            raise StudyError(f"{path}: {len(row['features'])} features of {name}, expected {len(FEATURES)}")
        rule = json_lines.numbers(len(FEATURES), len(FEATURES))
        features = np.array(taken(row["features"], rule, StudyError, f"{path}: features of {name}"), np.float64)
        predicted, own = (
            taken(row["accuracy"].get(start), json_lines.ACCURACIES, StudyError, f"{path}: accuracy of {name}, {start}")
            for start in (FROM_PREDICTED, FROM_HE)
        )
        last = max(predicted, key=int, default="0")
        if "0" not in predicted or last not in own:
            raise StudyError(f"{path}: accuracy of {name}: expected it before training, and of both starts after it")
        relative = (predicted["0"] - chance) / (reference - chance)
        examples.append(Example(row["model"], MODELS, features, relative, predicted[last] > own[last]))
    if not examples:
        raise StudyError(f"{path}: no model of {what} with the weights that it has now, expected some")
    return examples


def helped(rows: Iterable[Row]) -> dict[tuple[str, int], bool]:
    """Whether the accuracy after the last step was higher from the prediction, by split and number.

    Args:
      rows: from `train_networks.train`; a network that misses one of both starts does not count.
    """
    last: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        step = max(row["accuracy"], key=int, default="0")
        if step != "0":
            last.setdefault((row["split"], row["number"]), {})[row["start"]] = row["accuracy"][step]
    return {key: of[FROM_PREDICTED] > of[FROM_HE] for key, of in last.items() if len(of) == 2}


def fit(examples: Sequence[Example]) -> Score:
    """Boosted trees for the accuracy, and a logistic curve over what they say of networks that they did not see.

    Args:
      examples: measured networks of at least two groups.

    Raises:
      StudyError: features of another number, no accuracy, a single group, or all examples help or none does.
    """
    trees = fit_trees(examples)
    accuracy = leave_one_group_out(examples, fit_trees)
    features = np.stack([example.features for example in examples])
    typical = tuple(round(float(value), 6) for value in np.median(features, 0))
    return Score(trees, fit_curve(accuracy, examples), np.asarray(typical))


def fit_trees(examples: Sequence[Example]) -> Trees:
    """Boosted regression trees from features to relative accuracy.

    Raises:
      StudyError: features of another number, or no accuracy.
    """
    with extra("studies"):
        from sklearn.ensemble import GradientBoostingRegressor
    for example in examples:
        if example.features.shape != (len(FEATURES),):
            raise StudyError(
                f"{example.name} has features of shape {example.features.shape}: expected {(len(FEATURES),)}"
            )
    measured = [example for example in examples if example.accuracy is not None]
    if not measured:
        raise StudyError(f"none of {len(examples)} examples has an accuracy: expected some")
    features = np.stack([example.features for example in measured])
    targets = np.array([example.accuracy for example in measured])
    found = GradientBoostingRegressor(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=SHRINKAGE, subsample=0.7, random_state=0
    ).fit(features, targets)
    complete = [_complete(one.tree_) for one in found.estimators_[:, 0]]
    feature, threshold, value = (np.stack(arrays) for arrays in zip(*complete, strict=True))
    return Trees(float(targets.mean()), feature, threshold, SHRINKAGE * value)


def _complete(tree: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, thresholds and values of a tree of scikit-learn, its leaves repeated down to the full depth."""
    inner = 2**DEPTH - 1
    at = np.zeros(2 * inner + 1, np.int64)
    feature, threshold = np.zeros(inner, np.int64), np.zeros(inner)
    for node in range(inner):
        leaf = tree.children_left[at[node]] < 0
        if not leaf:
            feature[node], threshold[node] = tree.feature[at[node]], tree.threshold[at[node]]
        at[2 * node + 1] = at[node] if leaf else tree.children_left[at[node]]
        at[2 * node + 2] = at[node] if leaf else tree.children_right[at[node]]
    return feature, threshold, tree.value[at[inner:], 0, 0]


def fit_curve(accuracy: np.ndarray, examples: Sequence[Example]) -> tuple[float, float]:
    """Slope and value at 0 of the log-odds that a prediction helps, over the forecast relative accuracy.

    Args:
      accuracy: forecast of each example, `[n]`.
      examples: those of which it is not known whether the prediction helped do not count.

    Raises:
      StudyError: all examples help or none does.
    """
    with extra("studies"):
        from sklearn.linear_model import LogisticRegression
    known = [place for place, example in enumerate(examples) if example.helps is not None]
    labels = [bool(examples[place].helps) for place in known]
    if len(set(labels)) < 2:
        raise StudyError(f"of {len(labels)} examples {sum(labels)} help: expected some that help and some that do not")
    found = LogisticRegression(C=1.0).fit(accuracy[known, None], labels)
    return round(float(found.coef_[0, 0]), 6), round(float(found.intercept_[0]), 6)


def leave_one_group_out(
    examples: Sequence[Example], fit: Callable[[Sequence[Example]], Callable[[np.ndarray], np.ndarray]]
) -> np.ndarray:
    """What a fit to the other groups says of each example, `[n]`.

    Args:
      examples: measured networks.
      fit: from examples to a function from features `[n, F]` to values `[n]`.

    Raises:
      StudyError: a single group, or as for `fit`.
    """
    groups = list(dict.fromkeys(example.group for example in examples))
    if len(groups) < 2:
        raise StudyError(f"all examples are of {', '.join(groups)}: expected at least 2 groups")
    values = np.zeros(len(examples))
    for group in groups:
        fitted = fit([example for example in examples if example.group not in (group, MODELS)])
        places = [place for place, example in enumerate(examples) if example.group == group]
        values[places] = fitted(np.stack([examples[place].features for place in places]))
    return values


def stored(score: Score, ghns: Iterable[GHN] = ()) -> dict[str, Any]:
    """What `ghn_jax.prediction.forecast` reads, as JSON takes it; of these hypernetworks also what they have seen."""
    trees = score.accuracy
    seen = {ghn.fingerprint: [list(map(_short, one)) for one in references(ghn)] for ghn in ghns}
    return {
        "accuracy": {
            "bias": round(trees.bias, 6),
            "feature": trees.feature.tolist(),
            "threshold": np.round(trees.threshold, 6).tolist(),
            "value": np.round(trees.value, 6).tolist(),
        },
        "helps": list(score.helps),
        "typical": score.typical.tolist(),
        "references": seen,
    }


def _short(value: np.float32) -> float:
    """The number of fewest digits that is the same as float32."""
    return float(str(np.float32(value)))


class Curve(NamedTuple):
    """Area under the ROC curve with the ends of its 95% bootstrap interval, and the number of both kinds."""

    area: float
    low: float
    high: float
    positive: int
    negative: int

    def __str__(self) -> str:
        of = f"{self.positive} against {self.negative}"
        return f"{self.area:.2f} ({self.low:.2f} to {self.high:.2f}; {of})"


def area_under_curve(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    draws: int = 2000,
    names: Sequence[str] | None = None,
) -> Curve:
    """How well scores tell networks apart: 1/2 is by chance, 1 is always.

    Args:
      scores: of examples.
      labels: which of them are positive.
      draws: of the bootstrap.
      names: of the networks that examples are of, which are drawn with all of theirs; None for one example a network.

    Raises:
      StudyError: all labels are the same.
    """
    values, positive = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if positive.all() or not positive.any():
        raise StudyError(f"{positive.sum()} of {len(positive)} are positive: expected some of both")

    def area(chosen: np.ndarray) -> float:
        ours, others = values[chosen[positive[chosen]]], values[chosen[~positive[chosen]]]
        if not len(ours) or not len(others):
            return float("nan")
        above = (ours[:, None] > others[None]).mean()
        return float(above + 0.5 * (ours[:, None] == others[None]).mean())

    _, network = np.unique(np.arange(len(values)) if names is None else names, return_inverse=True)
    places = [np.flatnonzero(network == one) for one in range(network.max() + 1)]
    rng = np.random.default_rng(0)
    drawn = [
        area(np.concatenate([places[one] for one in rng.integers(0, len(places), len(places))])) for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Curve(area(np.arange(len(values))), float(low), float(high), int(positive.sum()), int((~positive).sum()))


def table(examples: Sequence[Example], accuracy: np.ndarray) -> str:
    """Errors of forecasts by group, and over all, as Markdown.

    Args:
      examples: measured networks.
      accuracy: relative accuracy that was forecast of each, `[n]`, by a fit to the other groups.
    """

    def curve(chosen: Sequence[int], labels: Sequence[bool | None]) -> str:
        known = [place for place in chosen if labels[place] is not None]
        positive = sum(bool(labels[place]) for place in known)
        if not 0 < positive < len(known):
            return f"- ({positive} against {len(known) - positive})"
        names = [examples[place].name for place in known]
        return str(area_under_curve(accuracy[known], [bool(labels[place]) for place in known], 500, names))

    half = [None if example.accuracy is None else example.accuracy >= HALF for example in examples]
    helps = [example.helps for example in examples]
    header = [
        "held out",
        "networks",
        "measured",
        "forecast",
        "root mean square error",
        "AUC, at least half",
        "AUC, helps",
    ]
    lines = [header, ["---"] * len(header)]
    for group in [*dict.fromkeys(example.group for example in examples), "all"]:
        chosen = [place for place, example in enumerate(examples) if group in (example.group, "all")]
        measured = [place for place in chosen if examples[place].accuracy is not None]
        known = np.array([examples[place].accuracy for place in measured], np.float64)
        error = np.sqrt(np.mean(np.square(known - accuracy[measured])))
        cells = [f"{known.mean():.2f}", f"{accuracy[measured].mean():.2f}", f"{error:.2f}"]
        lines.append([group, str(len(chosen)), *cells, curve(chosen, half), curve(chosen, helps)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
