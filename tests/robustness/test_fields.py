"""Types, ranges and finiteness of fields, with values that JSON or a command line may bring."""

import dataclasses

import numpy as np
import pytest

from ghn_jax import GHNError, GraphError
from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Maybe, OneOf, Real, Several, Text, Whole
from ghn_jax.graphs import padding
from ghn_jax.networks.architecture import DARTS, VIT, Architecture, Genotype, ResNet, Task, from_json, to_json
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.training.config import TrainConfig


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Whole(1, 10), [1, 10, np.int64(3)], [0, 11, True, 2.0, "3", None, 10**5000, np.float32(3)]),
        (
            Real(0, 1, with_low=False),
            [1, 0.5, np.float32(0.5)],
            [0, 1.5, float("nan"), float("inf"), True, "0.5", 10**400],
        ),
        (Real(0, 1, with_high=False), [0, 0.5], [1, -1]),
        (Flag(), [True, False, np.True_], [1, 0, "no", None]),
        (Text(3), ["", "abc"], ["abcd", b"abc", None]),
        (OneOf(0, 1), [0, 1], [True, 0.0, "0", [0]]),
        (Maybe(Whole(1, 2)), [None, 1], [0, False]),
        (Several(Whole(1, 9), 1, 2), [[1], (1, 2)], [[], [1, 2, 3], "1", [0], {1}]),
    ],
)
def test_rules(rule, good, bad):
    for value in good:
        assert fields.taken(value, rule, GHNError, "x") == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(GHNError, match=r"^x=.*: expected ") as caught:
            fields.taken(value, rule, GHNError, "x")
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"n_cells": 100_000}, {"n_cells": 2.5}, {"n_cells": True}, {"C": 2**40}, {"fc_layers": 10**9},
        {"glob_avg": "no"},
        {"stem_pool": 1}, {"norm": 3}, {"preproc": None}, {"C_mult": float("nan")}, {"ks": 3.0}, {"genotype": 7},
    ],
)  # fmt: skip
def test_architectures(changes):
    with pytest.raises(GHNError, match=next(iter(changes))):
        from_json({**to_json(Architecture(DARTS, n_cells=3, C=8)), **changes})


def test_more_architectures():
    many = {"normal": [["conv_1x1", 0]] * 10**6}
    for make in (
        lambda: ResNet(depths=(10**9,)), lambda: ResNet(depths=(500, 500)), lambda: ResNet(width=2.5),
        lambda: ResNet(depths="34"), lambda: Task(num_classes=2.5), lambda: Task(large_images=1),
        lambda: dataclasses.replace(DARTS, **many), lambda: Architecture(DARTS, n_cells=256, C=8, fc_dim=0),
        lambda: Genotype(**{**dataclasses.asdict(DARTS), "normal": [["conv_1x1", 0.5], ["none", 1]]}),
        lambda: from_json([]), lambda: from_json({"kind": []}),
    ):  # fmt: skip
        with pytest.raises(GHNError):
            make()


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": float("inf")}, {"learning_rate": float("nan")}, {"val_networks": 100_000}, {"steps": 10**23},
        {"steps": 2.5}, {"seed": 2**31}, {"decay_at": (0.5, float("nan"))}, {"workdir": 3}, {"keep_checkpoints": True},
        {"max_minutes": float("inf")}, {"label_smoothing": "0"},
    ],
)  # fmt: skip
def test_training(changes):
    with pytest.raises(GHNError, match=f"config.{next(iter(changes))}=.*: expected"):
        TrainConfig(**changes)


def test_graphs():
    graph = build_graph(Architecture(VIT, n_cells=1, C=8, preproc=False, C_mult=1))
    padding.check_graph(graph)
    tensor = graph.tensors[0]
    huge = dataclasses.replace(tensor, shape=(2**30, 2**20))
    for changes in (
        {"distances": graph.distances * 0.5}, {"distances": graph.distances.astype(str)},
        {"node_types": graph.node_types + 0.7}, {"node_shapes": graph.node_shapes.astype(np.int64) + 2**31},
        {"node_types": graph.node_types.tolist()}, {"node_types": graph.node_types[:, None]},
        {"tensors": list(graph.tensors)}, {"tensors": (huge,)}, {"tensors": (1,)},
        {"tensors": (dataclasses.replace(tensor, shape=(8, -1)),)},
        {"tensors": (dataclasses.replace(tensor, node=0.5),)},
    ):  # fmt: skip
        with pytest.raises(GraphError):
            padding.check_graph(dataclasses.replace(graph, **changes))
