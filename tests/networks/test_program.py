"""Lowering: names, shapes, liveness, and the errors for networks that cannot be."""

import dataclasses

import pytest

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.graphs.graph import NODE_TYPES, GraphError, Role, shortest_paths
from ghn_jax.networks import primitives as ops
from ghn_jax.networks.architecture import (
    CIFAR10,
    DARTS,
    IMAGENET,
    VIT,
    Architecture,
    ArchitectureError,
    Genotype,
    ResNet,
    Task,
    from_json,
    named,
    to_json,
)
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import INPUT
from ghn_jax.networks.program_graph import build_graph, graph_of

PLAIN = Genotype(
    normal=(("conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)


def test_published_parameter_counts():
    # torchvision's ResNet-50 has 25,557,032 parameters with its 7x7 stem and 1000 classes.
    assert lower(ResNet(), IMAGENET).num_params == 25_557_032
    # A 3x3 stem (64 * 3 * 9 instead of 64 * 3 * 49) and 10 classes instead of 1000.
    assert lower(ResNet(), CIFAR10).num_params == 25_557_032 - 64 * 3 * 40 - 990 * 2049


def test_vit_by_hand():
    program = lower(named("vit"), CIFAR10)
    layer = 128 * 384 + 128 * 128 + 128 + 2 * (128 * 128 + 128) + 4 * 128
    # Cells 4 and 8 only pool.
    assert program.num_params == 3 * 3 * 3 * 128 + 11 * 11 * 128 + 10 * layer + 128 * 10 + 10
    assert [type(i.primitive).__name__ for i in program.instructions[:4]] == [
        "Conv", "PositionalEncoding", "LayerNorm", "Linear",
    ]  # fmt: skip


def test_small_network_instruction_by_instruction():
    architecture = Architecture(PLAIN, n_cells=1, C=8, preproc=False, C_mult=1, norm=None)
    program = lower(architecture, CIFAR10)
    names = [type(i.primitive).__name__ for i in program.instructions]
    assert names == ["Conv", "Conv", "Add", "GlobalAvgPool", "Linear"]
    assert [i.inputs for i in program.instructions] == [(INPUT,), (1,), (2, 1), (3,), (4,)]
    assert [i.shape for i in program.instructions] == [(32, 32, 8)] * 3 + [(8,), (10,)]
    assert [(t.name, t.shape) for t in program.tensors] == [
        ("stem.0.weight", (3, 3, 3, 8)),
        ("cells.0._ops.0.op.1.weight", (3, 3, 8, 8)),
        ("classifier.0.weight", (8, 10)),
        ("classifier.0.bias", (10,)),
    ]
    assert program.multiply_adds == 32 * 32 * 8 * 27 + 32 * 32 * 8 * 72 + 80
    graph = graph_of(program)
    assert [NODE_TYPES[t] for t in graph.node_types] == ["input", "conv", "conv", "sum", "glob_avg", "conv", "bias"]
    # input -> stem -> conv -> sum, and stem -> sum beside it
    assert graph.distances[0].tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert graph.distances[1].tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert graph.node_shapes[2].tolist() == [8, 8, 3, 3]


def test_layers_behind_none_edges_are_unused():
    genotype = Genotype(
        normal=(("none", 0), ("conv_1x1", 1), ("none", 1), ("sep_conv_3x3", 0)),
        normal_concat=(2,),
        reduce=(("none", 0), ("max_pool_3x3", 1), ("skip_connect", 1), ("none", 0)),
        reduce_concat=(2,),
    )
    program = lower(Architecture(genotype, n_cells=4, C=16), CIFAR10)
    live = {t.name for t in program.tensors}
    unused = {t.name for t in program.unused}
    assert not live & unused
    assert "cells.0._ops.1.op.1.weight" in live
    assert "cells.0._ops.3.op.1.weight" in unused
    assert "cells.0.preprocess0.op.1.weight" in unused
    assert program.num_params_with_unused == program.num_params + sum(t.size for t in program.unused)
    for register, instruction in enumerate(program.instructions, start=1):
        assert all(source is None or source < register for source in instruction.inputs)
    used = {source for instruction in program.instructions for source in instruction.inputs}
    assert used == set(range(len(program.instructions))), "every register but the last is read"


def test_disconnected_network():
    genotype = dataclasses.replace(PLAIN, normal=(("none", 0), ("none", 1)))
    with pytest.raises(ArchitectureError, match="disconnected"):
        lower(Architecture(genotype, n_cells=1, preproc=False, C_mult=1), CIFAR10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal": (("conv_9x9", 0), ("skip_connect", 1))}, "unknown primitive 'conv_9x9'"),
        ({"normal": (("conv_3x3", 2), ("skip_connect", 1))}, "reads state 2"),
        ({"normal": (("conv_3x3", -1), ("skip_connect", 1))}, "reads state -1"),
        ({"normal": (("conv_3x3", 0),)}, "two edges per step"),
        ({"normal_concat": (5,)}, "normal_concat"),
        ({"normal_concat": ()}, "normal_concat"),
    ],
)
def test_bad_genotypes(change, message):
    with pytest.raises(ArchitectureError, match=message):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"genotype": VIT, "C": 36, "preproc": False, "C_mult": 1}, "C=36.*multiple of 8"),
        ({"genotype": DARTS, "C": 33}, "C=33.*even"),
        ({"genotype": DARTS, "stem_type": 2}, "stem_type=2"),
        ({"genotype": DARTS, "preproc": False}, "preproc=False"),
        ({"genotype": DARTS, "n_cells": 0}, "n_cells=0"),
        ({"genotype": DARTS, "norm": "gn"}, "norm='gn'"),
        ({"genotype": DARTS, "stem_type": 1, "stem_pool": True}, "stem_pool=True"),
    ],
)
def test_bad_architectures(fields, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture(**{"n_cells": 3, **fields})


def test_bad_json():
    with pytest.raises(ArchitectureError, match="no field 'kernels'"):
        from_json({"genotype": dataclasses.asdict(DARTS), "n_cells": 2, "kernels": 3})
    with pytest.raises(ArchitectureError, match="needs the field 'n_cells'"):
        from_json({"genotype": dataclasses.asdict(DARTS)})
    with pytest.raises(ArchitectureError, match="kind of architecture 'rnn'"):
        from_json({"kind": "rnn"})
    with pytest.raises(ArchitectureError, match="called 'alexnet'"):
        named("alexnet")


def test_images_too_small_or_of_the_wrong_size():
    with pytest.raises(ArchitectureError, match="positional encodings"):
        lower(named("vit"), Task(image_size=48))
    with pytest.raises(ArchitectureError, match="too small"):
        lower(Architecture(DARTS, n_cells=3, C=16, stem_type=1), Task(image_size=1))


@pytest.mark.parametrize("index", range(20))
def test_json_round_trip(index):
    architecture = sample_architecture("train", index)
    assert from_json(to_json(architecture)) == architecture
    assert hash(from_json(to_json(architecture))) == hash(architecture)
    assert from_json(to_json(named("resnet50"))) == named("resnet50")


def test_every_tensor_has_a_node_of_its_shape():
    for index in range(30):
        graph = build_graph(sample_architecture("train", index))
        for tensor in graph.tensors:
            assert tuple(graph.node_shapes[tensor.node])[0] == tensor.shape4[0]
            if tensor.role not in (Role.BIAS, Role.CLASS_BIAS, Role.NORM_WEIGHT):
                assert tuple(graph.node_shapes[tensor.node]) == tensor.shape4
        assert graph.num_params == sum(tensor.size for tensor in graph.tensors)
        types = [NODE_TYPES[t] for t in graph.node_types]
        assert types[0] == "input" and types[-2:] == ["conv", "bias"]
        assert (graph.distances[0, 1:] > 0).sum() == len(types) - 1 - types.count("pos_enc")
        assert (graph.distances[:-1, -1] > 0).all()


def test_shortest_paths():
    #  0 -> 1 -> 2 -> 4 and 0 -> 3 -> 4
    distances = shortest_paths([(0, 1), (1, 2), (2, 4), (0, 3), (3, 4)], 5, cutoff=50)
    assert distances.tolist() == [
        [0, 1, 2, 1, 2],
        [0, 0, 1, 0, 2],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert shortest_paths([(0, 1), (1, 2)], 3, cutoff=1)[0].tolist() == [0, 1, 0]
    with pytest.raises(GraphError, match="cycle"):
        shortest_paths([(0, 1), (1, 0)], 2, cutoff=50)


def test_conv_counts_multiply_adds():
    conv = ops.Conv(8, 16, (3, 3), (2, 2), (1, 1))
    assert conv.output_shape([(9, 9, 8)]) == (5, 5, 16)
    assert conv.multiply_adds((5, 5, 16)) == 5 * 5 * 16 * 8 * 9
