"""The console command: help, errors, pipes, and what it imports."""

import os
import subprocess
import sys

import pytest

from ghn_jax.cli.main import COMMANDS

ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "ghn_jax", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name):
    done = run(*name.split(), "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"ghn-jax {name}" in done.stdout


def test_help_of_all_and_of_a_group():
    for words in ((), ("--help",)):
        done = run(*words)
        assert done.returncode == 0 and all(f"\n  {name} " in done.stdout for name in COMMANDS)
    done = run("deepnets")
    assert "deepnets make" in done.stdout and "evaluate" not in done.stdout


@pytest.mark.parametrize(
    ("words", "meant"), [(("evalute",), "evaluate"), (("deepnets", "mak"), "deepnets make")], ids=["one", "two"]
)
def test_unknown_commands(words, meant):
    done = run(*words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert f"no command {' '.join(words)!r}; did you mean {meant!r}?" in line


def test_models_into_a_closed_pipe():
    done = run("models")
    assert done.returncode == 0 and done.stdout.splitlines()[0].split() == [
        *("name", "kind", "data", "set", "steps", "accuracy")
    ]
    line = f"{sys.executable} -m ghn_jax report --arch=resnet50 | head -1"
    piped = subprocess.run(["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert piped.stdout.split() == ["parameter", "shape", "node"] and piped.stderr == ""


def test_report():
    done = run("report", "--arch=resnet50")
    assert done.returncode == 0 and "seen 161 tensors (100.0%)" in done.stdout.splitlines()[-1]
    done = run("report", "--arch=resnet51")
    assert done.returncode == 1 and done.stderr.startswith("no architecture is called 'resnet51'")
    assert len(done.stderr.splitlines()) == 1


def test_help_does_not_wait_for_jax():
    code = "import sys; from ghn_jax.cli import main; main.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
