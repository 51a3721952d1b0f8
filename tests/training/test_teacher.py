"""Distillation: the file of a teacher, its probabilities, and what networks learn from them."""

import contextlib
import dataclasses
import json
from typing import Any

import jax
import numpy as np
import optax
import pytest
import scripts
from small_runs import PLAIN, SMALL, small_config

from ghn_jax import images
from ghn_jax.cli.common import CommandError
from ghn_jax.execution import whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.recipes import LossOf
from ghn_jax.ghn.config import ConfigError
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, ResNet
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import TaughtLabels
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.training import loop, parallel, teacher
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.step import init_state
from ghn_jax.weights import checkpoint, safetensors_file
from ghn_jax.weights.errors import CheckpointError

NETWORK = ResNet(depths=(1,), width=8)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


@pytest.fixture
def file(tmp_path, digits):
    path = tmp_path / "teacher.safetensors"
    teacher.save(path, NETWORK, he_init(lower(NETWORK, digits.task), seed=3))
    return path


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def by_hand(logits, labels, taught, share):
    """Loss of every image and its gradient with respect to the logits, in float64."""
    logits, taught = np.asarray(logits, np.float64), np.asarray(taught, np.float64)
    targets = (1 - share) * np.eye(logits.shape[-1])[labels] + share * taught
    found = softmax(logits)
    return -np.sum(targets * np.log(found), -1), found - targets


def test_the_loss_is_that_of_mixed_targets():
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]], np.float32)
    labels = np.array([1, 1], np.int32)
    taught = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)
    recipe = LossOf(3, 2, "float32", 0.0, teacher_share=0.4)
    found, bar = recipe(logits, TaughtLabels(labels, taught))
    losses, bars = by_hand(logits, labels, taught, 0.4)
    np.testing.assert_allclose(found.loss, losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(bar, bars / 2, rtol=1e-5, atol=1e-7)
    assert int(found.correct) == 0  # by labels: the teacher's first choice, and a tie that the first class wins
    shapes = jax.eval_shape(recipe, *recipe.arguments)
    assert shapes[1].shape == (2, 3) and recipe.arguments[1].taught.shape == (2, 3)


def test_a_batch_has_the_labels_and_what_the_teacher_thinks(file, digits, tmp_path):
    config = dataclasses.replace(small_config(tmp_path), teacher=str(file), own_images=True)
    plain = images.train_batch(digits, config.images_of_step, config.seed, 1)
    with contextlib.closing(Programs(jax.local_devices()[:1])) as programs:
        batch = teacher.batches(config, digits, programs, teacher.of_run(config, digits.task))(1)
    np.testing.assert_array_equal(batch.images, plain.images)
    np.testing.assert_array_equal(batch.labels.labels, plain.labels)
    program = lower(NETWORK, digits.task)
    logits = whole.run(program, he_init(program, seed=3), plain.images)
    np.testing.assert_allclose(batch.labels.taught, softmax(np.asarray(logits)), atol=1e-5)
    assert batch.labels.taught.dtype == np.float32 and batch.labels.taught.std() > 0.01


def test_every_network_learns_from_the_probabilities_of_its_own_images():
    """Losses of a step with images of its own for each of two networks, against those of the whole networks."""
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
    labels = TaughtLabels(np.array([0, 1, 2, 3], np.int32), rng.dirichlet(np.ones(10), 4).astype(np.float32))
    ghn, optimizer = GHN.init(SMALL, seed=0), optax.sgd(1.0)
    target = make_network(7, dataclasses.replace(PLAIN, n_cells=1), CIFAR10)
    config = TrainConfig(batch_size=2, meta_batch=2, own_images=True, teacher="x", teacher_share=0.7)
    state = parallel.replicate(init_state(ghn.params, optimizer))
    with contextlib.closing(Engine(config, SMALL, optimizer)) as engine:
        _, metrics = engine.step(state, engine.prepare(state, (target, target)), pixels, labels)
    found, params = parallel.first_copy(metrics).losses[0], predict_params(target.graph, ghn)
    for number, half in enumerate((slice(0, 2), slice(2, 4))):
        logits = whole.run(target.program, params, pixels[half])
        losses, _ = by_hand(logits, labels.labels[half], labels.taught[half], 0.7)
        assert float(found[number]) == pytest.approx(losses.mean(), rel=1e-5)


def test_a_taught_run_goes_on_bit_for_bit(tmp_path, file, small_hypernetwork, small_networks):
    """Interrupted after every step; another share teaches something else."""
    config = small_config(tmp_path / "whole", teacher=str(file))
    assert loop.train(config).step == 2
    parts = dataclasses.replace(config, workdir=str(tmp_path / "parts"), max_minutes=1e-9)
    for step in (1, 2):
        assert loop.train(parts).step == step
    assert loop.train(dataclasses.replace(config, workdir=str(tmp_path / "more"), teacher_share=0.9)).step == 2
    like = {"params": jax.eval_shape(lambda: GHN.init(SMALL, 0).params)}
    kept, in_parts, more = (
        checkpoint.load_arrays(tmp_path / name, like)["params"] for name in ("whole", "parts", "more")
    )
    jax.tree.map(np.testing.assert_array_equal, kept, in_parts)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), kept, more))) > 1e-6


