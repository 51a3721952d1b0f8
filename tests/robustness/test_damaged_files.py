"""Hundreds of damaged files of every kind, read by a process that may take a gigabyte more than it begins with."""

import os
import subprocess
import sys

import scripts


def test_damaged_files_are_refused_in_our_own_words(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(scripts.ROOT), str(scripts.ROOT / "tests" / "support")])
    worker = scripts.ROOT / "tests" / "support" / "damaged_files.py"
    done = subprocess.run(
        [sys.executable, str(worker), "--rounds=40"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *wrong, last = done.stdout.splitlines()
    assert not wrong, "\n".join(wrong)
    assert int(last.removeprefix("refused ")) > 200
