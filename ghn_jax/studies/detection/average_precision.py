"""Average precision of detections, by COCO's own tools.

Source: Lin et al., Microsoft COCO, ECCV 2014, and https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.errors import extra


class Found(NamedTuple):
    """What was found on one picture: boxes `[n, 4]` in its pixels, and their scores `[n]`."""

    boxes: np.ndarray
    scores: np.ndarray


class AveragePrecision(NamedTuple):
    """Areas under curves of precision over recall, 0..1.

    Attributes:
      mean: over the ten overlaps 0.5, 0.55, ..., 0.95 at which a box counts as found.
      at_50: at an overlap of 0.5.
      at_75: at an overlap of 0.75.
    """

    mean: float
    at_50: float
    at_75: float


def average_precision(objects: Sequence[np.ndarray], found: Sequence[Found]) -> AveragePrecision:
    """How good detections are.

    Args:
      objects: boxes `[n, 4]` of every picture; there is at least one.
      found: what was found on every picture, in the same order.

    Raises:
      MissingExtraError: there is no pycocotools.
    """
    with extra("detection"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    truth: Any = COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(len(objects))],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {**_annotation(number, box), "id": place, "area": float(np.prod(box[2:] - box[:2])), "iscrowd": 0}
            for place, (number, box) in enumerate(
                ((number, box) for number, boxes in enumerate(objects) for box in np.asarray(boxes)), start=1
            )
        ],
    }
    results = [
        {**_annotation(number, box), "score": float(score)}
        for number, one in enumerate(found)
        for box, score in zip(one.boxes, one.scores, strict=True)
    ]
    if not results:  # which COCO's tools do not take
        return AveragePrecision(0.0, 0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return AveragePrecision(*map(float, evaluation.stats[:3]))


def _annotation(number: int, box: np.ndarray) -> dict:
    left, top, right, bottom = map(float, box)
    return {"image_id": number, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
