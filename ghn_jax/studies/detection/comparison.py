"""Detectors from predicted and from random parameters of their backbone, beside each other.

The heads are random in both cases, and the whole detector is trained in the same way.

Source: paper, section 5.3 and appendix (Penn-Fudan).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ghn_jax.checks.fields import ByName, Real
from ghn_jax.errors import extra
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.network import Network
from ghn_jax.studies import few_shot
from ghn_jax.studies.detection.detector import DetectorConfig
from ghn_jax.studies.detection.pictures import Picture
from ghn_jax.studies.detection.training import DetectionProtocol, DetectorTrainer
from ghn_jax.studies.train_networks import StudyError

BACKBONE_STARTS = tuple(start for start in few_shot.FEW_SHOT_STARTS if start != "body")
"""Of the backbone, which has no class layers: predicted parameters; random ones; predicted ones with noise; with noise
and orthogonal weights."""

PAPERS_DETECTOR, PAPERS_PROTOCOL = DetectorConfig(), DetectionProtocol()


def measure(
    ghn: GHN,
    networks: Mapping[str, Network],
    pictures: Sequence[Picture],
    path: Path,
    *,
    config: DetectorConfig = PAPERS_DETECTOR,
    protocol: DetectionProtocol = PAPERS_PROTOCOL,
    seeds: Sequence[int] = (0, 1, 2),
    starts: Collection[str] = ("predicted", "he"),
    measure_at: Collection[int] | None = None,
    name: str = "",
    checkpoint: str = "",
    finished: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Average precision on test pictures; trainings that a file does not have yet are added to it.

    Args:
      ghn: predicts the parameters of backbones.
      networks: backbones by name.
      pictures: with their boxes.
      path: a file with a JSON line for every training.
      config: how detectors are built.
      protocol: how they are trained.
      seeds: of the permutation of pictures, of random parameters and of the boxes that are learned from.
      starts: some of `BACKBONE_STARTS`.
      measure_at: numbers of epochs after which detectors are tested, None for all.
      name: of the pictures, which rows are stored with.
      checkpoint: of the hypernetwork, likewise.
      finished: called after every training.

    Returns:
      A row for every training: what it was, average precision and mean losses by number of epochs.

    Raises:
      StudyError: another start or epoch than there is, or too few pictures, or pictures too small for a network.
      MissingExtraError: there is no pycocotools, which is found out before any training.
    """
    with extra("detection"):
        import pycocotools.cocoeval  # noqa: F401
    measure_at = set(range(1, protocol.epochs + 1)) if measure_at is None else set(measure_at)
    if not measure_at <= set(range(1, protocol.epochs + 1)) or not measure_at:
        raise StudyError(f"measure_at={sorted(measure_at)}: expected numbers of epochs from 1 to {protocol.epochs}")
    for start in starts:
        if start not in BACKBONE_STARTS:
            raise StudyError(f"start={start!r}: expected one of {', '.join(BACKBONE_STARTS)}")
    about: Row = {"pictures": name, "num_pictures": len(pictures), "checkpoint": checkpoint}
    about |= json_lines.as_stored(dataclasses.asdict(config) | dataclasses.asdict(protocol))
    stored = [
        row
        for row in json_lines.resume(path, average_precision=ByName(ByName(Real(-1, 1)), numbered=True))
        if all(str(epoch) in row["average_precision"] for epoch in measure_at)
    ]
    rows = []
    for title, network in networks.items():
        trainer: DetectorTrainer | None = None
        for seed in seeds:
            for start in starts:
                key = about | {"architecture": title, "start": start, "seed": seed} | few_shot.weights_of(start, ghn)
                row = next((row for row in stored if json_lines.is_of(row, key)), None)
                if row is None:
                    trainer = trainer or DetectorTrainer(network.program, pictures, config, protocol)
                    row = key | _train(trainer, few_shot.start_of(network, start, ghn, seed), seed, measure_at)
                    json_lines.append(path, row)
                rows.append(row)
                finished()
    return rows


def _train(trainer: DetectorTrainer, start: Mapping[str, Any], seed: int, measure_at: Collection[int]) -> Row:
    """What is measured of one training."""
    found: Row = {"average_precision": {}, "losses": {}}
    losses = []
    for epoch, params in enumerate(trainer.train(start, seed, losses.append), start=1):
        mean = jax.tree.map(lambda *values: round(float(np.mean(values)), 4), *losses)
        found["losses"][str(epoch)] = mean._asdict()
        losses.clear()
        if epoch in measure_at:
            measured = trainer.measure(params, seed)
            found["average_precision"][str(epoch)] = {key: round(value, 4) for key, value in measured._asdict().items()}
    return found


def table(rows: Iterable[Row]) -> str:
    """Mean and standard error over seeds of average precision in percent, after every epoch measured, as Markdown.

    At an overlap of 0.5, and in brackets COCO's mean over ten overlaps.
    """
    cells, epochs = collections.defaultdict(list), {}
    for row in rows:
        for epoch, values in row["average_precision"].items():
            cells[row["architecture"], row["start"], epoch].append((values["at_50"], values["mean"]))
            epochs[epoch] = None
    titles = ["backbone", "start", *(f"epoch {epoch}" for epoch in epochs)]
    lines = [titles, ["---"] * len(titles)]
    for network, start in dict.fromkeys((network, start) for network, start, _ in cells):
        line = [network, start]
        for epoch in epochs:
            at_50, mean = (100 * np.array(values) for values in zip(*cells[network, start, epoch], strict=True))
            line.append(f"{_shown(at_50)} ({_shown(mean)})")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _shown(values: np.ndarray) -> str:
    found = summary(list(values))
    return f"{found['mean']:.1f}" + (f" +- {found['standard_error']:.1f}" if len(values) > 1 else "")
