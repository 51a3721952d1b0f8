"""The same meta-batch on one device, on eight, and on two processes with two devices each."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import scripts

from ghn_jax.weights import checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("parallel")]  # the run on one device is made once
WORKER = scripts.ROOT / "tests" / "support" / "parallel_worker.py"


def start(workdir, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, str(WORKER), f"--workdir={workdir}", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes):
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)


def free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    finish(start(workdir))
    return workdir


def check_same_run(workdir, reference):
    rows, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workdir, reference)
    )
    for row, known in zip(rows, expected, strict=True):
        assert sorted(row["architectures"]) == sorted(known["architectures"]) == list(range(8))
        by_number, known_by_number = (dict(zip(r["architectures"], r["losses"], strict=True)) for r in (row, known))
        assert [by_number[i] for i in range(8)] == pytest.approx([known_by_number[i] for i in range(8)], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(known["grad_norm"], rel=1e-4)
        assert row["balance"] >= 1
    mine, theirs = (checkpoint.load_ghn(folder).params for folder in (workdir, reference))
    # Adam divides by the gradient's size: where that is nearly zero, rounding decides about a step of 1e-3.
    different = [np.abs(a - b) > 2e-5 for a, b in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True)]
    assert sum(d.sum() for d in different) < 0.01 * sum(d.size for d in different)


def test_eight_devices(one_device, tmp_path):
    finish(start(tmp_path, "--devices=8"))
    check_same_run(tmp_path, one_device)


def test_two_processes(one_device, tmp_path):
    common = ("--devices=2", f"--coordinator=localhost:{free_port()}", "--processes=2")
    finish(*(start(tmp_path, *common, f"--process={process}") for process in range(2)))
    check_same_run(tmp_path, one_device)


def test_processes_that_disagree(tmp_path):
    common = ("--coordinator=" + f"localhost:{free_port()}", "--processes=2")
    processes = [start(tmp_path, *common, f"--process={process}", f"--seed={process}") for process in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    for output in outputs:
        assert "processes [1] run another configuration than process 0" in output
