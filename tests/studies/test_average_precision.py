"""COCO's average precision, of detections that are known to be right or wrong."""

import numpy as np
import pytest

from ghn_jax.studies.detection.average_precision import Found, average_precision

pytest.importorskip("pycocotools", reason="comes with the extra 'detection'")

OBJECTS = [np.array([[0, 0, 40, 40], [50, 50, 90, 90]], np.float32), np.array([[10, 10, 60, 60]], np.float32)]


def test_perfect_boxes():
    found = [Found(boxes, np.full(len(boxes), 0.9)) for boxes in OBJECTS]
    np.testing.assert_allclose(average_precision(OBJECTS, found), (1, 1, 1))


def test_nothing_found():
    assert average_precision(OBJECTS, [Found(np.zeros((0, 4)), np.zeros(0))] * 2) == (0, 0, 0)


def test_a_mixture():
    """Of three objects one is found exactly, one at an overlap of 0.6, one not; a wrong box stands between.

    By score: right, wrong, right up to 0.6.  Up to there, precision is 1 up to a recall of 1/3 (34 of COCO's 101
    points) and 2/3 up to 2/3 (33 more); above, 1 up to 1/3.
    """
    loose = np.array([50, 50, 90, 74], np.float32)  # 0.6 of the second object
    wrong = np.array([60, 0, 99, 40], np.float32)
    found = [
        Found(np.stack([OBJECTS[0][0], loose]), np.array([0.9, 0.5])),
        Found(wrong[None], np.array([0.7])),
    ]
    mean, at_50, at_75 = average_precision(OBJECTS, found)
    below, above = (34 + 33 * 2 / 3) / 101, 34 / 101
    assert at_50 == pytest.approx(below) and at_75 == pytest.approx(above)
    assert below > above and mean == pytest.approx((3 * below + 7 * above) / 10, abs=0.025)
