"""Layouts keep nodes apart and lead from left to right; pictures are complete."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.collections import PathCollection

import ghn_jax
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.graphs.drawing import STYLES, node_text, visualize
from ghn_jax.graphs.graph import NODE_TYPES, Graph, GraphError
from ghn_jax.graphs.layered_layout import _WAYPOINT_SEPARATION, _Chart, _layers, isotonic, layered_layout
from ghn_jax.networks.architecture import NAMED_ARCHITECTURES, named
from ghn_jax.networks.program_graph import build_graph


@st.composite
def dags(draw):
    """A number of nodes and edges from lower to higher ones."""
    count = draw(st.integers(1, 14))
    pairs = [(start, end) for start in range(count) for end in range(start + 1, count)]
    return count, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=25)) if pairs else []


def check_layout(edges, count):
    layout = layered_layout(edges, count)
    assert len(layout.layers) == len(layout.heights) == count
    assert np.isfinite(layout.heights).all()
    places = {}
    for node, (layer, height) in enumerate(zip(layout.layers.tolist(), layout.heights.tolist(), strict=True)):
        places.setdefault(layer, []).append((height, True, node))
    for (start, end), route in zip(edges, layout.routes, strict=True):
        assert route[0] == (layout.layers[start], layout.heights[start])
        assert route[-1] == (layout.layers[end], layout.heights[end])
        assert [layer for layer, _ in route] == list(range(layout.layers[start], layout.layers[end] + 1))
        for layer, height in route[1:-1]:
            places[layer].append((height, False, start))
    for points in places.values():
        ordered = sorted(set(points))
        for (low, node_below, _), (high, node_above, _) in zip(ordered[:-1], ordered[1:], strict=True):
            sizes = [1.0 if node else _WAYPOINT_SEPARATION for node in (node_below, node_above)]
            assert high - low >= sum(sizes) / 2 - 0.06  # heights are rounded to a grid
    return layout


@settings(deadline=None, max_examples=40)
@given(dags())
def test_layouts_of_any_graph(dag):
    count, edges = dag
    check_layout(edges, count)


@pytest.mark.parametrize("graph", ["resnet50", "vit", 0, 1, 2, 3])
def test_layouts_of_networks(graph):
    architecture = named(graph) if isinstance(graph, str) else sample_architecture("train", graph)
    graph = build_graph(architecture)
    check_layout(np.argwhere(graph.distances == 1).tolist(), graph.num_nodes)


def test_a_layout_by_hand():
    """A chain 0-1-2-3 with a shortcut from 0 to 3, and a source 4 that feeds 3."""
    layout = check_layout([(0, 1), (1, 2), (2, 3), (0, 3), (4, 3)], 5)
    assert layout.layers.tolist() == [0, 1, 2, 3, 2]
    assert layout.heights[1] == layout.heights[2]  # chains are straight
    assert layout.routes[3][1][1] != layout.heights[1]


def test_orders_have_few_crossings():
    """Two chains whose nodes come in crossed order."""
    edges = [(0, 1), (0, 2), (1, 4), (2, 3), (3, 5), (4, 5)]
    chart = _Chart(edges, _layers(edges, 6))
    assert chart.crossings() == 1
    chart.order()
    assert chart.crossings() == 0


def test_isotonic_regression():
    values, weights = np.array([1.0, 3.0, 2.0, 2.0, 5.0, 4.0]), np.array([1.0, 1.0, 1.0, 1.0, 1.0, 3.0])
    np.testing.assert_allclose(isotonic(values, weights), [1, 7 / 3, 7 / 3, 7 / 3, 4.25, 4.25])


def test_every_node_type_has_a_style():
    assert set(STYLES) == set(NODE_TYPES)
    assert len({style for style in STYLES.values()}) == len(NODE_TYPES)


@pytest.mark.parametrize("labels", [False, True])
def test_a_picture_of_resnet50(tmp_path, labels):
    graph = build_graph(named("resnet50"))
    path = tmp_path / "resnet50.png"
    figure = ghn_jax.visualize(graph, path, labels=labels, title="ResNet-50")
    (axes,) = figure.axes
    width, height = figure.get_size_inches()
    pixels = image.imread(path)
    np.testing.assert_allclose(pixels.shape[:2], (150 * height, 150 * width), atol=1)
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "conv (17)" in entries and "conv 1×1 (37)" in entries and "bn (53)" in entries and "sum (16)" in entries
    texts = [text.get_text() for text in axes.texts]
    assert "layer4.2" in texts and "ResNet-50" in texts
    assert texts.count("bn") == (53 if labels else 0)
    if not labels:
        marked = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection) and c.get_zorder() == 3]
        places = np.unique(np.round(np.concatenate(marked), 6), axis=0)
        assert len(places) == graph.num_nodes
        assert (places > (0, -height)).all() and (places < (width, 0)).all()


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"vit.{suffix}"
    visualize(build_graph(named("vit")), path, legend=False)
    assert path.read_bytes()[:5] in (b"%PDF-", b"<?xml")


def test_notebooks_show_it():
    png = visualize(build_graph(named("vit")))._repr_png_()
    assert png.startswith(b"\x89PNG") and len(png) > 10_000


def test_small_graphs():
    nothing = Graph(np.zeros(0, np.int32), np.zeros((0, 4), np.int32), np.zeros((0, 0), np.int32), ())
    with pytest.raises(GraphError, match="without nodes"):
        visualize(nothing)
    one = Graph(np.array([9]), np.zeros((1, 4), np.int32), np.zeros((1, 1), np.int32), ())
    assert visualize(one, labels=True).axes[0].texts[0].get_text() == "input"


def test_texts_of_nodes():
    graph = build_graph(sample_architecture("train", 0))
    texts = {node_text(graph, node) for node in range(graph.num_nodes)}
    assert texts >= {"input", "conv 7×7", "conv 1×1", "conv 1×7", "sep 3×3", "dil 3×3", "avg 3×3", "bn", "glob avg"}


def test_named_architectures_can_be_drawn():
    assert set(NAMED_ARCHITECTURES) == {"darts", "pdarts", "vit", "resnet50"}