def test_a_run_goes_on_with_the_teacher_that_it_had(tmp_path, file, small_hypernetwork, small_networks):
    config = dataclasses.replace(small_config(tmp_path / "run", teacher=str(file)), max_minutes=1e-9)
    assert loop.train(config).step == 1
    folder = tmp_path / "run" / checkpoint.FOLDER
    found = teacher.load(file, CIFAR10)
    assert checkpoint.describe(folder / "1").progress["teacher"] == found.fingerprint
    teacher.save(file, NETWORK, he_init(lower(NETWORK, CIFAR10), seed=4), overwrite=True)
    assert teacher.load(file, CIFAR10).fingerprint != found.fingerprint
    with pytest.raises(ConfigError, match=r"the network in teacher='.*' was another one"):
        loop.train(config)


def test_a_file_keeps_the_network(file, digits):
    found = teacher.load(file, digits.task)
    assert found.architecture == NETWORK and found.program == lower(NETWORK, digits.task)
    for name, values in he_init(found.program, seed=3).items():
        np.testing.assert_array_equal(found.params[name], values)


def written(path, arrays, **metadata):
    path.unlink()
    safetensors_file.write(path, arrays, metadata)


def damaged(kind, path):
    arrays, metadata = safetensors_file.read(path)
    first = next(iter(arrays))
    match kind:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-8])
        case "no network":
            written(path, arrays)
        case "no JSON":
            written(path, arrays, architecture="{")
        case "no architecture":
            written(path, arrays, architecture=json.dumps({"depths": [10**9]}))
        case "an array less":
            written(path, {n: a for n, a in arrays.items() if n != first}, **metadata)
        case "not finite":
            written(path, {**arrays, first: np.full_like(arrays[first], np.nan)}, **metadata)
        case "integers":
            written(path, {**arrays, first: arrays[first].astype(np.int32)}, **metadata)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing", "no file at"),
        ("cut", "safetensors"),
        ("no network", "does not say of which network"),
        ("no JSON", "is no network for 10 classes"),
        ("no architecture", "is no network for 10 classes"),
        ("an array less", "is missing"),
        ("not finite", "finite numbers of type float32"),
        ("integers", "finite numbers of type float32"),
    ],
)
def test_a_run_with_a_bad_teacher_does_not_begin(kind, named, tmp_path, file, small_hypernetwork):
    damaged(kind, file)
    config = small_config(tmp_path / "run", teacher=str(file))
    with pytest.raises(ConfigError, match=rf"config\.teacher='.*{named}"):
        loop.train(config)
    assert not (tmp_path / "run").exists()


