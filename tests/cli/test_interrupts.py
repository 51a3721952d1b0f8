"""Ctrl-C in a program, at any moment: no traceback, nothing half written, and the second one ends it."""

import ast
import os
import signal
import subprocess
import sys
import time

import pytest
import scripts

from ghn_jax.checks.files import FileError, refuse_unwritable
from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.main import main
from ghn_jax.errors import GHNError

PROGRAM = """
import os, signal
import ghn_jax
# What runs in the background of a shell inherits that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.write(1, b".")
from ghn_jax.__main__ import main
main({words})
"""


def interrupted(words, folder, seconds, cache):
    """Output, exit status, and the seconds that a program lived on after the last Ctrl-C of two.

    Args:
      seconds: from the beginning to the first Ctrl-C.
      cache: where compiled programs are kept.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(words=words)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert os.read(process.stdout.fileno(), 1) == b"."
        time.sleep(seconds)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            try:
                process.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                continue
        output = process.communicate(timeout=100)[0].decode()
        return output, process.returncode, time.monotonic() - sent


@pytest.mark.processes
@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5, 1, 2, 4, 7, 11])
def test_predicting(seconds, tmp_path):
    out = tmp_path / "out" / "params.npz"
    words = ["predict", "--arch=resnet50", f"--out={out}"]
    output, status, lived = interrupted(words, tmp_path, seconds, tmp_path / "cache")
    assert "Traceback" not in output and "Exception ignored" not in output, output
    assert status in (-signal.SIGINT, 128 + signal.SIGINT, 0) and lived < 2, output
    assert not out.parent.exists() or list(out.parent.iterdir()) in ([], [out])


@pytest.mark.processes
@pytest.mark.parametrize("seconds", [0.1, 1, 3, 6, 10, 16, 24, 32])
def test_training(seconds, tmp_path):
    words = ["train", "--config=configs/digits.py", "--config.workdir=run"]
    output, status, lived = interrupted(words, tmp_path, seconds, tmp_path / "cache")
    assert "Traceback" not in output and "Exception ignored" not in output, output
    assert status in (-signal.SIGINT, 128 + signal.SIGINT) and lived < 2, output


def test_a_signal_of_the_import_is_no_exception(tmp_path):
    output, status, _ = interrupted(["models"], tmp_path, 0.05, tmp_path)
    assert (output, status) in [("", -signal.SIGINT), ("interrupted\n", 130)]


@pytest.mark.parametrize("out", ["/proc/x", "/proc/a/b/x.npz", "/dev/full/x.npz"])
def test_a_place_where_nothing_can_be_written(out, monkeypatch, capsys):
    with pytest.raises(FileError, match=f"{out} cannot be written: .* in /"):
        refuse_unwritable(out)
    monkeypatch.setattr("ghn_jax.cli.predict.load_hypernetwork", lambda what: pytest.fail("it went on"))
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--arch=resnet50", f"--out={out}"])
    assert f"{out} cannot be written" in ended.value.code


def test_a_place_that_can_be_written_stays_as_it_was(tmp_path):
    refuse_unwritable(tmp_path / "new" / "folder" / "x.npz")
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import ghn_jax.cli.script
import os, threading, time
def main():
    threading.Thread(target=time.sleep, args=(60,)).start()  # a compiler
    os.write(1, b"main ")
    time.sleep(60)
os.write(1, b"imports ")
{imports}
ghn_jax.cli.script.run(main)
"""


def started(script, *words):
    """A process that runs a script and hears Ctrl-C, which the shell of a background job switches off."""
    heard = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = f"sys.argv = {[str(script), *words]!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    command = [sys.executable, "-c", f"{heard}; {run}"]
    return subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(
    ("imports", "before", "after", "status"),
    [
        ("time.sleep(60)", "imports ", "", -signal.SIGINT),
        ("", "imports main ", "interrupted\n", 128 + signal.SIGINT),
    ],
)
def test_a_script(imports, before, after, status, tmp_path):
    """While it imports, and while a thread compiles."""
    script = tmp_path / "experiments" / "one.py"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(imports=imports))
    with started(script) as process:
        output = ""
        while output != before:
            output += os.read(process.stdout.fileno(), 100).decode()
        process.send_signal(signal.SIGINT)
        output += process.communicate(timeout=20)[0].decode()
    assert (output, process.returncode) == (before + after, status)


LOSES = """
import ghn_jax.cli.script
import os, time
class Slow:
    def __del__(self):
        os.write(1, b"ready ")
        time.sleep({seconds})
def main():
    Slow()
    time.sleep(60)
ghn_jax.cli.script.run(main)
"""


@pytest.mark.parametrize(("seconds", "times", "after"), [(1, 1, "interrupted\n"), (60, 2, "")])
def test_it_is_not_lost_in_a_finalizer(seconds, times, after, tmp_path):
    """Whose exceptions Python drops; JAX has the garbage collector call such functions."""
    script = tmp_path / "experiments" / "one.py"
    script.parent.mkdir()
    script.write_text(LOSES.format(seconds=seconds))
    with started(script) as process:
        output = os.read(process.stdout.fileno(), 100).decode()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        output += process.communicate(timeout=20)[0].decode()
    assert (output, process.returncode) == ("ready " + after, 128 + signal.SIGINT)


@pytest.mark.parametrize("path", sorted((scripts.ROOT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_begins_and_ends_so(path):
    imported, *_ = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    if ast.unparse(imported) == "import ghn_jax.cli.script":
        assert path.read_text().endswith("\n    ghn_jax.cli.script.run(main)\n")
    else:
        assert "from ghn_jax.__main__ import main" in path.read_text()  # a command of ghn-jax


@pytest.mark.processes
@pytest.mark.parametrize("seconds", [1, 3, 8, 15])
def test_few_shot(seconds, tmp_path):
    words = ["--dataset=digits", "--arch=test/7", "--per_class=2", "--epochs=2", "--seeds=0", "--test_images=64"]
    with started(scripts.ROOT / "experiments" / "few_shot.py", *words, f"--out={tmp_path}/out") as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=5)[0].decode()
    assert "Traceback" not in output and "ignored" not in output, output
    assert process.returncode in (0, -signal.SIGINT, 128 + signal.SIGINT)


def test_a_program_without_standard_output(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as `>&-` leaves it
    with clean_exit():
        print("nobody reads this")
    with pytest.raises(SystemExit, match="no such thing"), clean_exit():
        raise GHNError("no such thing")
