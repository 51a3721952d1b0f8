"""The distribution of architectures and their widths in training."""

import collections
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from reference import REFERENCE, load_json, needs_reference
from scipy import stats

from ghn_jax.deepnets import sampler
from ghn_jax.deepnets.files.reading import DeepNetsFile
from ghn_jax.deepnets.sampler import DRAWN_PRIMITIVES
from ghn_jax.deepnets.statistics import network_statistics, type_shares
from ghn_jax.graphs.graph import NODE_ID, NODE_TYPES
from ghn_jax.networks.architecture import Architecture, Genotype, Task, from_json, named, to_json
from ghn_jax.networks.lowering import count_params, lower
from ghn_jax.networks.program_graph import graph_of

LARGE_FORM = Task(num_classes=10, image_size=224, large_images=True)


@pytest.fixture(scope="module")
def train_sample():
    """300 train architectures and their programs."""
    return [sampler.sample_program("train", index) for index in range(300)]


def digest(architecture):
    return hashlib.sha256(json.dumps(to_json(architecture), sort_keys=True).encode()).hexdigest()[:16]


def test_a_golden_architecture():
    assert sampler.GENERATOR_VERSION == 2
    assert sampler.sample_architecture("train", 0) == Architecture(
        Genotype(
            normal=(
                ("none", 1), ("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("dil_conv_3x3", 2),
                ("conv_7x1_1x7", 2), ("cse", 1), ("avg_pool_3x3", 3), ("sep_conv_5x5", 1),
            ),
            normal_concat=(2, 3, 4, 5),
            reduce=(
                ("skip_connect", 1), ("max_pool_3x3", 0), ("avg_pool_3x3", 2), ("none", 0),
                ("skip_connect", 0), ("avg_pool_3x3", 1), ("max_pool_3x3", 4), ("avg_pool_3x3", 2),
            ),
            reduce_concat=(2, 3, 4, 5),
        ),
        n_cells=7,
        C=32,
        ks=7,
        stem_type=0,
        stem_pool=False,
        norm="bn",
        preproc=True,
        C_mult=2,
        fc_layers=2,
        fc_dim=256,
        glob_avg=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("split", "index", "expected"),
    [
        ("train", 1, "96fb17e3d5415540"),
        ("train", 999_999, "b577eb32bea3301c"),
        ("val", 0, "a7a5d687c3d52a84"),
        ("val", 499, "a39b810eb6475b8e"),
        ("test", 0, "c3e754550ad50b35"),
        ("deep", 0, "0ccf6b4c2a8d94ba"),
        ("dense", 0, "2c908376e9eb7823"),
        ("bnfree", 0, "f4c4599c0271b941"),
        ("search", 0, "5b09eb089354d214"),
    ],
)
def test_golden_digests(split, index, expected):
    assert digest(sampler.sample_architecture(split, index)) == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", "7da507af2cbb842f"),
        ("val", "d2f7e442b25040d5"),
        ("test", "f8256e66922e6539"),
        ("deep", "c80884137aed6940"),
        ("dense", "5089d7bbcdcc327f"),
        ("bnfree", "92da945681f4ec87"),
        ("search", "a72e40baf2550094"),
    ],
)
def test_golden_programs_and_graphs(split, expected):
    """Architectures, instructions, unused tensors and graphs of the first 25 networks of a split."""
    found = hashlib.sha256()
    for index in range(25):
        architecture, program = sampler.sample_program(split, index)
        graph = graph_of(program)
        instructions = [(repr(i.primitive), i.inputs, named_shapes(i.tensors), i.shape) for i in program.instructions]
        tensors = [
            (*of_tensor, tensor.node)
            for of_tensor, tensor in zip(named_shapes(graph.tensors), graph.tensors, strict=True)
        ]
        counts = program.num_params, program.num_params_with_unused, program.multiply_adds
        found.update(repr((digest(architecture), instructions, named_shapes(program.unused), counts, tensors)).encode())
        for array in (graph.node_types, graph.node_shapes, graph.distances):
            found.update(array.astype("<i4").tobytes())
    assert found.hexdigest()[:16] == expected


def named_shapes(tensors):
    return [(tensor.name, tensor.role.value, tensor.shape) for tensor in tensors]


def test_golden_training_stream():
    assert [sampler.train_index(7, position) for position in range(4)] == [979408, 921770, 995698, 237493]
    assert [digest(sampler.train_architecture(7, position)) for position in range(3)] == [
        "d22cbebec7b3b104",
        "619c25f6694ce9e3",
        "491debbd83934b58",
    ]


