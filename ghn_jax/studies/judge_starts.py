"""How often the choice of a start after a few batches is right, and what is lost against knowing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax import images
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.best_start import PREDICTED, RANDOM, best_start
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset
from ghn_jax.studies.train_networks import FROM_HE, FROM_PREDICTED, StudyError

_STORED = {PREDICTED: FROM_PREDICTED, RANDOM: FROM_HE}


class Judged(NamedTuple):
    """A network whose best start is known.

    Attributes:
      name: such as "test/7".
      chosen: the start that was chosen, "predicted" or "he".
      accuracy: after training, 0..1, by start.
    """

    name: str
    chosen: str
    accuracy: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether no other start is better."""
        return self.lost == 0

    @property
    def lost(self) -> float:
        """Accuracy below that of the better start."""
        return max(self.accuracy.values()) - self.accuracy[self.chosen]


def judge(
    rows: Iterable[Row], dataset: Dataset, ghn: GHN, num_batches: int = 8, batch_size: int = 32, seed: int = 0
) -> list[Judged]:
    """The choices of `best_start` between predicted and random parameters, for networks trained from both.

    Args:
      rows: from `train_networks.train`.
      dataset: what the networks were trained on.
      ghn: the hypernetwork.
      num_batches: that every start is tried on; the first ones of the training.
      batch_size: of these.
      seed: of the order of images.

    Raises:
      StudyError: no network was trained from both starts.
    """
    last: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        step = max(row["accuracy"], key=int, default="0")
        if step != "0":
            last.setdefault((row["split"], row["number"]), {})[row["start"]] = row["accuracy"][step]
    both = {key: accuracy for key, accuracy in last.items() if len(accuracy) == 2}
    if not both:
        raise StudyError("no network was trained from predicted and from He parameters: expected some")
    batches = [images.train_batch(dataset, batch_size, seed, step) for step in range(num_batches)]
    found = []
    for (split, number), accuracy in both.items():
        architecture = sample_architecture(split, number, dataset.task.large_images)
        start = best_start(architecture, batches, ghn=ghn, starts=list(_STORED), seed=number)
        found.append(Judged(f"{split}/{number}", _STORED[start.name], accuracy))
    return found


def table(found: Sequence[Judged]) -> str:
    """A line a split and one for all, as Markdown: how often right, accuracies and what is lost, in percent."""
    lines = [["", "networks", "right", "predicted", "He", "chosen", "below the better"]]
    lines.append(["---"] * len(lines[0]))
    splits = list(dict.fromkeys(one.name.partition("/")[0] for one in found))
    for split in [*splits, "all"]:
        mine = [one for one in found if split in (one.name.partition("/")[0], "all")]
        means = [np.mean([100 * one.accuracy[start] for one in mine]) for start in (FROM_PREDICTED, FROM_HE)]
        means += [np.mean([100 * one.accuracy[one.chosen] for one in mine]), np.mean([100 * one.lost for one in mine])]
        right = sum(one.right for one in mine)
        lines.append([split, str(len(mine)), str(right), *(f"{value:.1f}" for value in means)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
