"""Parameters seen through layout operations: a place writes exactly the elements that the value consists of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn_jax.graphs.tree import Leaf, Place, whole
from ghn_jax.tracing.layout import REPEATED, View


@st.composite
def views(draw):
    """A view of a random parameter and the same value of an array of the parameter's own element numbers."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    view, array = View.of(0, shape), np.arange(np.prod(shape)).reshape(shape)
    for _ in range(draw(st.integers(0, 6))):
        operation = draw(st.sampled_from(["transpose", "reshape", "slice", "broadcast", "squeeze"]))
        if operation == "transpose":
            order = draw(st.permutations(range(array.ndim)))
            view, array = view.transpose(order), array.transpose(order)
        elif operation == "reshape":
            sizes, rest = [], array.size
            while rest > 1:
                sizes.append(draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0])))
                rest //= sizes[-1]
            view, array = view.reshape(sizes), array.reshape(sizes)
        elif operation == "slice" and array.ndim:
            axis = draw(st.integers(0, array.ndim - 1))
            start = draw(st.integers(0, array.shape[axis] - 1))
            stop = draw(st.integers(start + 1, array.shape[axis]))
            view, array = view.slice(axis, start, stop), array.take(range(start, stop), axis)
        elif operation == "broadcast" and array.size < 500:
            position, size = draw(st.integers(0, array.ndim)), draw(st.sampled_from([1, 2, 3]))
            dimensions = [axis + (axis >= position) for axis in range(array.ndim)]
            new = (*array.shape[:position], size, *array.shape[position:])
            view, array = view.broadcast(new, dimensions), np.broadcast_to(np.expand_dims(array, position), new)
        elif operation == "squeeze":
            single = [axis for axis, size in enumerate(array.shape) if size == 1]
            view, array = view.squeeze(single), array.squeeze(tuple(single))
        assert view.shape == array.shape
    return view, array


@settings(max_examples=400, deadline=None, derandomize=True)
@given(views())
def test_a_place_is_where_the_values_are(case):
    view, array = case
    elements = np.unique(array)
    if view.axes is None:
        assert view.known().shape == view.picked.shape
        return
    assert view.size == len(elements)
    groups = [[atom for atom in axis if atom.axis != REPEATED] for axis in view.axes]
    place = view.place(groups)
    assert place is not None
    # Broadcast axes are not part of the tensor: look at their first element.
    first = array[tuple(slice(None) if any(a.axis != REPEATED for a in axis) else 0 for axis in view.axes)]
    mixed = any(any(a.axis == REPEATED for a in axis) and any(a.axis != REPEATED for a in axis) for axis in view.axes)
    leaf = np.arange(np.prod(view.leaf_shape)).reshape(view.leaf_shape)
    if not mixed:
        np.testing.assert_array_equal(place.view(leaf).reshape(first.shape), first)
    assert set(place.view(leaf).reshape(-1).tolist()) == set(elements.tolist())
    rows = view.rows()
    assert np.prod([n if part is None else len(part) for part, n in zip(rows, view.leaf_shape, strict=True)]) == len(
        elements
    )
    selected = leaf[np.ix_(*(sorted(part or range(n)) for part, n in zip(rows, view.leaf_shape, strict=True)))]
    assert set(selected.reshape(-1).tolist()) == set(elements.tolist())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(views(), st.booleans())
def test_writing_through_a_place(case, through_buffer):
    view, _ = case
    if view.axes is None:
        return
    groups = [[atom for atom in axis if atom.axis != REPEATED] for axis in view.axes]
    place = view.place(groups)
    shape = tuple(int(np.prod([atom.count for atom in group])) for group in groups)
    values = np.random.default_rng(0).standard_normal(shape)
    leaf = np.full(view.leaf_shape, np.nan)
    buffer = place.buffer(leaf, shape)
    if through_buffer and buffer is not None:
        buffer[...] = values
    else:
        place.write(leaf, values)
    np.testing.assert_array_equal(place.view(leaf).reshape(shape), values)
    assert np.isfinite(leaf).sum() == values.size


def test_a_grid_is_cut():
    place = Place(0, (5, 2), ((0, 5), (0, 2)), (0, 1), cut=5)
    leaf, grid = np.zeros((5, 2)), np.arange(12.0).reshape(1, 2, 3, 2)
    assert place.buffer(leaf, grid.shape) is None
    place.write(leaf, grid)
    np.testing.assert_array_equal(leaf, np.arange(10.0).reshape(5, 2))


def test_by_hand():
    kernel = View.of(3, (4, 6))
    heads = kernel.reshape((4, 2, 3)).transpose((1, 0, 2))
    assert heads.shape == (2, 4, 3) and heads.varied == (0, 1, 2) and heads.size == 24
    second = heads.slice(0, 1, 2)
    assert second.rows() == (None, frozenset({3, 4, 5}))
    assert kernel.reshape((3, 8)).axes is None  # 3 does not divide 4
    bias = View.of(0, (6,)).broadcast((2, 5, 6), [2])
    assert bias.varied == (2,) and bias.size == 6
    layer = View.of(0, (3, 4, 6)).slice(0, 2, 3).squeeze([0])
    assert layer.picked.shape == (4, 6) and layer.rows() == (frozenset({2}), None, None)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_whole_leaf(shape):
    leaf = np.zeros(shape)
    place = whole(0, Leaf("w", shape, np.float32))
    place.write(leaf, np.ones(shape))
    assert (leaf == 1).all()
