import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.rows import Placement, Rows, Table, decoded_kernel, kernel_positions, request
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
    assert requests[Table.DENSE].nodes.tolist() == [1, 1, 5, 65, 65, 69]
    assert requests[Table.DENSE].positions.tolist() == [0, 1, 0, 0, 1, 0]
    assert requests[Table.DEPTHWISE].nodes.tolist() == [3, 3, 67, 67]
    assert requests[Table.DEPTHWISE].positions.tolist() == [0, 11, 0, 11]
    assert requests[Table.VECTOR].nodes.tolist() == [2, 4, 66, 68]
    assert requests[Table.CLASS_WEIGHT].nodes.tolist() == [6, 70]
    assert requests[Table.CLASS_BIAS].nodes.tolist() == [7, 71]
    assert all(values.dtype == np.int32 for rows in requests.values() for values in rows)
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
    assert [len(requests[table].nodes) for table in Table] == [6, 4, 4, 2, 2]
    assert not any(requests[table].positions.any() for table in (Table.VECTOR, Table.CLASS_WEIGHT, Table.CLASS_BIAS))


def test_several_class_layers_or_none():
    heads = graph_of(*(Tensor(f"head{node}", node, Role.CLASS_WEIGHT, (4, 10)) for node in range(3)))
    requests, (placements,) = request([heads], 64, CONFIG)
    assert requests[Table.CLASS_WEIGHT].nodes.tolist() == [0, 1, 2]
    assert [place.start for place in placements] == [0, 1, 2]
    assert len(requests[Table.CLASS_BIAS].nodes) == 0


def test_positions_run_over_the_kernel_and_begin_again_beyond_the_largest():
    assert kernel_positions(2, 3, of_side(11)).tolist() == [0, 1, 2, 11, 12, 13]
    positions = kernel_positions(5, 5, of_side(3)).reshape(5, 5)
    np.testing.assert_array_equal(positions[:3, :3], np.arange(9).reshape(3, 3))
    np.testing.assert_array_equal(positions, np.tile(np.arange(9).reshape(3, 3), (2, 2))[:5, :5])


@pytest.mark.parametrize("side", [11, 16])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (1, 7), (10, 11), (11, 11)])
def test_centered_positions_are_around_the_middle(side, size):
    """As GHN-3's decoder cuts them out: from `side // 2 - size // 2` to `side // 2 + ceil(size / 2)`."""
    whole = np.arange(side * side).reshape(side, side)
    rows, columns = (slice(side // 2 - length // 2, side // 2 + -(-length // 2)) for length in size)
    expected = whole[rows, columns]
    assert expected.shape == size
    np.testing.assert_array_equal(kernel_positions(*size, of_side(side, "conv3")), expected.reshape(-1))


def test_centered_kernels_beyond_the_largest_are_decoded_whole():
    config = of_side(4, "conv3")
    np.testing.assert_array_equal(kernel_positions(9, 5, config), np.arange(16))
    np.testing.assert_array_equal(kernel_positions(9, 2, config), [1, 2, 5, 6, 9, 10, 13, 14])
    assert decoded_kernel(9, 2, config) == (4, 2) and decoded_kernel(9, 2, of_side(4)) == (9, 2)


def of_side(side, decoder="conv"):
    return HypernetConfig(max_shape=(4, 4, side, side), decoder=decoder)


def test_padding_asks_for_the_first_node():
    rows = Rows(np.array([3, 1], np.int32), np.array([5, 4], np.int32))
    padded = rows.padded(4)
    assert padded.nodes.tolist() == [3, 1, 0, 0] and padded.positions.tolist() == [5, 4, 0, 0]
    with pytest.raises(GraphError, match="2 rows do not fit into 1"):
        rows.padded(1)


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
    assert placements == () and all(len(values) == 0 for rows in requests.values() for values in rows)
