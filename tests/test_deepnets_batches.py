"""Meta-batches: the budget, no overlap among processes, and positions that are restored exactly."""

import dataclasses
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn_jax.deepnets import batches
from ghn_jax.deepnets.batches import BatchError, MetaBatches
from ghn_jax.deepnets.sampler import train_architecture, train_index
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.network import make_network
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.meta_batches import meta_batches


def sizes(position):
    """A stream of positions that stand for networks; `nodes` gives their sizes."""
    return position


def nodes(position):
    return 20 + zlib.crc32(b"%d" % position) % 400


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@settings(deadline=None)
@given(
    num_shards=st.integers(1, 4),
    meta_batch=st.integers(1, 6),
    max_nodes=st.integers(1200, 2200),
    saved=st.integers(0, 7),
)
def test_shards_do_not_overlap_and_positions_are_exact(num_shards, meta_batch, max_nodes, saved):
    seen = set()
    for shard in range(num_shards):
        arguments = (sizes, nodes, meta_batch, max_nodes, shard, num_shards)
        whole = take(MetaBatches(*arguments), 10)
        first = MetaBatches(*arguments)
        assert take(first, saved) == whole[:saved]
        second = MetaBatches(*arguments)
        second.restore(json.loads(json.dumps(first.state())))
        assert take(second, 10 - saved) == whole[saved:]
        positions = [position for batch in whole for position in batch]
        assert len(set(positions)) == len(positions) == 10 * meta_batch
        assert not seen & set(positions)
        seen |= set(positions)
        assert all(sum(map(nodes, batch)) <= max_nodes for batch in whole)


def test_only_what_is_over_the_budget_is_skipped():
    found = take(MetaBatches(sizes, nodes, 3, 800), 20)
    every = [tuple(range(first, first + 3)) for first in range(0, found[-1][-1] + 1, 3)]
    assert found == [batch for batch in every if sum(map(nodes, batch)) <= 800]
    assert len(found) < len(every)


def test_networks_that_are_passed_over():
    assert take(MetaBatches(lambda p: p if p % 3 else None, nodes, 2), 3) == [(1, 2), (4, 5), (7, 8)]


def test_the_batches_of_training():
    """The same as those that training draws, for the real stream."""
    config = TrainConfig(meta_batch=8, seed=3, fixed_width=32)  # with several widths training groups by width

    def make(position):
        architecture = dataclasses.replace(train_architecture(3, position), C=32)
        return make_network(train_index(3, position), architecture, CIFAR10)

    mine = take(MetaBatches(make, lambda target: target.graph.num_nodes, 8), 4)
    theirs = (drawn.targets for drawn in meta_batches(config, CIFAR10))
    for batch in mine:
        assert [target.architecture for target in batch] == [target.architecture for target in next(theirs)]
        assert sum(target.graph.num_nodes for target in batch) <= 2200


def test_a_failure_loses_no_network():
    failures = iter([RuntimeError("once")])

    def make(position):
        if position == 4:
            for failure in failures:
                raise failure
        return position

    iterator = MetaBatches(make, nodes, 3)
    assert next(iterator) == (0, 1, 2)
    with pytest.raises(RuntimeError, match="once"):
        next(iterator)
    assert next(iterator) == (3, 4, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": 0}, "the saved position has shard=0, this run 1"),
        ({"num_shards": 3}, "has num_shards=3, this run 2"),
        ({"meta_batch": 5}, "has meta_batch=5, this run 4"),
        ({"max_nodes": 5}, "has max_nodes=5, this run 2200"),
        ({"next": 6}, "next=6 is not one of shard 1"),
        ({"extra": 6}, "a saved position has"),
    ],
)
def test_positions_of_other_runs(change, message):
    iterator = MetaBatches(sizes, nodes, 4, shard=1, num_shards=2)
    with pytest.raises(BatchError, match=message):
        iterator.restore({**iterator.state(), **change})
    assert next(iterator) == (1, 3, 5, 7)


def test_nothing_fits(monkeypatch):
    monkeypatch.setattr(batches, "PATIENCE", 20)
    with pytest.raises(BatchError, match="meta_batch=4: 20 meta-batches in a row have more than 70 nodes"):
        next(MetaBatches(sizes, nodes, 4, 70))
    with pytest.raises(BatchError, match="20 networks in a row, up to position 20, were passed over"):
        next(MetaBatches(lambda position: None, nodes, 4))
    with pytest.raises(BatchError, match="shard=2 of num_shards=2"):
        MetaBatches(sizes, nodes, 4, shard=2, num_shards=2)
    with pytest.raises(BatchError, match="meta_batch=0"):
        MetaBatches(sizes, nodes, 0)
