"""Runs that are killed, interrupted or damaged go on to the parameters of a run that was left alone."""

import json
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import scripts
from orbax.checkpoint import v1 as ocp

from ghn_jax.evaluation.json_lines import read
from ghn_jax.training.watch import rewind
from ghn_jax.weights import checkpoint

# Reads that Orbax leaves behind where one of them failed end when its event loop is gone, at any time later.
pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("resume"),  # the runs that all of them compare with are made once
]

WORKER = scripts.ROOT / "tests" / "support" / "resume_worker.py"
STEPS = 14


def start(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, "-u", str(WORKER), f"--workdir={workdir}", f"--steps={STEPS}", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def kill_after(process, steps, number=signal.SIGKILL):
    """Sends a signal after so many more steps (and validations); False if the run ended before."""
    reported = 0
    for line in process.stdout:
        if "metrics.jsonl" in line:
            reported += 1
            if reported == steps:
                process.send_signal(number)
                return True
    process.wait()
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(workdir))
    return workdir


def newest(workdir):
    folder = workdir / checkpoint.FOLDER
    path = folder / str(checkpoint.saved_steps(folder)[-1])
    like = jax.eval_shape(lambda: checkpoint.load_ghn(path).params)
    return checkpoint.describe(path), checkpoint.load_arrays(path, {"params": like})


def check_same(workdir, undisturbed):
    """Parameters, position and every line of metrics but for times."""
    (description, arrays), (known, known_arrays) = newest(workdir), newest(undisturbed)
    assert description.step == known.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, arrays, known_arrays)
    assert {**description.progress, "minutes": 0} == {**known.progress, "minutes": 0}
    rows, known_rows = (list(read(folder / "metrics.jsonl")) for folder in (workdir, undisturbed))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row, known_row in zip(rows, known_rows, strict=True):
        for field in ("architectures", "losses", "loss", "accuracy", "grad_norm", "skipped"):
            assert row[field] == known_row[field], (row["step"], field)
    assert np.all(np.diff([row["minutes"] for row in rows]) >= 0)


def test_killed_at_random_moments(undisturbed, tmp_path):
    rng = random.Random(0)
    kills = 0
    for _ in range(3):
        process = start(tmp_path)
        killed = kill_after(process, rng.randint(2, 5))
        process.communicate()
        kills += killed
    output = finish(start(tmp_path))
    assert kills == 3 and "going on after step" in output
    check_same(tmp_path, undisturbed)
    again = finish(start(tmp_path))
    assert f"all {STEPS} steps are made already" in again
    check_same(tmp_path, undisturbed)


def test_asked_to_stop(undisturbed, tmp_path):
    process = start(tmp_path)
    assert kill_after(process, 4, signal.SIGTERM)
    output = process.communicate(timeout=100)[0]
    assert "stopping after this step" in output
    step = newest(tmp_path)[0].step
    assert f"ended {step} {signal.SIGTERM.value}" in output  # nothing of what was done is lost
    assert len(list(read(tmp_path / "metrics.jsonl"))) == step
    finish(start(tmp_path))
    check_same(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("killed")
    process = start(workdir)
    assert kill_after(process, 12)
    process.communicate()
    return workdir


def test_disk_full(undisturbed, killed, tmp_path):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    kept = checkpoint.saved_steps(tmp_path / checkpoint.FOLDER)
    process = start(tmp_path, "--largest_file=20000")
    output = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert "Event loop is closed" not in output, output
    assert "CheckpointError" in output and f"the newest complete one is of step {kept[-1]}" in output, output
    assert checkpoint.saved_steps(tmp_path / checkpoint.FOLDER) == kept
    finish(start(tmp_path))
    check_same(tmp_path, undisturbed)


def damage_values(path):
    for file in path.glob("state/**/d/*"):
        file.write_bytes(file.read_bytes()[:50])


def damage_description(path):
    (path / "_CHECKPOINT_METADATA").write_text("{")


def damage_all(path):
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize("damage", [damage_values, damage_description, damage_all])
def test_damaged_checkpoints_fall_back(undisturbed, killed, tmp_path, damage):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    steps = checkpoint.saved_steps(tmp_path / checkpoint.FOLDER)
    assert len(steps) >= 2
    path = tmp_path / checkpoint.FOLDER / str(steps[-1])
    damage(path)
    output = finish(start(tmp_path))
    assert f"moved to {tmp_path / 'damaged' / str(steps[-1])}" in output
    assert f"going on after step {steps[-2]}" in output
    check_same(tmp_path, undisturbed)


def test_all_checkpoints_damaged(killed, tmp_path):
    """Nothing is begun again without being asked for."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    steps = checkpoint.saved_steps(tmp_path / checkpoint.FOLDER)
    for step in steps:
        damage_description(tmp_path / checkpoint.FOLDER / str(step))
    process = start(tmp_path)
    assert "can be read; remove the folder to begin again" in process.communicate(timeout=100)[0]
    assert checkpoint.saved_steps(tmp_path / checkpoint.FOLDER) == steps


def test_flipped_bits_never_go_unnoticed(undisturbed, tmp_path):
    """Every file of a checkpoint, a bit here and there: what is read is right, or it is an error."""
    folder = undisturbed / checkpoint.FOLDER
    source = folder / str(checkpoint.saved_steps(folder)[-1])
    stored = ocp.metadata(source).metadata
    like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), stored)
    arrays = checkpoint.load_arrays(source, like)
    rng, refused = random.Random(0), 0
    everything = [file for file in (source / "state").rglob("*") if file.is_file()]
    everything.sort(key=lambda file: -file.stat().st_size)  # their names are drawn anew by every run
    files = [file.relative_to(source) for file in everything if file.name != "commit_success.txt"]  # that nobody reads
    for number in range(32):
        shutil.copytree(source, path := tmp_path / str(number))
        file = path / files[number % len(files)]
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            read_back = checkpoint.load_arrays(path, like)
        except checkpoint.CheckpointError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, read_back, arrays)
    assert refused > 5


def test_values_that_are_not_those_saved(undisturbed, tmp_path):
    """Where Orbax sees no damage, the hash of an array does."""
    folder = undisturbed / checkpoint.FOLDER
    shutil.copytree(folder / str(checkpoint.saved_steps(folder)[-1]), path := tmp_path / "1")
    about = path / "_CHECKPOINT_METADATA"
    fields = json.loads(about.read_text())
    name = next(name for name in sorted(fields["custom_metadata"]["digests"]) if name.startswith("params/"))
    fields["custom_metadata"]["digests"][name] = "0" * 32
    del fields["custom_metadata"]["digest"]
    about.write_text(json.dumps(fields))
    with pytest.raises(checkpoint.CheckpointError, match=f"array {name} is damaged"):
        checkpoint.load_ghn(path)


def test_another_configuration_is_refused(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    process = start(tmp_path / "run", "--seed=1")
    output = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert "has a run of another configuration: seed was 0, is 1" in output


def test_rewind(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rewind(path, 3)
    assert not path.exists()
    lines = [json.dumps({"step": step, "loss": 0.1 * step}) for step in range(1, 6)]
    path.write_text("\n".join(lines) + '\n{"step": 6, "lo')
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4, 5]
    rewind(path, 3)
    assert path.read_text() == "\n".join(lines[:3]) + "\n"
