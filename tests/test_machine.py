"""The compiled machine: networks as data, checked against networks unrolled."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_networks import NETWORKS
from ghn_jax.machine import run as machine
from ghn_jax.machine.assemble import UNIT, Code, assemble, memory_units, stack, units
from ghn_jax.machine.memory import Lifetime, allocate
from ghn_jax.machine.parameters import FlatVector
from ghn_jax.machine.table import MachineError, Table, signatures_of, table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn_jax.architecture import CIFAR10
from ghn_jax.evaluation import he_init
from ghn_jax.execution import whole
from ghn_jax.losses import cross_entropy
from ghn_jax.program import Program, lower

BATCH = 4
LENGTH = 100
PROGRAMS = {name: lower(architecture, CIFAR10) for name, architecture in NETWORKS.items()}
IMAGES = np.random.default_rng(0).standard_normal((BATCH, 32, 32, 3)).astype(np.float32)
LABELS = np.array([1, 3, 5, 7], np.int32)
KEYS = jax.random.split(jax.random.key(3), len(NETWORKS))


TABLE = table_of(itertools.chain.from_iterable(map(signatures_of, PROGRAMS.values())))
UNITS = max(memory_units(program, BATCH) for program in PROGRAMS.values())


def code_of(programs: Sequence[Program], table: Table, training=True, length=LENGTH) -> Code:
    """The code of networks whose parameters follow each other in one vector."""
    words, offset = [], 0
    for program in programs:
        starts = [offset + start for start in FlatVector.starts(program)]
        words.append(assemble(program, starts, table, BATCH, training).words)
        offset += program.num_params
    return stack(words, length)


def vector_of(programs: Sequence[Program]) -> np.ndarray:
    return np.concatenate([FlatVector.flatten(p, he_init(p, seed=0), p.num_params) for p in programs])


def train(table: Table):
    return jax.jit(functools.partial(machine.value_and_grad, table, FlatVector(), label_smoothing=0.1))


@pytest.fixture(scope="module")
def outcome():
    """All networks, one after the other, in a memory full of garbage."""
    programs = tuple(PROGRAMS.values())
    outcome, memory = train(TABLE)(
        code_of(programs, TABLE), vector_of(programs), IMAGES, LABELS,
        memory=jnp.full((UNITS + 7, UNIT), jnp.nan), dropout_keys=KEYS,
    )  # fmt: skip
    return outcome, memory


def unrolled(program, key):
    """Loss, logits and gradients of the network unrolled, operation by operation."""

    def loss(params):
        logits = whole.run(program, params, IMAGES, dropout_key=key)
        return cross_entropy(logits, LABELS, 0.1), logits

    params = jax.tree.map(jnp.asarray, he_init(program, seed=0))
    (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, logits, gradients


@pytest.mark.parametrize("position", range(len(NETWORKS)), ids=NETWORKS)
def test_equals_unrolled(position, outcome):
    programs = tuple(PROGRAMS.values())
    program = programs[position]
    value, logits, gradients = unrolled(program, KEYS[position])
    result = outcome[0]
    np.testing.assert_allclose(result.losses[position], value, rtol=1e-5)
    assert int(result.correct[position]) == int(jnp.sum(jnp.argmax(logits, -1) == LABELS))
    norm = np.sqrt(sum(np.sum(np.square(values, dtype=np.float64)) for values in gradients.values()))
    np.testing.assert_allclose(result.norms[position], norm, rtol=1e-4)
    start = sum(p.num_params for p in programs[:position])
    mine = FlatVector.unflatten(program, np.asarray(result.bars)[start:])
    assert mine.keys() == gradients.keys() == {tensor.name for tensor in program.tensors}
    largest = max(np.abs(values).max() for values in gradients.values())
    for tensor in program.tensors:
        # Gradients of biases before a normalisation are sums that nearly cancel.
        scale = max(np.abs(gradients[tensor.name]).max(), 0.05 * largest)
        np.testing.assert_allclose(mine[tensor.name], gradients[tensor.name], atol=1e-5 * scale, rtol=0)


def test_predictions_equal_unrolled(outcome):
    """Forwards only, without dropout, in memory that still holds what the training step left."""
    programs = tuple(PROGRAMS.values())
    run = jax.jit(functools.partial(machine.run, TABLE, FlatVector()))
    logits, _ = run(code_of(programs, TABLE, training=False), vector_of(programs), IMAGES, outcome[1])
    for program, mine in zip(programs, logits, strict=True):
        plain = whole.run(program, he_init(program, seed=0), IMAGES)
        np.testing.assert_allclose(mine, plain, atol=1e-5 * np.abs(plain).max())


def test_one_program_for_networks_of_any_length():
    """Known operations compile nothing, and neither padding nor company changes a network's numbers."""
    base = NETWORKS["resnet"]
    programs = [lower(dataclasses.replace(base, depths=depths), CIFAR10) for depths in ((1, 1), (1, 2))]
    table = table_of(itertools.chain.from_iterable(map(signatures_of, programs)))
    step = train(table)
    size = max(program.num_params for program in programs)
    memory = machine.new_memory(max(memory_units(program, BATCH) for program in programs))
    losses = []
    for program in programs:
        vector = FlatVector.flatten(program, he_init(program, seed=0), size)
        result, _ = step(code_of([program], table), vector, IMAGES, LABELS, memory=memory, dropout_keys=KEYS[:1])
        losses.append(float(result.losses[0]))
        assert not np.any(np.asarray(result.bars)[program.num_params :])
    assert step._cache_size() == 1
    result, _ = step(
        code_of(programs, table, length=LENGTH + 11), vector_of(programs), IMAGES, LABELS,
        memory=memory, dropout_keys=KEYS[:2],
    )  # fmt: skip
    np.testing.assert_allclose(result.losses, losses, rtol=1e-6)