def test_order_does_not_matter():
    forward = [sampler.sample_architecture("val", index) for index in range(5)]
    backward = [sampler.sample_architecture("val", index) for index in reversed(range(5))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 5


def test_splits_do_not_share_draws_but_test_and_wide():
    assert sampler.sample_architecture("train", 3) != sampler.sample_architecture("val", 3)
    test = sampler.sample_architecture("test", 3)
    assert sampler.sample_architecture("wide", 3) == dataclasses.replace(test, C=128)
    assert sampler.sample_architecture("wide", 3, large_images=True) == dataclasses.replace(test, C=64)
    assert sampler.sample_architecture("test", 3, large_images=True) == test


@pytest.mark.parametrize(
    ("split", "index", "message"),
    [("valid", 0, "no split is called 'valid'"), ("val", 500, "index 500: .* 0 to 499"), ("val", -1, "index -1")],
)
def test_errors_name_the_value(split, index, message):
    with pytest.raises(ValueError, match=message):
        sampler.sample_architecture(split, index)


def test_the_predefined_split():
    assert [sampler.sample_architecture("predefined", index) for index in range(2)] == [named("resnet50"), named("vit")]
    assert [sampler.split_size(split) for split in sampler.ALL_SPLITS] == [
        1_000_000, 500, 500, 100, 100, 100, 100, 100_000, 2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="index 2: split 'predefined' has architectures 0 to 1"):
        sampler.sample_architecture("predefined", 2)


def test_rules_of_cells(train_sample):
    for architecture, _ in train_sample:
        genotype = architecture.genotype
        names = [name for name, _ in genotype.edges]
        convolutions = any("conv" in name for name in names)
        assert convolutions or ("msa" in names and "cse" not in names)
        steps = len(genotype.normal) // 2
        assert len(genotype.reduce) // 2 == steps and 1 <= steps <= 4
        assert steps > 1 or "none" not in names
        for edges in (genotype.normal, genotype.reduce):
            cell = collections.Counter(name for name, _ in edges)
            assert cell["cse"] <= 1
            assert cell["conv_5x5"] + cell["conv_7x7"] <= 1
            for step in range(steps):
                assert edges[2 * step][1] != edges[2 * step + 1][1]
        assert genotype.normal_concat == genotype.reduce_concat
        assert genotype.normal_concat[-1] == 1 + steps
        assert min(genotype.normal_concat) >= 2


def test_rules_of_arguments(train_sample):
    for architecture, program in train_sample:
        steps = len(architecture.genotype.normal) // 2
        cells = architecture.n_cells
        assert 4 <= cells <= 18
        assert steps <= 2 or cells <= 10
        assert architecture.norm == "bn" or (cells <= 5 and steps <= 2)
        assert architecture.glob_avg or not (architecture.has_attention or cells > 10)
        assert architecture.preproc or (steps == 1 and architecture.C_mult == 1 and architecture.has_attention)
        assert not (architecture.stem_pool and architecture.stem_type)
        assert (architecture.C, architecture.fc_dim) == (32, 256)
        assert program == lower(architecture, Task())


def test_every_choice_occurs(train_sample):
    """With 300 draws the rarest of these choices is missing once in thousands of samples."""
    architectures = [architecture for architecture, _ in train_sample]
    seen = {
        field: {getattr(architecture, field) for architecture in architectures}
        for field in ("n_cells", "ks", "stem_type", "stem_pool", "norm", "preproc", "C_mult", "fc_layers", "glob_avg")
    }
    assert seen == {
        "n_cells": set(range(4, 19)),
        "ks": {3, 5, 7},
        "stem_type": {0, 1},
        "stem_pool": {False, True},
        "norm": {"bn", None},
        "preproc": {False, True},
        "C_mult": {1, 2},
        "fc_layers": {1, 2},
        "glob_avg": {False, True},
    }
    assert {name for a in architectures for name, _ in a.genotype.edges} == set(DRAWN_PRIMITIVES)
    assert {len(a.genotype.normal) // 2 for a in architectures} == {1, 2, 3, 4}
    pooled = [all(name in sampler.POOL_PRIMITIVES for name, _ in a.genotype.reduce) for a in architectures]
    assert 0.4 < np.mean(pooled) < 0.65


def test_both_forms_have_at_most_ten_million_parameters(train_sample):
    """The large form is lowered here for every network, also where the sampler sees that it need not."""
    for architecture, program in train_sample[:100]:
        large = lower(architecture, LARGE_FORM).num_params_with_unused
        assert max(program.num_params_with_unused, large) <= 10**7
        if architecture.glob_avg:
            assert large - program.num_params_with_unused <= 26_112


@pytest.mark.parametrize("limit", [10**5, 10**6])
def test_the_limit_is_enforced(limit, monkeypatch):
    rules = dataclasses.replace(sampler.SPLITS["train"], max_params=limit)
    monkeypatch.setitem(sampler.SPLITS, "train", rules)
    for index in range(10):
        architecture, program = sampler.sample_program("train", index)
        assert program.num_params_with_unused <= limit
        assert lower(architecture, LARGE_FORM).num_params_with_unused <= limit


@pytest.mark.parametrize(
    ("split", "cells", "threshold", "steps", "deep_steps"),
    [("deep", (10, 36), 18, (1, 4), 2), ("dense", (4, 18), 10, (2, 10), 6), ("search", (6, 20), 10, (1, 6), 3)],
)
def test_rules_of_larger_splits(split, cells, threshold, steps, deep_steps):
    for index in range(15):
        architecture = sampler.sample_architecture(split, index)
        drawn = len(architecture.genotype.normal) // 2
        assert cells[0] <= architecture.n_cells <= cells[1]
        assert steps[0] <= drawn <= (steps[1] if architecture.n_cells <= threshold else deep_steps)
        assert split != "search" or architecture.norm == "bn"


def test_bnfree_networks_have_no_norm():
    assert {sampler.sample_architecture("bnfree", index).norm for index in range(10)} == {None}


def scored_edges(rng, steps, allowed):
    """Edges as the paper draws them: normal scores, a softmax over primitives, the best two edges of a step."""
    columns = [DRAWN_PRIMITIVES.index(name) for name in allowed]
    edges = []
    for step in range(steps):
        scores = np.exp(rng.normal(scale=1e-3, size=(2 + step, len(DRAWN_PRIMITIVES))))
        scores /= scores.sum(axis=1, keepdims=True)
        scores = scores[:, columns]
        for state in np.argsort(-scores.max(axis=1))[:2]:
            edges.append((allowed[int(scores[state].argmax())], int(state)))
    return tuple(edges)


@pytest.mark.parametrize("allowed", [DRAWN_PRIMITIVES[1:], DRAWN_PRIMITIVES[:4]])
def test_edges_are_distributed_as_by_scores(allowed):
    """Compares the last step of two: its ordered states (6 cases) and two of the primitives (4 cases)."""
    rng = np.random.RandomState(0)
    draws = sampler._Draws(0, 0, 0)

    def table(edges_of_cells):
        cases = collections.Counter()
        for cell in edges_of_cells:
            (first, state), (second, other) = cell[2:]
            cases[state, other, first == allowed[0], second == allowed[-1]] += 1
        return cases

    paper = table(scored_edges(rng, 2, allowed) for _ in range(6000))
    ours = table(sampler._draw_edges(draws, 2, allowed) for _ in range(6000))
    cases = sorted(paper | ours)
    assert len(cases) == 24
    result = stats.chi2_contingency([[paper[case] for case in cases], [ours[case] for case in cases]])
    assert result.pvalue > 0.01


def test_draws_are_uniform():
    draws = sampler._Draws(1, 2, 3)
    counts = np.bincount([draws.below(7) for _ in range(7000)], minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 0.01
    assert {draws.between(3, 5) for _ in range(100)} == {3, 4, 5}


@needs_reference
def test_same_distribution_as_the_original(train_sample):
    """Two-sample tests against 60 architectures of the original generator."""
    entries = load_json("deepnets1m_eval_meta.json")["val"]["nets"]

    def figures(architecture, num_nodes, num_params):
        genotype = architecture.genotype
        names = [name for name, _ in genotype.edges]
        return {
            "nodes": num_nodes,
            "parameters": num_params,
            "cells": architecture.n_cells,
            "steps": len(genotype.normal) // 2,
            "states in concat": len(genotype.normal_concat),
            "kinds of primitives": len(set(names)),
            "'none' edges": names.count("none"),
            "msa": "msa" in names,
            "cse": "cse" in names,
            "stem type": architecture.stem_type,
            "stem pool": architecture.stem_pool,
            "fc layers": architecture.fc_layers,
            "C_mult": architecture.C_mult,
            "kernel of the stem": architecture.ks,
        }

    theirs = [figures(from_json(e), e["num_nodes"], e["num_params"]["cifar10"]) for e in entries]
    ours = [figures(a, graph_of(p).num_nodes, p.num_params_with_unused) for a, p in train_sample[:200]]
    pvalues = {
        name: stats.ks_2samp([float(f[name]) for f in theirs], [float(f[name]) for f in ours]).pvalue
        for name in theirs[0]
    }
    assert len(theirs) == 60
    assert min(pvalues.values()) > 0.01, pvalues


@needs_reference
def test_same_nodes_as_the_original(train_sample):
    """Two-sample tests of the share of every type of node, and of networks with msa, cse and without norm."""
    theirs = []
    with DeepNetsFile(REFERENCE / "deepnets1m_eval.hdf5") as file:
        for index in range(len(file["val"])):
            graph = file["val"].graph(index)
            theirs.append(network_statistics(file["val"].architecture(index), graph, graph.num_params))
    ours = [network_statistics(a, graph_of(p), p.num_params_with_unused) for a, p in train_sample]
    pvalues = {
        name: stats.ks_2samp(type_shares(theirs)[:, i], type_shares(ours)[:, i]).pvalue
        for i, name in enumerate(NODE_TYPES)
    }
    for field in ("degree", "path"):
        pvalues[field] = stats.ks_2samp(*([getattr(s, field) for s in group] for group in (theirs, ours))).pvalue
    traits = {
        "msa": lambda s: s.types[NODE_ID["msa"]] > 0,
        "cse": lambda s: s.types[NODE_ID["cse"]] > 0,
        "no norm": lambda s: not s.norm,
    }
    for name, trait in traits.items():
        counts = [[sum(map(trait, group)), sum(not trait(s) for s in group)] for group in (theirs, ours)]
        pvalues[name] = stats.fisher_exact(counts).pvalue
    assert min(pvalues.values()) > 0.01, pvalues


def test_means_of_the_original(train_sample):
    """Over 400 architectures of the original: 186 nodes (sd 106), 1.03M parameters (sd 1.31M), msa and cse nodes."""
    graphs = [graph_of(program) for _, program in train_sample]
    samples = {
        (186, 106): [graph.num_nodes for graph in graphs],
        (1.03, 1.31): [program.num_params_with_unused / 1e6 for _, program in train_sample],
        (947 / 400, None): [(graph.node_types == NODE_ID["msa"]).sum() for graph in graphs],
        (646 / 400, None): [(graph.node_types == NODE_ID["cse"]).sum() for graph in graphs],
    }
    for (mean, deviation), sample in samples.items():
        spread = np.std(sample)
        error = np.hypot(spread / np.sqrt(len(sample)), (deviation or spread) / np.sqrt(400))
        assert abs(np.mean(sample) - mean) < 2.6 * error, (mean, np.mean(sample), error)


def network(primitive="sep_conv_3x3", **arguments):
    """A network with one step and that primitive once."""
    normal = ((primitive, 0), ("max_pool_3x3", 1))
    genotype = Genotype(normal, (2,), (("max_pool_3x3", 0), ("max_pool_3x3", 1)), (2,))
    return Architecture(genotype, **{"n_cells": 4, "C_mult": 1, **arguments})


@pytest.mark.parametrize(
    ("architecture", "num_params", "last"),
    [
        (network(), 200_000, 128),
        (network(), 200_001, 64),
        (network(), 400_000, 64),
        (network(), 400_001, 48),
        (network(), 800_000, 48),
        (network(), 800_001, 32),
        (network(n_cells=8), 1, 128),
        (network(n_cells=9), 1, 64),
        (network(n_cells=10), 1, 64),
        (network(n_cells=11), 1, 48),
        (network(n_cells=12), 1, 48),
        (network(n_cells=13), 1, 32),
        (network(glob_avg=False), 1, 32),
        (network("conv_5x5"), 1, 32),
        (network("conv_7x7"), 1, 32),
        (network("conv_3x3"), 1, 128),
    ],
)
def test_candidates_for_the_width(architecture, num_params, last):
    assert sampler.width_candidates(architecture, num_params) == tuple(range(32, last + 1, 16))


@pytest.mark.parametrize(
    ("architecture", "num_params", "last"),
    [
        (network(), 2_000_001, 32),
        (network(), 2_000_000, 80),
        (network(), 400_001, 80),
        (network(), 400_000, 96),
        (network(), 200_000, 128),
        (network(n_cells=9), 1, 96),
        (network(n_cells=14), 1, 80),
        (network(n_cells=15), 1, 32),
        (network(glob_avg=False), 1, 32),
        (network("conv_5x5"), 1, 32),
    ],
)
def test_candidates_for_the_width_of_ghn3(architecture, num_params, last):
    """Thresholds and ranges of its published loader."""
    assert sampler.width_candidates(architecture, num_params, sampler.WIDER) == tuple(range(32, last + 1, 16))


def test_wider_networks_are_the_same_but_for_their_widths():
    pairs = [
        [sampler.train_architecture(3, i, rules=r) for i in range(40)] for r in (sampler.PAPER_WIDTHS, sampler.WIDER)
    ]
    for paper, wider in zip(*pairs, strict=True):
        assert dataclasses.replace(wider, C=paper.C, fc_dim=paper.fc_dim) == paper
    assert sum(a.C for a in pairs[1]) > 1.1 * sum(a.C for a in pairs[0])
    large = {sampler.train_architecture(3, i, large_images=True, rules=sampler.WIDER) for i in range(40)}
    assert large == set(pairs[1])  # of GHN-3, which counts parameters of the small form


def with_widths(architecture, position, large_images=False):
    plain = dataclasses.replace(architecture, C=32, fc_dim=256)
    num_params = count_params(plain, sampler.LARGE_FORM if large_images else sampler.SMALL_FORM)
    return sampler.draw_widths(architecture, num_params, 0, position)


@pytest.mark.parametrize(("cells", "widths"), [(9, (32, 48, 64)), (13, (32,))])
def test_widths_of_larger_networks(cells, widths):
    """Uniform over the candidates, and the fully connected layer from 64 to 256."""
    drawn = [with_widths(network(n_cells=cells), position) for position in range(300)]
    counts = collections.Counter((a.C, a.fc_dim) for a in drawn)
    assert set(counts) == {(width, fc) for width in widths for fc in (64, 128, 192, 256)}
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    assert {dataclasses.replace(a, C=32, fc_dim=256) for a in drawn} == {network(n_cells=cells)}


def test_widths_of_small_networks():
    """All seven widths; heads up to 512 with at most 64 channels and up to 256 with more."""
    drawn = [with_widths(network(), position) for position in range(1400)]
    counts = collections.Counter((a.C, a.fc_dim) for a in drawn)
    expected = {(width, fc): 1400 / 7 / 8 for width in (32, 48, 64) for fc in range(64, 513, 64)}
    expected |= {(width, fc): 1400 / 7 / 4 for width in (80, 96, 112, 128) for fc in range(64, 257, 64)}
    assert set(counts) == set(expected)
    assert stats.chisquare([counts[case] for case in expected], list(expected.values())).pvalue > 0.01


def test_widths_depend_on_the_form_of_the_network():
    """Architecture 60 has 206,314 parameters in its small form and 195,242 in its large form."""
    architecture = sampler.sample_architecture("train", 60)
    small = {with_widths(architecture, position).C for position in range(60)}
    large = {with_widths(architecture, position, large_images=True).C for position in range(60)}
    assert small == {32, 48, 64}
    assert large == set(sampler.WIDTHS)


def test_given_widths_do_not_matter():
    wide = network("conv_3x3", n_cells=8, C_mult=2, C=128, fc_dim=64)
    assert {with_widths(wide, position).C for position in range(60)} == {32, 48}


def test_training_stream_is_a_pure_function_of_seed_and_position():
    late = sampler.train_architecture(seed=0, position=123_456)
    assert late == sampler.train_architecture(seed=0, position=123_456)
    index = sampler.train_index(seed=0, position=123_456)
    drawn = with_widths(sampler.sample_architecture("train", index), 123_456)
    assert late == drawn
    assert sampler.train_index(seed=1, position=123_456) != index


def test_training_stream_is_uniform_over_the_split():
    indices = np.array([sampler.train_index(0, position) for position in range(4000)])
    assert 0 <= indices.min() and indices.max() < 1_000_000
    counts, _ = np.histogram(indices, bins=20, range=(0, 1_000_000))
    assert stats.chisquare(counts).pvalue > 0.01


def test_large_images_change_only_the_widths():
    small = sampler.train_architecture(5, 6)
    large = sampler.train_architecture(5, 6, large_images=True)
    assert dataclasses.replace(large, C=small.C, fc_dim=small.fc_dim) == small
