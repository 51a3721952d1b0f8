"""Checkpoints: what is written is read, the best and the newest stay, damaged and foreign ones are named."""

import dataclasses
import gc
import re

import jax
import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.weights import checkpoint, run_checkpoints
from ghn_jax.weights.errors import CheckpointError

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.fixture(scope="module")
def ghn():
    return GHN.init(SMALL, seed=0)


def test_checkpoint_round_trip(tmp_path, ghn):
    path = tmp_path / "run" / checkpoint.FOLDER
    description = checkpoint.Description(SMALL, CIFAR10, 7, {"seed": 0}, {"minutes": 1.5})
    run_checkpoints.save(path, description, {"params": ghn.params, "opt_state": [np.arange(3)]})
    for place in (tmp_path / "run", path, path / "7"):
        assert checkpoint.describe(place) == description
    loaded = checkpoint.load_ghn(path)
    assert loaded.config == SMALL
    jax.tree.map(np.testing.assert_array_equal, loaded.params, ghn.params)
    changed = jax.tree.map(lambda x: x + 1, ghn.params)
    run_checkpoints.save(path, dataclasses.replace(description, step=8), {"params": changed})
    assert checkpoint.describe(path).step == 8
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_ghn(path).params, changed)
    assert sorted(p.name for p in path.iterdir()) == ["7", "8"]


def test_newest_and_best_checkpoints_stay(tmp_path, ghn):
    checkpoints = run_checkpoints.Checkpoints(tmp_path, keep=2)
    for step, accuracy in enumerate((0.3, 0.9, None, 0.5, None, 0.4, None)):
        description = checkpoint.Description(SMALL, CIFAR10, step, {}, {}, accuracy)
        checkpoints.save(description, {"params": jax.tree.map(lambda x, step=step: x + step, ghn.params)})
    checkpoints.close()
    assert checkpoint.saved_steps(tmp_path) == [1, 5, 6]
    assert checkpoint.describe(tmp_path).step == 1  # the most accurate
    best = checkpoint.load_ghn(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, best, jax.tree.map(lambda x: x + 1, ghn.params))
    restored = run_checkpoints.restore_newest(tmp_path, {"params": ghn.params}, warn=pytest.fail)
    assert restored.description.step == 6


def test_a_process_waits_for_no_other(tmp_path, monkeypatch):
    """Processes begin at different times: the one that is ready before the first one finds its folder missing."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    checkpoints = run_checkpoints.Checkpoints(tmp_path / "run" / checkpoint.FOLDER)
    checkpoints.check_space({"params": np.zeros(3)})
    with pytest.raises(CheckpointError, match="free space, expected at least"):
        checkpoints.check_space({"params": jax.ShapeDtypeStruct((1 << 60,), "float32")})
    checkpoints.close()


# Orbax leaves the tasks that failed on damaged files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_bad_checkpoints(tmp_path, ghn):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load_ghn(tmp_path / "nothing")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load_ghn(tmp_path / "foreign")
    run_checkpoints.save(tmp_path / "run", checkpoint.Description(SMALL, CIFAR10, 1, {}), {"params": ghn.params})
    path = tmp_path / "run" / "1"
    about = path / "_CHECKPOINT_METADATA"
    text = about.read_text()
    about.write_text(text.replace('"hid": 8', '"hid": 16'))
    with pytest.raises(CheckpointError, match="not what was written"):
        checkpoint.load_ghn(path)
    about.write_text(re.sub(', "digest": "[0-9a-f]*"', "", text).replace('"hid": 8', '"hid": 16'))
    with pytest.raises(CheckpointError, match="has shape .* expected"):
        checkpoint.load_ghn(path)
    about.write_text(text[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_ghn(path)
    about.write_text(text.replace("checkpoint 2", "checkpoint 99"))
    with pytest.raises(CheckpointError, match="format"):
        checkpoint.load_ghn(path)
    about.write_text(text)
    for files in ("state/**/d/*", "state/_METADATA"):  # values, then their description
        for file in path.glob(files):
            file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load_ghn(path)
    gc.collect()  # of Orbax's failed tasks, while their warnings are ignored