def test_bfloat16_activations():
    """Half the memory; gradients stay float32 and close to those in full precision."""
    program = PROGRAMS["resnet"]
    table = table_of(signatures_of(program))
    full, half = (
        train(table)(
            code_of([program], table), vector_of([program]), IMAGES, LABELS,
            memory=machine.new_memory(memory_units(program, BATCH), dtype), dropout_keys=KEYS[:1],
        )[0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )  # fmt: skip
    assert half.bars.dtype == jnp.float32
    assert half.losses[0] != full.losses[0]
    np.testing.assert_allclose(half.losses, full.losses, rtol=0.05)
    a, b = (np.asarray(result.bars, np.float64) for result in (full, half))
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10), st.integers(1, 9)), min_size=1, max_size=40))
def test_living_blocks_never_overlap(drawn):
    lifetimes = [Lifetime(start, start + length, size) for start, length, size in drawn]
    offsets, peak = allocate(lifetimes)
    for (a, at), (b, bt) in itertools.combinations(zip(lifetimes, offsets, strict=True), 2):
        together = a.start <= b.end and b.start <= a.end
        assert not together or at + a.size <= bt or bt + b.size <= at
    assert peak == max(at + life.size for life, at in zip(lifetimes, offsets, strict=True))
    most = max(sum(x.size for x in lifetimes if x.start <= time <= x.end) for time in range(31))
    assert most <= peak <= sum(life.size for life in lifetimes)


def test_memory_is_that_of_activations():
    """What has to be kept for the way back is kept once, and nothing is kept that no gradient depends on."""
    program = PROGRAMS["resnet"]
    activations = sum(units(instruction.shape, BATCH) for instruction in program.instructions)
    assert memory_units(program, BATCH) < 1.25 * activations
    assert memory_units(program, BATCH, training=False) < 0.4 * activations


def test_errors():
    wide = lower(dataclasses.replace(NETWORKS["attentive"], C=16), CIFAR10)
    with pytest.raises(MachineError, match=r"\w+\(.*\) applied to .* is not among the \d+ operations"):
        code_of([wide], TABLE)
    with pytest.raises(MachineError, match="instructions: this machine has room for 5"):
        code_of([PROGRAMS["mixed"]], TABLE, length=5)
