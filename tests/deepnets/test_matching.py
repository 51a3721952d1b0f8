"""Finding the nodes of a graph in a list of nodes that is sorted by cell."""

import numpy as np
import pytest

from ghn_jax.deepnets.files.matching import MismatchError, NodeRow, match_nodes, refine
from ghn_jax.graphs.graph import shortest_paths

LABELS = ["input", "a cells.0", "a cells.1", "b cells.0", "b cells.1", "sum", "c cells.1"]
EDGES = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6)]
# The order of the stored distances: cells take turns, so the list of nodes, sorted by cell, has another one.
PLACES = [0, 1, 2, 4, 3, 5, 6]


def distances() -> np.ndarray:
    return shortest_paths(EDGES, len(LABELS), cutoff=250)


def stored() -> tuple[list[NodeRow], np.ndarray]:
    rows = [
        NodeRow(0, "input", False),
        NodeRow(0, "a cells.0", True),
        NodeRow(0, "b cells.0", True),
        NodeRow(0, "sum", False),
        NodeRow(1, "a cells.1", True),
        NodeRow(1, "b cells.1", True),
        NodeRow(1, "c cells.1", True),
    ]
    return rows, distances()[np.ix_(PLACES, PLACES)]


def test_both_orders_are_found():
    places, nodes = match_nodes(LABELS, distances(), *stored())
    assert places.tolist() == PLACES
    assert [LABELS[node] for node in nodes] == [row.label for row in stored()[0]]
    # The sum follows a node of cell 0 there, so it is listed under that cell.
    assert nodes.tolist() == [0, 1, 3, 5, 2, 4, 6]


def test_a_node_listed_under_another_cell_is_found_out():
    rows, expected = stored()
    rows = [row for row in rows if row.label != "sum"] + [NodeRow(1, "sum", False)]
    with pytest.raises(MismatchError, match="no node of the list, in its order, fits the distances of node 5"):
        match_nodes(LABELS, distances(), rows, expected)


def test_twins_without_names_are_interchangeable():
    labels = ["input", "pool", "pool", "sum"]
    twins = shortest_paths([(0, 1), (0, 2), (1, 3), (2, 3)], 4, cutoff=250)
    places, _ = match_nodes(labels, twins, [NodeRow(0, label, False) for label in labels], twins)
    assert sorted(places.tolist()) == [0, 1, 2, 3]
    assert places[0] == 0 and places[3] == 3


@pytest.mark.parametrize("start, end", [(0, 6), (0, 1), (2, 5), (6, 0)])
def test_a_changed_distance_is_named(start, end):
    rows, expected = stored()
    expected[start, end] += 1
    with pytest.raises(MismatchError) as raised:
        match_nodes(LABELS, distances(), rows, expected)
    assert str(start) in str(raised.value) and str(end) in str(raised.value)


def test_a_label_that_does_not_exist_is_named():
    rows, expected = stored()
    rows[2] = NodeRow(0, "d cells.0", True)
    with pytest.raises(MismatchError, match="nodes 'd cells.0', expected 'b cells.0'"):
        match_nodes(LABELS, distances(), rows, expected)


def test_colours_do_not_depend_on_the_order():
    order = np.random.RandomState(0).permutation(len(LABELS))
    colours, permuted = refine(distances(), distances()[np.ix_(order, order)])
    np.testing.assert_array_equal(colours[order], permuted)
    # Two branches are alike up to their labels.
    assert colours[1] == colours[2] and colours[3] == colours[4]
    assert len(set(colours.tolist())) == 5
