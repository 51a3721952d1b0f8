"""Splits share no structure: equal graphs have equal owners, and every network is in the split that owns it."""

import collections

import numpy as np
import pytest
from scipy import stats

from ghn_jax.deepnets import ownership, sampler
from ghn_jax.deepnets.files.matching import refine
from ghn_jax.graphs.graph import NODE_TYPES
from ghn_jax.networks.architecture import NAMED_ARCHITECTURES, VIT, Architecture, Genotype, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program_graph import graph_of

SAMPLED = {"train": 400, "search": 30, "val": 15, "test": 15, "deep": 8, "dense": 8, "bnfree": 15}


@pytest.fixture(scope="module")
def programs():
    """Networks of every split, by split."""
    return {
        split: [sampler.sample_program(split, index)[1] for index in range(count)] for split, count in SAMPLED.items()
    }


def inventory_of_graph(graph):
    """By the definition: types of nodes and sizes of kernels, as the graph has them."""
    kinds = [
        (NODE_TYPES[node], int(shape[2]), int(shape[3]))
        for node, shape in zip(graph.node_types, graph.node_shapes, strict=True)
        if NODE_TYPES[node] not in ("input", "sum", "concat")
    ]
    return tuple(sorted(collections.Counter(kinds).items()))


def test_inventories_are_those_of_the_graphs(programs):
    """So they are the same for isomorphic graphs."""
    checked = [program for group in programs.values() for program in group]
    assert len(checked) > 450
    for program in checked:
        assert ownership.inventory(program) == inventory_of_graph(graph_of(program))


def test_an_inventory_by_hand():
    reduce = (("avg_pool_3x3", 0), ("skip_connect", 1))
    genotype = Genotype((("sep_conv_5x5", 0), ("max_pool_3x3", 1)), (2,), reduce, (2,))
    program = lower(Architecture(genotype, n_cells=1, preproc=False, C_mult=1, ks=7, norm=None), Task())
    expected = {
        ("conv", 7, 7): 1,
        ("sep_conv", 5, 5): 2,
        ("conv", 1, 1): 3,
        ("bias", 1, 1): 1,
        ("max_pool", 3, 3): 1,
        ("glob_avg", 0, 0): 1,
    }
    assert dict(ownership.inventory(program)) == expected


def test_every_network_is_in_the_split_that_owns_it(programs):
    for split, group in programs.items():
        assert {ownership.owner(program) for program in group} == {split}


def test_no_structure_is_in_two_splits(programs):
    """Independently of inventories: by colour refinement of all shortest paths, and node types."""
    seen = {}
    for split, group in programs.items():
        for program in group:
            graph = graph_of(program)
            colours, _ = refine(graph.distances, graph.distances)
            structure = tuple(sorted(zip(colours.tolist(), graph.node_types.tolist(), strict=True)))
            assert seen.setdefault(structure, split) == split
    assert len(seen) > 450


def test_owners_do_not_depend_on_channels_classes_or_how_cells_are_written():
    architecture, program = sampler.sample_program("train", 5)
    owner = ownership.owner(program)
    assert owner == "train"
    wide = Architecture(**{**vars(architecture), "C": 128, "fc_dim": 512})
    assert ownership.owner(lower(wide, Task(num_classes=100))) == owner

    def swapped(edges):
        return tuple(edge for first in range(0, len(edges), 2) for edge in (edges[first + 1], edges[first]))

    genotype = architecture.genotype
    mirrored = Genotype(
        swapped(genotype.normal), genotype.normal_concat, swapped(genotype.reduce), genotype.reduce_concat
    )
    assert mirrored != genotype
    other = lower(Architecture(**{**vars(architecture), "genotype": mirrored}), Task())
    assert ownership.owner(other) == owner


def test_named_architectures_belong_to_no_split():
    for architecture in NAMED_ARCHITECTURES.values():
        assert ownership.owner(lower(architecture, Task())) == ownership.PREDEFINED_OWNER
    assert (
        ownership.owner(lower(Architecture(VIT, 12, C=64, preproc=False, C_mult=1), Task()))
        == ownership.PREDEFINED_OWNER
    )


def test_owners_come_in_their_shares():
    """Over draws that nothing is rejected from."""
    draws = sampler._Draws(0, 1, 2)
    counts = collections.Counter()
    while counts.total() < 1500:
        architecture = sampler._draw_architecture(draws, sampler.SPLITS["train"])
        if architecture is not None and "none" not in str(architecture.genotype):
            counts[ownership.owner(lower(architecture, Task()))] += 1
    shares = np.array(list(ownership.SHARES.values())) / 32
    assert shares.sum() == 1
    assert stats.chisquare([counts[name] for name in ownership.SHARES], 1500 * shares).pvalue > 0.01
