"""Boxes, their suppression, matching and pooling, by examples that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.studies.detection.boxes import LARGEST_GROWTH, areas, clip, decode, encode, make_anchors, overlaps
from ghn_jax.studies.detection.matching import BACKGROUND, NEITHER, OBJECT, draw, match
from ghn_jax.studies.detection.roi_align import roi_align
from ghn_jax.studies.detection.suppression import suppress

RNG = np.random.default_rng(0)
SUPPRESS = jax.jit(suppress, static_argnums=(2, 3))
DRAW = jax.jit(draw, static_argnums=(2, 3))
MATCH = jax.jit(match, static_argnums=(3, 4, 5))


def random_boxes(count, size=100.0):
    low = RNG.uniform(0, size, (count, 2))
    return np.concatenate([low, low + RNG.uniform(1, size, (count, 2))], axis=1).astype(np.float32)


def test_overlaps():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [3, 3, 3, 9], [5, 5, 4, 4]], np.float32)
    np.testing.assert_array_equal(areas(boxes), [16, 16, 16, 0, 0])
    expected = np.zeros((5, 5))
    expected[[0, 1, 2], [0, 1, 2]] = 1
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = 4 / 28
    np.testing.assert_allclose(overlaps(boxes, boxes), expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_offsets_there_and_back(weights):
    boxes, references = random_boxes(50), random_boxes(50)
    np.testing.assert_allclose(decode(encode(boxes, references, weights), references, weights), boxes, atol=1e-2)


def test_offsets_by_hand():
    reference, box = np.array([0.0, 0, 10, 20]), np.array([5.0, 0, 25, 20])
    np.testing.assert_allclose(encode(box, reference), [1, 0, np.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(encode(box, reference, (10, 10, 5, 5)), [10, 0, 5 * np.log(2), 0], atol=1e-5)
    grown = decode(np.array([0.0, 0, 50, LARGEST_GROWTH]), reference)
    np.testing.assert_allclose(grown[2:] - grown[:2], [10 * 62.5, 20 * 62.5], rtol=1e-5)
    np.testing.assert_array_equal(clip(np.array([-3.0, 2, 50, 60]), np.array([40, 30])), [0, 2, 30, 40])


def test_anchors():
    anchors = make_anchors((2, 3), (32, 96), sizes=(8, 16), ratios=(0.25, 1))
    assert anchors.shape == (2 * 3 * 4, 4) and anchors.dtype == np.float32
    np.testing.assert_array_equal(areas(anchors[:4]), [64, 256, 64, 256])
    np.testing.assert_array_equal(anchors[:4], [[8, 6, 24, 10], [0, 4, 32, 12], [12, 4, 20, 12], [8, 0, 24, 16]])
    np.testing.assert_array_equal(anchors[4:8], anchors[:4] + [32, 0, 32, 0])
    np.testing.assert_array_equal(anchors[12:16], anchors[:4] + [0, 16, 0, 16])


def greedy(common, scores, threshold):
    """The rule as it is usually written."""
    kept = []
    for index in np.argsort(-scores):
        if scores[index] > -np.inf and all(common[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def test_suppression_of_a_chain():
    """The second one goes, so the third, which only the second one overlaps enough, stays."""
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [40, 40, 50, 50]], np.float32)
    indices, kept = SUPPRESS(boxes, np.array([0.9, 0.8, 0.7, -jnp.inf]), 0.4, 4)
    assert indices[kept].tolist() == [0, 2]
    indices, kept = SUPPRESS(boxes, np.array([0.9, 0.8, 0.7, 0.95]), 0.4, 2)
    assert indices.tolist() == [3, 0] and kept.all()
    indices, kept = SUPPRESS(boxes, np.array([0.9, 0.8, 0.7, 0.95]), 0.4, 6)
    assert indices[kept].tolist() == [3, 0, 2] and kept.tolist() == [True] * 3 + [False] * 3


def test_suppression_is_the_greedy_one():
    boxes = random_boxes(60)
    common = np.asarray(overlaps(boxes, boxes))
    assert (common > 0.3).sum() > 200
    for seed in range(3):
        scores = np.random.default_rng(seed).permutation(60).astype(np.float32)
        scores[scores < 5] = -np.inf
        indices, kept = map(np.asarray, SUPPRESS(boxes, scores, 0.3, 60))
        assert indices[kept].tolist() == greedy(common, scores, 0.3)


def test_matching():
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]], np.float32)
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 6], [0, 0, 10, 5], [28, 0, 38, 10], [50, 50, 60, 60]], np.float32)
    present = np.array([True, True, False])
    found = MATCH(boxes, objects, present, 0.55, 0.7, False)
    assert found.labels.tolist() == [OBJECT, NEITHER, BACKGROUND, BACKGROUND, BACKGROUND]
    assert found.objects.tolist()[:4] == [0, 0, 0, 1]
    found = MATCH(boxes, objects, present, 0.55, 0.7, True)
    assert found.labels.tolist() == [OBJECT, NEITHER, BACKGROUND, OBJECT, BACKGROUND]
    nothing = MATCH(boxes, objects, np.zeros(3, bool), 0.3, 0.7, True)
    assert nothing.labels.tolist() == [BACKGROUND] * 5


def test_as_many_objects_as_may_be_and_background_for_the_rest():
    labels = jnp.array([OBJECT] * 10 + [BACKGROUND] * 30 + [NEITHER] * 5)
    drawn = DRAW(labels, jax.random.key(0), 16, 0.25)
    assert drawn.there.all() and len(set(drawn.indices.tolist())) == 16
    assert sorted(labels[drawn.indices].tolist()) == [BACKGROUND] * 12 + [OBJECT] * 4
    other = DRAW(labels, jax.random.key(1), 16, 0.25)
    assert set(other.indices.tolist()) != set(drawn.indices.tolist())
    few = DRAW(labels[8:14], jax.random.key(0), 16, 0.25)
    assert sorted(few.indices[few.there].tolist()) == [0, 1, 2, 3, 4, 5]
    none = DRAW(jnp.full(20, NEITHER), jax.random.key(0), 16, 0.25)
    assert len(none.there) == 16 and not none.there.any()


def test_pooling_of_a_ramp_is_the_ramp():
    """Bilinear samples of a linear function are exact, and so are means of samples that lie evenly."""
    y, x = np.mgrid[:12, :16] + 0.5
    features = jnp.asarray(np.stack([2 * x + 3 * y, np.ones_like(x)], axis=-1), jnp.float32)
    boxes = np.array([[2, 1, 9, 8], [1.3, 2.2, 14.6, 11.1]], np.float32)
    pooled = roi_align(features, boxes, size=7, samples=2)
    assert pooled.shape == (2, 7, 7, 2)
    for box, mine in zip(boxes, pooled, strict=True):
        columns = box[0] + (np.arange(7) + 0.5) / 7 * (box[2] - box[0])
        rows = box[1] + (np.arange(7) + 0.5) / 7 * (box[3] - box[1])
        np.testing.assert_allclose(mine[..., 0], 2 * columns + 3 * rows[:, None], rtol=1e-5)
        np.testing.assert_allclose(mine[..., 1], 1, rtol=1e-5)


def test_pooling_at_the_edges():
    """The edge's value up to a cell beyond, nothing farther away."""
    features = jnp.arange(1.0, 5.0).reshape(1, 4, 1)
    pooled = roi_align(features, np.array([[-2.0, 0, 0, 1], [3.5, 0, 4.5, 1]]), size=2, samples=1)
    np.testing.assert_allclose(pooled[0, 0, :, 0], [0, 1])
    np.testing.assert_allclose(pooled[1, 0, :, 0], [4, 4])
