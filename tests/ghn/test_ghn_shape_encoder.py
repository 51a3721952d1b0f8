import jax
import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.shape_encoder import (
    ShapeEncoder,
    channel_table,
    channel_vocabulary,
    spatial_table,
    spatial_vocabulary,
)


def slow_row(size, vocabulary, merged):
    """Row of a size by the words of appendix B.1, one size at a time."""
    if size == 0:
        return len(vocabulary)
    size = merged.get(size, size)
    if size > vocabulary[-1]:
        return len(vocabulary) - 1
    best = vocabulary[0]
    for known in vocabulary:
        if abs(known - size) < abs(best - size):
            best = known
    return vocabulary.index(best)


@pytest.mark.parametrize(("classes", "length"), [(10, 391), (1000, 391), (5, 391), (64, 390)])
def test_channel_vocabulary(classes, length):
    vocabulary = channel_vocabulary(classes)
    assert len(vocabulary) == length
    assert {1, 3, classes, 8, 56, 64, 80, 4080, 4096, 4128, 8192} <= set(vocabulary)
    assert list(vocabulary) == sorted(vocabulary)


def test_spatial_vocabulary():
    assert spatial_vocabulary(11) == (1, 3, 5, 7, 9, 11, 14, 16)
    assert spatial_vocabulary(16) == (1, 3, 5, 7, 9, 11, 13, 14, 15, 16)


@pytest.mark.parametrize("classes", [5, 10, 1000])
def test_channel_lookup(classes):
    table, vocabulary = channel_table(classes), channel_vocabulary(classes)
    merged = {4: 8, 5: 8, 6: 8, 7: 8}
    for size in [*range(130), 999, 1000, 1001, 4088, 4090, 4111, 4112, 4113, 8191, 8192]:
        assert table[size] == slow_row(size, vocabulary, merged), size
    assert vocabulary[table[2]] == 1  # a tie
    assert vocabulary[table[72]] == 64  # a tie


def test_spatial_lookup():
    table, vocabulary = spatial_table(11), spatial_vocabulary(11)
    assert [vocabulary[row] for row in table[1:]] == [1, 3, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 14, 14, 14, 16]
    assert table[0] == len(vocabulary)


def test_four_embeddings_are_concatenated():
    config = HypernetConfig(hid=8)
    shapes = np.array([[[32, 3, 7, 5]], [[0, 0, 0, 0]], [[20000, 9, 17, 300]]], np.int32)
    encoder = ShapeEncoder(config)
    variables = encoder.init(jax.random.key(0), shapes)
    channels, spatial = (np.asarray(variables["params"][name]) for name in ("channels", "spatial"))
    result = np.asarray(encoder.apply(variables, shapes))
    vocabulary = channel_vocabulary(10)
    expected = [
        [channels[vocabulary.index(32)], channels[vocabulary.index(3)], spatial[3], spatial[2]],
        [channels[-1], channels[-1], spatial[-1], spatial[-1]],
        [channels[-2], channels[vocabulary.index(8)], spatial[-2], spatial[-2]],
    ]
    np.testing.assert_array_equal(result, np.array(expected).reshape(3, 1, 8))
