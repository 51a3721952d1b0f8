"""Checkpoints: what is written is read, the best and the newest stay, damaged and foreign ones are named."""

import dataclasses
import gc
import os
import re
import tempfile
from pathlib import Path

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


def test_a_checkpoint_that_somebody_put_a_file_into(tmp_path, ghn):
    """File managers and network drives do; it is gone on from, but it is not removed."""
    folder = tmp_path / checkpoint.FOLDER
    checkpoints = run_checkpoints.Checkpoints(folder, keep=1)
    for step in range(1, 4):
        checkpoints.save(checkpoint.Description(SMALL, CIFAR10, step, {}), {"params": ghn.params})
        checkpoints.wait()
        if step == 1:
            (folder / "1" / ".DS_Store").touch()
            (folder / "5.removed").mkdir()
            assert run_checkpoints.restore_newest(
                folder, {"params": ghn.params}, warn=pytest.fail
            ).description.step == 1  # fmt: skip
    checkpoints.close()
    run_checkpoints.Checkpoints(folder).close()
    assert sorted(os.listdir(folder)) == ["1", "3", "5.removed"]
    assert checkpoint.saved_steps(folder) == [1, 3]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no second file system")
def test_checkpoints_on_a_disk_of_their_own(tmp_path, ghn):
    """A damaged one is put aside beside the link, which takes a copy."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        (tmp_path / checkpoint.FOLDER).symlink_to(disk)
        for step in (1, 2):
            run_checkpoints.save(
                tmp_path / checkpoint.FOLDER, checkpoint.Description(SMALL, CIFAR10, step, {}), {"params": ghn.params}
            )
        (Path(disk) / "2" / "_CHECKPOINT_METADATA").write_text("{")
        said = []
        restored = run_checkpoints.restore_newest(tmp_path / checkpoint.FOLDER, {"params": ghn.params}, said.append)
        assert restored.description.step == 1 and os.listdir(disk) == ["1"]
        assert (tmp_path / "damaged" / "2" / "_CHECKPOINT_METADATA").read_text() == "{"
        assert len(said) == 1 and said[0].endswith(f"moved to {tmp_path / 'damaged' / '2'}")
