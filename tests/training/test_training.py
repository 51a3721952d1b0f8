"""Training: gradients by finite differences, two-step runs, configuration, and what goes wrong."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import scripts
from small_runs import PLAIN, SMALL, small_config, smoke_config

from ghn_jax.deepnets.sampler import MAX_NODES_BATCH, train_architecture
from ghn_jax.execution import compiling, whole
from ghn_jax.execution.compiling import CompilationError
from ghn_jax.execution.operations import ExecutionError
from ghn_jax.ghn import chunks
from ghn_jax.ghn.config import ConfigError
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, ArchitectureError
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import counted
from ghn_jax.training import engine as engine_module
from ghn_jax.training import inputs, loop, memory, parallel, watch
from ghn_jax.training.config import TrainConfig, config_dict, from_fields
from ghn_jax.training.engine import Engine
from ghn_jax.training.loop import NonFiniteLossError
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.step import TrainState, init_state
from ghn_jax.weights import checkpoint, pretrained, run_checkpoints
from ghn_jax.weights.errors import CheckpointError

ROOT = scripts.ROOT
TARGETS = (
    make_network(5, PLAIN, CIFAR10),
    make_network(6, dataclasses.replace(PLAIN, norm=None, n_cells=1), CIFAR10),
)


@pytest.fixture(scope="module")
def ghn():
    return GHN.init(SMALL, seed=0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 32, 32, 3)).astype(np.float32), np.array([0, 1, 2, 3], np.int32)


def one_step(ghn, targets, batch, **fields):
    """Parameters after a step of plain gradient descent with rate 1, and the metrics."""
    config = TrainConfig(batch_size=len(batch[0]), meta_batch=len(targets), **fields)
    optimizer = optax.sgd(1.0)
    state = parallel.replicate(init_state(ghn.params, optimizer))
    with contextlib.closing(Engine(config, SMALL, optimizer)) as engine:
        state, metrics = engine.step(state, engine.prepare(state, targets), *batch)
    return parallel.first_copy(state).params, parallel.first_copy(metrics)


def gradient_by_sgd(ghn, targets, batch, **fields):
    """The gradient as the change that a step of plain gradient descent with rate 1 makes."""
    params, metrics = one_step(ghn, targets, batch, **fields)
    return jax.tree.map(lambda old, new: old - new, ghn.params, params), metrics


@pytest.fixture(scope="module")
def gradients(ghn, batch):
    """Of both targets together, and of each twice, which is that of each alone; so they share what is compiled."""
    first, second = TARGETS
    return [gradient_by_sgd(ghn, targets, batch) for targets in (TARGETS, (first, first), (second, second))]


def test_gradient_by_finite_differences(ghn, batch, gradients):
    gradient, metrics = gradients[0]
    grad_norm = float(metrics.grad_norm)
    assert grad_norm == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-3)

    def loss(params):
        values = []
        for target in TARGETS:
            predicted = predict_params(target.graph, GHN(SMALL, params))
            values.append(cross_entropy(whole.run(target.program, predicted, batch[0]), batch[1]))
        return float(np.mean(values))

    assert loss(ghn.params) == pytest.approx(float(np.mean(metrics.losses)), rel=1e-5)
    # Along the gradient itself the loss must change by the gradient's squared norm.
    size = 2e-3 / grad_norm
    up, down = (
        loss(jax.tree.map(lambda p, g, sign=sign: p + sign * size * g, ghn.params, gradient)) for sign in (1, -1)
    )
    assert (up - down) / (2 * size) == pytest.approx(grad_norm**2, rel=0.05)


def test_networks_compiled_one_by_one_give_the_same_update(ghn, batch):
    """benchmarks/unrolled_training.py, which shows how slow that is; with gradients clipped by network, and dropout."""
    unrolled = scripts.load("benchmarks/unrolled_training.py")
    config = TrainConfig(batch_size=4, meta_batch=2, network_clip_norm=1.0)
    optimizer = optax.sgd(1.0)
    plain = unrolled.Unrolled(config, SMALL, optimizer)
    state, losses, correct = plain.step(init_state(ghn.params, optimizer), TARGETS, *batch)
    params, metrics = one_step(ghn, TARGETS, batch, network_clip_norm=1.0)
    np.testing.assert_allclose(losses, metrics.losses[0], rtol=1e-5)
    np.testing.assert_array_equal(correct, metrics.correct[0])
    for mine, machines in zip(*map(jax.tree.leaves, (state.params, params)), strict=True):
        np.testing.assert_allclose(mine, machines, atol=1e-5)


def test_meta_batch_averages(gradients):
    (both, metrics), (first, of_first), (second, of_second) = gradients
    alone = np.stack([of_first.losses[:, 0], of_second.losses[:, 1]], axis=1)
    np.testing.assert_allclose(metrics.losses, alone, rtol=1e-5)
    for mean, a, b in zip(*map(jax.tree.leaves, (both, first, second)), strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-5)


def test_every_network_is_clipped_by_itself(ghn, batch, gradients):
    norms = gradients[0][1].norms[0]
    limit = float(np.mean(norms))  # between the norms of the two networks
    assert min(norms) < 0.9 * limit and 1.1 * limit < max(norms)
    clipped, metrics = gradient_by_sgd(ghn, TARGETS, batch, network_clip_norm=limit)
    np.testing.assert_allclose(metrics.norms, gradients[0][1].norms, rtol=1e-5)
    scales = np.minimum(1, limit / norms)
    for mine, a, b in zip(*map(jax.tree.leaves, (clipped, gradients[1][0], gradients[2][0])), strict=True):
        np.testing.assert_allclose(mine, (scales[0] * a + scales[1] * b) / 2, atol=1e-5)


def test_steps_that_are_not_finite_change_nothing(ghn, batch):
    params, metrics = one_step(ghn, TARGETS, (np.full_like(batch[0], np.nan), batch[1]))
    assert not metrics.applied and np.isnan(metrics.losses).all()
    jax.tree.map(np.testing.assert_array_equal, params, ghn.params)


def test_new_architectures_compile_nothing(ghn, batch):
    """Meta-batches of networks never seen before, after the first step."""
    config = TrainConfig(batch_size=4, meta_batch=2)
    variants = [
        make_network(i, dataclasses.replace(TARGETS[0].architecture, n_cells=4 - i % 4, ks=3), CIFAR10)
        for i in range(8)
    ]
    optimizer = optax.sgd(1e-3)
    state = parallel.replicate(init_state(ghn.params, optimizer))
    with contextlib.closing(Engine(config, SMALL, optimizer)) as engine:
        for first in range(0, 8, 2):
            with counted() as compilations:
                state, metrics = engine.step(state, engine.prepare(state, variants[first : first + 2]), *batch)
                assert parallel.first_copy(metrics).applied
            assert first < 4 or not compilations


def test_networks_larger_than_the_memory(monkeypatch):
    """Told before a run and before a step, with the network and what to lower."""
    config = TrainConfig(batch_size=4, meta_batch=2, max_multiply_adds=60_000_000)
    largest = max(memory.plan_of(target, config).peak_bytes for target in TARGETS)
    monkeypatch.setattr(parallel, "threads_of_a_device", lambda: 1)
    monkeypatch.setattr(parallel, "device_memory", lambda: largest)
    memory.check_networks(TARGETS, config)
    monkeypatch.setattr(parallel, "device_memory", lambda: largest - 1)
    expected = r"architecture 5 needs 0\.\d\d GiB for activations, but a device has .* lower config.batch_size=4 or"
    with pytest.raises(ExecutionError, match=expected):
        memory.check_networks(TARGETS, config)
    with contextlib.closing(Engine(config, SMALL, optax.sgd(1.0))) as engine:
        with pytest.raises(ExecutionError, match="architecture 5 needs"):
            engine.prepare(None, TARGETS)
    with pytest.raises(ExecutionError, match=r"architecture \d+ needs 0\.\d\d GiB"):
        memory.check_first_networks(config, CIFAR10)


def test_a_device_that_runs_out_of_memory(tmp_path, small_hypernetwork, small_networks, monkeypatch):
    """At run time: the network is named, and the checkpoint is that of the last step."""
    real, calls = engine_module.value_and_grad, []

    def full(*args):
        calls.append(None)
        if len(calls) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.\nMore")
        return real(*args)

    monkeypatch.setattr(engine_module, "value_and_grad", full)
    with pytest.raises(
        ExecutionError, match=r"architecture \d+ does not fit .*17179869184 bytes.\): lower config.batch"
    ):
        loop.train(small_config(tmp_path))
    assert checkpoint.describe(tmp_path).step == 1


def test_an_operation_that_cannot_be_compiled(tmp_path, small_hypernetwork, small_networks, monkeypatch):
    """It is named, and the checkpoint is that of the last step."""

    def broken(*args):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such convolution")

    monkeypatch.setattr(compiling, "compile_lowered", broken)
    monkeypatch.setattr(compiling.Programs, "_load", lambda self, key: None)  # of what another run has kept
    with pytest.raises(CompilationError, match=r"cannot be compiled for cpu: UNIMPLEMENTED: no such convolution"):
        loop.train(small_config(tmp_path))
    assert checkpoint.describe(tmp_path).step == 0


def test_padding_changes_nothing(ghn, batch, gradients, monkeypatch):
    """Graphs padded to more nodes, more embeddings, and longer chunks of rows."""
    monkeypatch.setattr(inputs, "NODES", (320,))
    for module in (inputs, engine_module):
        monkeypatch.setattr(module, "CAPACITY", 700)
    monkeypatch.setattr(chunks, "_ROWS", {table: 2 * rows + 3 for table, rows in chunks._ROWS.items()})
    moved, metrics = gradient_by_sgd(ghn, TARGETS, batch)
    np.testing.assert_allclose(metrics.losses, gradients[0][1].losses, rtol=1e-5)
    for mine, plain in zip(*map(jax.tree.leaves, (moved, gradients[0][0])), strict=True):
        np.testing.assert_allclose(mine, plain, atol=1e-5)


def test_meta_batches_are_reproducible_and_bounded():
    config = TrainConfig(meta_batch=3, max_multiply_adds=30_000_000, fixed_width=32)
    first, again = ([m.targets for m in itertools.islice(meta_batches(config, CIFAR10), 4)] for _ in range(2))
    assert [[t.number for t in m] for m in first] == [[t.number for t in m] for m in again]
    for meta_batch in first:
        assert len(meta_batch) == 3
        assert sum(t.graph.num_nodes for t in meta_batch) <= MAX_NODES_BATCH
        assert all(t.program.multiply_adds <= 30_000_000 and t.architecture.C == 32 for t in meta_batch)
    other = next(meta_batches(dataclasses.replace(config, seed=1), CIFAR10)).targets
    assert [t.number for t in other] != [t.number for t in first[0]]
    with pytest.raises(ArchitectureError, match="max_multiply_adds=10"):
        next(meta_batches(dataclasses.replace(config, max_multiply_adds=10), CIFAR10))


def test_meta_batches_that_never_fit_end_a_run(monkeypatch):
    monkeypatch.setattr("ghn_jax.training.meta_batches._PATIENCE_WITH_META_BATCHES", 80)
    with pytest.raises(ArchitectureError, match="meta_batch=40: 2 meta-batches in a row have more than 2,200 nodes"):
        next(meta_batches(TrainConfig(meta_batch=40), CIFAR10))


def test_meta_batches_go_on_from_any_position():
    config = TrainConfig(meta_batch=3, max_multiply_adds=60_000_000)
    drawn = list(itertools.islice(meta_batches(config, CIFAR10), 12))
    for done in (1, 4, 7):
        rest = itertools.islice(meta_batches(config, CIFAR10, drawn[done - 1].after), 12 - done)
        for mine, known in zip(rest, drawn[done:], strict=True):
            assert [t.number for t in mine.targets] == [t.number for t in known.targets]
            assert mine.after == known.after
    until = list(meta_batches(config, CIFAR10, stop=drawn[3].after))
    assert [m.after for m in until] == [m.after for m in drawn[:4]]


def test_meta_batches_are_the_stream_in_its_order():
    """Networks of all widths together, none left out but in meta-batches of too many nodes."""
    drawn = [train_architecture(0, position) for position in range(80)]
    expected = iter(range(0, 80, 4))
    widths = set()
    for drawn_targets, after in itertools.islice(meta_batches(TrainConfig(meta_batch=4), CIFAR10), 15):
        first = next(start for start in expected if start + 4 == after)
        assert [target.architecture for target in drawn_targets] == drawn[first : first + 4]
        widths.add(len({target.architecture.C for target in drawn_targets}))
    assert max(widths) > 1


def test_prefetch_keeps_order_and_errors():
    def items():
        yield from range(20)
        raise RuntimeError("broken")

    seen = []
    with pytest.raises(RuntimeError, match="broken"):
        for item in prefetch(items()):
            seen.append(item)
    assert seen == list(range(20))
    assert list(prefetch([1, 2])) == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stepz": 3}, "no field 'stepz'; did you mean 'steps'"),
        ({"steps": 0}, "steps=0"),
        ({"ghn": "ghn9"}, "ghn='ghn9'"),
        ({"meta_batch": -1}, "meta_batch=-1"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"decay_at": (2.0,)}, "decay_at"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"network_clip_norm": 0.0}, "network_clip_norm"),
    ],
)
def test_bad_configuration(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_fields(fields)


def check_two_steps(config):
    workdir = Path(config.workdir)
    outcome = loop.train(config)
    assert (outcome.step, outcome.steps, outcome.skipped, outcome.signal) == (2, 2, 0, None)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["loss"]) and len(row["architectures"]) == 2 for row in rows)
    assert (workdir / "training.png").stat().st_size > 5000
    description = checkpoint.describe(workdir)
    assert description.step == 2 and description.train_config["batch_size"] == 8
    trained, fresh = checkpoint.load_ghn(workdir), GHN.init(SMALL, seed=0)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), trained.params, fresh.params)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_two_steps(tmp_path, small_hypernetwork, small_networks, capsys):
    check_two_steps(small_config(tmp_path))
    (said,) = re.findall(r"the first step needs (\d+) programs", capsys.readouterr().out)
    assert int(said) > 20


@pytest.mark.processes
def test_two_steps_of_drawn_networks(tmp_path, small_hypernetwork):
    """Two hundred programs are compiled for them."""
    check_two_steps(smoke_config(tmp_path))


def test_start_from_a_checkpoint(tmp_path, ghn, small_hypernetwork):
    changed = jax.tree.map(lambda x: x + 0.5, ghn.params)
    run_checkpoints.save(tmp_path / "first", checkpoint.Description(SMALL, CIFAR10, 1, {}), {"params": changed})
    config = smoke_config(tmp_path / "run", start=str(tmp_path / "first"))
    jax.tree.map(np.testing.assert_array_equal, loop.start_params(config, SMALL), changed)
    other = dataclasses.replace(SMALL, hid=16)
    with pytest.raises(ConfigError, match=r"config.start=.*first' is .*hid=8.* expected .*hid=16"):
        loop.start_params(config, other)
    shipped = pretrained.DEFAULT.stem
    with pytest.raises(ConfigError, match=f"config.start='{shipped}'"):
        loop.start_params(dataclasses.replace(config, start=shipped), SMALL)
    with pytest.raises(CheckpointError, match="there is no"):
        loop.train(dataclasses.replace(config, start=str(tmp_path / "nothing")))
    started = loop.start_params(dataclasses.replace(config, start=shipped), pretrained.load().config)
    jax.tree.map(np.testing.assert_array_equal, started, pretrained.load().params)


def test_a_signal_leaves_the_last_checkpoint_complete(tmp_path, small_hypernetwork, monkeypatch):
    """It is written in the background, and a process that a signal ends at once would leave half of it."""
    state = TrainState(np.int32(0), {"weight": np.zeros(3, np.float32)}, (), None)  # nothing has to be compiled for it
    monkeypatch.setattr(loop, "_start", lambda *_: (state, loop.Progress()))
    monkeypatch.setattr(loop, "check_first_networks", lambda config, task: None)
    monkeypatch.setattr(
        loop._Run, "steps", lambda run, engine, data, val, checkpoints, *_: run._save(checkpoints, None)
    )
    wait, begun = run_checkpoints.Checkpoints.wait, []

    def interrupted(checkpoints):
        if checkpoints._writing is not None:
            begun.append(checkpoints._writing[0])
            signal.raise_signal(signal.SIGINT)
        wait(checkpoints)

    monkeypatch.setattr(run_checkpoints.Checkpoints, "wait", interrupted)
    outcome = loop.train(small_config(tmp_path, val_networks=0))
    assert begun == [0] and checkpoint.saved_steps(tmp_path / checkpoint.FOLDER) == [0]
    assert outcome.signal == signal.SIGINT


def test_failures_keep_a_checkpoint(tmp_path, small_hypernetwork, small_networks, monkeypatch):
    real = Engine.step

    def interrupted(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(Engine, "step", interrupted)
    outcome = loop.train(small_config(tmp_path / "a"))
    assert (outcome.step, outcome.signal) == (1, signal.SIGINT)
    assert checkpoint.describe(tmp_path / "a").step == 1
    # Another configuration is refused, but for what does not change what is learned.
    with pytest.raises(ConfigError, match=r"learning_rate was 0.001, is 0.01; steps was 2, is 3"):
        loop.train(dataclasses.replace(small_config(tmp_path / "a"), learning_rate=0.01, steps=3))

    def broken(self, state, prepared, pixels, labels):
        return real(self, state, prepared, np.full_like(pixels, np.nan), labels)

    monkeypatch.setattr(Engine, "step", broken)
    monkeypatch.setattr(loop, "MAX_SKIPPED", 2)
    with pytest.raises(NonFiniteLossError, match=r"step 2: .* not finite for 2 steps in a row; .* were \[\d+, \d+\]"):
        loop.train(small_config(tmp_path / "b"))
    assert checkpoint.saved_steps(tmp_path / "b" / checkpoint.FOLDER) == []
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [row["applied"] for row in rows] == [False, False]


def test_a_full_disk_under_the_metrics_costs_no_step(tmp_path, small_hypernetwork, small_networks, monkeypatch, capsys):
    append, full = watch.append, []

    def fail(path, fields):
        if len(full) < 2:
            full.append(fields["step"])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, fields)

    monkeypatch.setattr(watch, "append", fail)
    outcome = loop.train(dataclasses.replace(small_config(tmp_path), steps=3))
    assert full == [1, 1] and outcome.step == 3 and checkpoint.describe(tmp_path).step == 3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert capsys.readouterr().out.count("cannot be written: No space left on device. Training goes on") == 1


def test_a_full_disk_until_the_end_is_said(tmp_path, monkeypatch, capsys):
    def fail(path, fields):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(watch, "append", fail)
    watched = watch.Watch(tmp_path, 0, 3, first=True)
    for step in (1, 2):
        watched.report("metrics.jsonl", {"step": step})
    watched.close()
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{tmp_path}: lines of steps 1 to 2 could not be written: No space left on device; checkpoints are not affected"
    ]


def test_a_terminal_that_is_gone_costs_no_step(tmp_path, small_hypernetwork, small_networks, monkeypatch):
    def fail(*_):
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(loop._Run, "_report", fail)
    with pytest.raises(BrokenPipeError):
        loop.train(small_config(tmp_path))
    assert checkpoint.saved_steps(tmp_path / checkpoint.FOLDER) == [1]


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_command_line_errors(tmp_path):
    missing = run_script(
        "experiments/train.py", "--config=configs/cifar.py", f"--config.data_dir={tmp_path}",
        f"--config.workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert missing.returncode == 1 and "cifar-10" in missing.stderr and "Traceback" not in missing.stderr
    foreign = run_script("experiments/evaluate.py", f"--checkpoint={tmp_path}")
    assert foreign.returncode == 1 and "no checkpoint at" in foreign.stderr and "Traceback" not in foreign.stderr


def test_every_field_can_be_given_on_the_command_line():
    """Configurations hold all fields, with types, and say no to unknown ones."""
    config = config_dict(dataset="digits", steps=7)
    assert from_fields(dict(config)) == TrainConfig(dataset="digits", steps=7)
    assert set(config) == {field.name for field in dataclasses.fields(TrainConfig)}
    config.data_dir, config.max_minutes, config.fixed_width = "here", 2.0, 32
    with pytest.raises(TypeError):
        config.fixed_width = "wide"
    with pytest.raises(ConfigError, match="no field 'stepz'; did you mean 'steps'"):
        config_dict(stepz=7)


def test_shares_are_equal_in_number_and_balanced():
    costs = [8.0, 1.0, 1.0, 6.0, 1.0, 1.0, 5.0, 1.0]
    dealt = inputs.shares(costs, 4)
    assert sorted(position for share in dealt for position in share) == list(range(8))
    assert [len(share) for share in dealt] == [2] * 4
    assert max(sum(costs[position] for position in share) for share in dealt) == 9
    assert inputs.shares(costs, 1) == [list(range(8))]
    with pytest.raises(ExecutionError, match="config.meta_batch=8: expected a multiple of 3"):
        inputs.shares(costs, 3)
