import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.rows import (
    Placement,
    Requests,
    Sizes,
    Table,
    kernel_positions,
    pad_requests,
    request,
    rows_of,
)
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor

CONFIG = HypernetConfig(max_shape=(64, 64, 11, 11), num_classes=10)


def graph_of(*tensors: Tensor) -> Graph:
    nodes = 1 + max(tensor.node for tensor in tensors)
    return Graph(np.zeros(nodes, np.int32), np.zeros((nodes, 4), np.int32), np.zeros((nodes, nodes), np.int32), tensors)


SMALL = graph_of(
    Tensor("conv", 1, Role.WEIGHT, (1, 2, 8, 8)),
    Tensor("norm.weight", 2, Role.NORM_WEIGHT, (8,)),
    Tensor("norm.bias", 2, Role.BIAS, (8,)),
    Tensor("depthwise", 3, Role.DEPTHWISE_WEIGHT, (2, 1, 1, 8)),
    Tensor("bias", 4, Role.BIAS, (8,)),
    Tensor("linear", 5, Role.WEIGHT, (8, 4)),
    Tensor("class.weight", 6, Role.CLASS_WEIGHT, (4, 10)),
    Tensor("class.bias", 7, Role.CLASS_BIAS, (10,)),
)


def test_rows_of_a_meta_batch():
    requests, placements = request([SMALL, SMALL], 64, CONFIG)
    assert requests.dense_node.tolist() == [1, 1, 5, 65, 65, 69]
    assert requests.dense_position.tolist() == [0, 1, 0, 0, 1, 0]
    assert requests.depthwise_node.tolist() == [3, 3, 67, 67]
    assert requests.depthwise_position.tolist() == [0, 11, 0, 11]
    assert requests.vector_node.tolist() == [2, 4, 66, 68]
    assert requests.class_weight_node.tolist() == [6, 70]
    assert requests.class_bias_node.tolist() == [7, 71]
    assert all(rows.dtype == np.int32 for rows in requests)
    assert placements[0] == (
        Placement(Table.DENSE, 0, 2),
        Placement(Table.VECTOR, 0, 1),
        Placement(Table.VECTOR, 0, 1),
        Placement(Table.DEPTHWISE, 0, 2),
        Placement(Table.VECTOR, 1, 1),
        Placement(Table.DENSE, 2, 1),
        Placement(Table.CLASS_WEIGHT, 0, 1),
        Placement(Table.CLASS_BIAS, 0, 1),
    )
    starts = [place.start for place in placements[1]]
    assert starts == [3, 2, 2, 2, 3, 5, 1, 1]
    assert rows_of(requests) == Sizes(6, 4, 4, 2)


def test_several_class_layers_or_none():
    heads = graph_of(*(Tensor(f"head{node}", node, Role.CLASS_WEIGHT, (4, 10)) for node in range(3)))
    requests, (placements,) = request([heads], 64, CONFIG)
    assert requests.class_weight_node.tolist() == [0, 1, 2]
    assert [place.start for place in placements] == [0, 1, 2]
    assert len(requests.class_bias_node) == 0


def test_positions_run_over_the_kernel_and_begin_again_beyond_the_largest():
    assert kernel_positions(2, 3, 11).tolist() == [0, 1, 2, 11, 12, 13]
    positions = kernel_positions(5, 5, 3).reshape(5, 5)
    np.testing.assert_array_equal(positions[:3, :3], np.arange(9).reshape(3, 3))
    np.testing.assert_array_equal(positions, np.tile(np.arange(9).reshape(3, 3), (2, 2))[:5, :5])


def test_padding_asks_for_the_first_node():
    requests, _ = request([SMALL], 64, CONFIG)
    padded = pad_requests(requests, Sizes(8, 4, 3, 2))
    assert [len(rows) for rows in padded] == [8, 8, 4, 4, 3, 2, 2]
    for rows, original in zip(padded, requests, strict=True):
        assert rows[: len(original)].tolist() == original.tolist()
        assert not rows[len(original) :].any()
    with pytest.raises(GraphError, match="3 rows of dense_node do not fit into 2"):
        pad_requests(requests, Sizes(2, 4, 3, 2))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor("w", 0, Role.WEIGHT, (3, 4, 5)), r"'w' of role weight has shape \(3, 4, 5\): expected 2 or 4"),
        (Tensor("w", 0, Role.WEIGHT, (0, 4)), "expected 2 or 4 positive sizes"),
        (Tensor("w", 0, Role.BIAS, (4, 4)), "'w' of role bias"),
        (Tensor("w", 0, Role.DEPTHWISE_WEIGHT, (3, 3, 2, 8)), r"\(3, 3, 2, 8\): expected \[kh, kw, 1, channels\]"),
        (Tensor("w", 0, Role.POSITION, (2, 11, 11, 8)), r"expected \[1, h, w, channels\]"),
        (Tensor("w", 0, Role.CLASS_WEIGHT, (64, 100)), "'w' has 100 classes, but the hypernetwork predicts for 10"),
        (Tensor("w", 0, Role.CLASS_BIAS, (100,)), "'w' has 100 classes, but the hypernetwork predicts for 10"),
    ],
)
def test_tensors_that_cannot_be_predicted_are_named(tensor, message):
    with pytest.raises(GraphError, match=message):
        request([graph_of(tensor)], 64, CONFIG)


def test_nothing_requested():
    requests, placements = request([], 64, CONFIG)
    assert placements == () and requests == Requests(*requests)
    assert all(len(rows) == 0 for rows in requests)
