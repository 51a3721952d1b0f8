"""Types, ranges and finiteness of fields, with values that JSON or a command line may bring."""

import dataclasses

import numpy as np
import pytest

import ghn_jax
from ghn_jax import GHNError, GraphError
from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Maybe, OneOf, Real, Several, Text, Whole
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.ghn.config import ConfigError
from ghn_jax.graphs import padding
from ghn_jax.networks.architecture import (
    DARTS,
    VIT,
    Architecture,
    ArchitectureError,
    Genotype,
    ResNet,
    Task,
    from_json,
    to_json,
)
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.training.config import TrainConfig, from_fields


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


GRAPH = build_graph(ghn_jax.ResNet(depths=(1,), width=8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ghn_jax.warm_up(graphs=GRAPH), "expected a list of graphs, got Graph"),
        (lambda: ghn_jax.named(["vit"]), "no architecture is called"),
        (lambda: ghn_jax.build_graph(ghn_jax.named("vit"), "cifar10"), "expected a Task, got str"),
        (lambda: ghn_jax.report(None), "expected a ghn_jax Graph, got NoneType"),
        (lambda: ghn_jax.visualize({}), "expected a ghn_jax Graph, got dict"),
        (lambda: ghn_jax.save({"a": np.ones(2)}, "a.npz", graph="graph"), "expected a ghn_jax Graph, got str"),
        (lambda: from_fields([]), "expected fields by name, got a list"),
        (lambda: from_fields({1: 2}), "no field 1"),
        (lambda: ghn_jax.load("/proc/self/mem"), "is damaged, or no file of weights"),
    ],
)
def test_other_types_at_public_entries(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GHNError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: None, "are a NoneType: expected a dictionary"),
        (lambda params: list(params.values()), "are a list: expected a dictionary"),
        (lambda params: params | {"fc.bias": "x"}, "'fc.bias' is a str: expected an array of floats"),
        (lambda params: params | {"fc.bias": np.zeros(10, complex)}, "'fc.bias' is a ndarray: expected"),
        (lambda params: params | {"fc.bias": np.zeros(10, int)}, "'fc.bias' is a ndarray: expected"),
        (lambda params: params | {"fc.bias": np.zeros(9, np.float32)}, r"'fc.bias' has shape \(9,\)"),
        (lambda params: params | {"fc.bias": np.full(10, np.inf, np.float32)}, "not finite"),
        (lambda params: params | {"more": np.zeros(10, np.float32)}, "more"),
        (
            lambda params: {name: values for name, values in params.items() if name != "fc.bias"},
            "'fc.bias' .* is missing",
        ),
    ],
)
def test_parameters_that_are_none(change, message):
    params = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in GRAPH.tensors}
    with pytest.raises(GHNError, match=message):
        ghn_jax.measure_accuracy(ghn_jax.ResNet(depths=(1,), width=8), change(params), "digits", num_images=8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.zeros((4, 32, 32, 3)), np.arange(4) + 7), "labels from 7 to 10: expected 0 to 9"),
        ((np.zeros((4, 32, 32, 3)), np.arange(4) - 1), "labels from -1 to 2"),
        ((np.zeros((4, 32, 32, 3)), np.arange(4) / 2), "labels of type float64"),
        ((np.zeros((4, 32, 32, 3)), np.arange(3)), r"shape \(3,\): expected an integer an image"),
        ((np.full((4, 32, 32, 3), np.nan), np.arange(4)), "images: expected finite numbers"),
        ((np.full((4, 32, 32, 3), "a"), np.arange(4)), "images: expected finite numbers"),
        ("ab", "a batch is a str: expected a pair"),
        ((np.zeros((4, 32, 32, 3)),), "a batch is a tuple: expected a pair"),
    ],
)
def test_batches_that_are_none(batch, message):
    with pytest.raises(GHNError, match=message):
        ghn_jax.best_start(ghn_jax.ResNet(depths=(1,), width=8), [batch] * 2, starts=["predicted"])


def test_texts_have_no_zeros_and_numbers_one_name():
    with pytest.raises(ConfigError, match="workdir='a.x00b': expected a text of at most .* none of them zero"):
        TrainConfig(workdir="a\0b")
    rule = fields.ByName(fields.Real(0, 1), numbered=True)
    assert rule.take({"0": 0.5, "100": 1}) == {"0": 0.5, "100": 1}
    for name in ("00", "0100", "+1", "²", "1" * 20, ""):
        with pytest.raises(ValueError):
            rule.take({name: 0.5})


def test_architectures_by_hand():
    edges = (("conv_3x3", 0), ("skip_connect", 1))
    odd = np.array(["a", "b"])
    for make in (
        lambda: Genotype(((odd, 0), ("none", 1)), (2,), edges, (2,)),
        lambda: from_json({"kind": odd}),
        lambda: ghn_jax.find_architecture(5),
        lambda: ghn_jax.find_architecture(b"7"),
    ):
        with pytest.raises(ArchitectureError):
            make()
    for index in ("0", True, 1.5, None, -1):
        with pytest.raises(GHNError, match="split 'val' has architectures 0 to 499"):
            sample_architecture("val", index)
    with pytest.raises(GHNError, match="no split is called"):
        sample_architecture(["val"], 0)
    cell = Genotype(edges, (2,), edges, (2,))
    wide = Architecture(cell, n_cells=3, C=1 << 14, C_mult=64, fc_dim=1 << 16, glob_avg=False)
    with pytest.raises(GraphError, match="a layer has 18,014,398,509,481,984 channels or inputs"):
        ghn_jax.build_graph(wide, Task(10, 1 << 16))
