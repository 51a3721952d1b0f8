"""A training run on photographs: the task, and the images of every step, made ahead."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.images import ImageError, load, train_batch
from ghn_jax.images.batches import _epoch_order
from ghn_jax.networks.architecture import Task
from ghn_jax.training import loop, parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.step import Metrics
from ghn_jax.weights import checkpoint

SMALL = HypernetConfig(num_classes=2, max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 1)):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "tree" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(folder / f"{number}.jpeg")
    return tmp_path / "tree"


def run_config(tree, workdir):
    return TrainConfig(
        dataset="image_folder", data_dir=str(tree), workdir=str(workdir), steps=2, batch_size=3, meta_batch=1,
        fixed_width=32, max_multiply_adds=100_000_000,
    )  # fmt: skip


def without_computing(self, state, prepared, images, labels):
    """A step that changes nothing."""
    ones = np.ones((1, 1), np.float32)
    metrics = Metrics(ones, ones.astype(np.int32), ones, np.float32(1), np.bool_(True))
    return state._replace(step=state.step + 1), parallel.replicate(metrics)


def compile_nothing(monkeypatch):
    """For steps that do not compute."""
    monkeypatch.setattr(Programs, "begin", lambda self, recipes: None)
    monkeypatch.setattr(parallel.Mapped, "begin", lambda self, state, graphs, found: None)


# Compiling the real step takes a minute or two.
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_on_photographs(tree, tmp_path, monkeypatch, real):
    monkeypatch.setattr(TrainConfig, "hypernetwork", lambda self, task: SMALL)
    seen = []
    step = Engine.step if real else without_computing

    def watched(self, state, prepared, images, labels):
        seen.append((images, labels))
        return step(self, state, prepared, images, labels)

    monkeypatch.setattr(Engine, "step", watched)
    if not real:
        compile_nothing(monkeypatch)
    config = run_config(tree, tmp_path / "run")
    description = checkpoint.describe(loop.train(config).workdir)
    assert description.task == Task(num_classes=2, image_size=224, large_images=True) and description.step == 2
    data = load("image_folder", tree)
    for number, (images, labels) in enumerate(seen):
        expected = train_batch(data, 3, seed=0, step=number)
        assert np.array_equal(images, expected.images) and np.array_equal(labels, expected.labels)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(seen) == len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)


def test_a_damaged_image_ends_a_run_with_a_checkpoint(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainConfig, "hypernetwork", lambda self, task: SMALL)
    monkeypatch.setattr(Engine, "step", without_computing)
    compile_nothing(monkeypatch)
    data = load("image_folder", tree)
    second_step = data.train.images[_epoch_order(8, 0, 0)[3:6]]
    for number in second_step.numbers:
        path = Path(second_step.source.name(int(number)))
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ImageError, match=r"\d.jpeg \(500 bytes\) is not an image, or is damaged"):
        loop.train(run_config(tree, tmp_path / "run"))
    assert checkpoint.describe(tmp_path / "run").step == 1
