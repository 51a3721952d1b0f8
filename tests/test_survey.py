"""The operations and bounds that are known before a training run."""

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn_jax.architecture import CIFAR10, IMAGENET
from ghn_jax.deepnets.sampler import WIDTHS, train_architecture
from ghn_jax.machine.table import MachineError, signatures_of
from ghn_jax.program import lower
from ghn_jax.training import survey
from ghn_jax.training.bounds import Needs, needs_of
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.corners import operations
from ghn_jax.training.targets import make_target, meta_batches

LIMIT = 40_000_000
drawn_widths = functools.cache(functools.partial(operations, CIFAR10))
one_width = functools.cache(functools.partial(operations, CIFAR10, 32, LIMIT))


def test_every_operation_of_sampled_networks():
    """Of the first train networks, at the widths drawn for them and at one width."""
    seen = set()
    for position in range(1500):
        architecture = train_architecture(0, position)
        found = signatures_of(lower(architecture, CIFAR10))
        assert not found - set(drawn_widths()[architecture.C].signatures)
        narrow = lower(dataclasses.replace(architecture, C=32), CIFAR10)
        if narrow.multiply_adds <= LIMIT:
            assert not signatures_of(narrow) - set(one_width()[32].signatures)
            seen |= signatures_of(narrow)
    assert len(one_width()[32].signatures) < 1.4 * len(seen)
    assert set(drawn_widths()) == set(WIDTHS)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_every_operation_of_any_train_network(seed, position):
    architecture = train_architecture(seed, position)
    assert not signatures_of(lower(architecture, CIFAR10)) - set(drawn_widths()[architecture.C].signatures)


def test_every_operation_on_large_images():
    table = set(operations(IMAGENET, fixed_width=32)[32].signatures)
    for position in range(150):
        architecture = dataclasses.replace(train_architecture(1, position, large_images=True), C=32)
        assert not signatures_of(lower(architecture, IMAGENET)) - table


def test_limit_on_multiply_adds():
    """An edge that costs more than the limit is in no network of the run."""
    full, limited = set(operations(CIFAR10, 32)[32].signatures), set(one_width()[32].signatures)
    assert limited < full
    assert all(s.primitive.multiply_adds(s.output) <= LIMIT for s in limited)


@pytest.mark.parametrize("whole", [True, False])
def test_short_and_long_runs(whole, monkeypatch):
    """A short run is looked at from end to end; a longer one gets all operations, and bounds with a margin."""
    config = TrainConfig(steps=6, meta_batch=2, batch_size=4, fixed_width=32, max_multiply_adds=LIMIT)
    monkeypatch.setattr(survey, "SHORT_RUN", 12 if whole else 11)
    monkeypatch.setattr(survey, "LOOK_AHEAD", 8)
    batches = meta_batches(config, CIFAR10)
    targets = [target for _ in range(6) for target in next(batches).targets]
    found = survey.survey(config, CIFAR10)
    looked_at = targets if whole else targets[:8]
    most = functools.reduce(Needs.union, [needs_of(target, 4) for target in looked_at])
    if whole:
        assert found.tables == {32: survey.of_targets(targets, 4).tables[32]}
        assert found.bounds == most
    else:
        assert found.tables == one_width()
        assert all(need <= room <= 1.1 * need + 1 for need, room in zip(most, found.bounds, strict=True))
    for target in looked_at:
        assert found.foresees(target, 4)


def test_a_network_beyond_the_bounds():
    """The error names the bound, what the network needs and the room there is."""
    target = make_target(7, dataclasses.replace(train_architecture(0, 0), C=32), CIFAR10)
    needs = needs_of(target, 4)
    for name, need in needs._asdict().items():
        with pytest.raises(MachineError, match=f"architecture 7 needs {need} {name}, this run has room for {need - 1}"):
            needs._replace(**{name: need - 1}).check(target, 4)