def test_what_is_of_no_use_is_not_read(file, monkeypatch):
    arrays, metadata = safetensors_file.read(file)
    monkeypatch.setattr(safetensors_file, "read", None)
    for changed, about, message in (
        ({**arrays, "more": np.zeros(2, np.float32)}, metadata, "has no parameters 'more'"),
        (arrays, {}, "does not say of which network"),
        (arrays, {"architecture": '{"kind": "resnet", "width": 4, "width": 8}'}, "it has 'width' twice"),
        (arrays, metadata | {"layout": "torch"}, "layout='torch'"),
    ):
        written(file, changed, **about)
        with pytest.raises(CheckpointError, match=message):
            teacher.load(file, CIFAR10)


def test_a_network_that_is_none_replaces_nothing(file):
    before = file.read_bytes()
    good = he_init(lower(NETWORK, CIFAR10), seed=4)
    architecture: Any
    for architecture, changes, message in (
        (NETWORK, {"fc.bias": np.full(10, np.nan)}, "array fc.bias has values that are not finite"),
        (NETWORK, {"fc.bias": np.full(10, 1e300)}, "array fc.bias has values that are not finite"),
        (NETWORK, {"fc.bias": object()}, "array fc.bias: expected finite numbers, got <object"),
        (NETWORK, {"fc.bias": [[1], [2, 3]]}, "array fc.bias: expected finite numbers"),
        ("resnet50", {}, "'resnet50': expected the architecture of a teacher"),
    ):
        with pytest.raises(CheckpointError, match=message):
            teacher.save(file, architecture, {**good, **changes}, overwrite=True)
    assert file.read_bytes() == before


def test_a_teacher_for_other_classes(file):
    with pytest.raises(CheckpointError, match="no network for 1000 classes: .*shape"):
        teacher.load(file, dataclasses.replace(CIFAR10, num_classes=1000))


@pytest.mark.parametrize("share", [0, -0.1, 1.5, "a", float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(ConfigError, match="teacher_share"):
        TrainConfig(teacher_share=share)


def test_nothing_is_replaced_unasked(file, digits):
    before = file.read_bytes()
    with pytest.raises(Exception, match="exists"):
        teacher.save(file, NETWORK, he_init(lower(NETWORK, digits.task), seed=4))
    assert file.read_bytes() == before
    teacher.save(file, NETWORK, he_init(lower(NETWORK, digits.task), seed=4), overwrite=True)
    assert file.read_bytes() != before
    with pytest.raises(CheckpointError, match=r"ending in \.safetensors"):
        teacher.save(file.with_suffix(".npz"), NETWORK, {})


def test_the_command_trains_a_teacher_and_goes_on_with_it(tmp_path, capsys):
    out, more = tmp_path / "teacher.safetensors", tmp_path / "more.safetensors"
    command = scripts.load("experiments/train_teacher.py")
    common = ["--dataset=digits", "--steps=8", "--batch_size=32", "--test_images=64"]
    architecture = tmp_path / "small.json"
    architecture.write_text(json.dumps(teacher.to_json(NETWORK)))
    command.main([*common, "--start=he", f"--arch={architecture}", f"--out={out}"])
    command.main([*common, f"--start={out}", f"--out={more}", "--learning_rate=0.02"])
    printed = capsys.readouterr().out
    assert printed.count("top-1 on test images of digits") == 2
    first, second = (teacher.load(path, images.load("digits").task) for path in (out, more))
    assert first.architecture == second.architecture == NETWORK
    assert any(np.any(first.params[name] != second.params[name]) for name in first.params)
    with pytest.raises(CommandError, match="exists"):
        command.main([*common, f"--out={out}"])
    with pytest.raises(CommandError, match="--arch=vit: the file --start=.* says which network"):
        command.main([*common, f"--start={out}", "--arch=vit", f"--out={tmp_path / 'other.safetensors'}"])
