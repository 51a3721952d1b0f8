"""What is compiled is kept on disk; damage and want of room are said once and cost nothing but time."""

import os
import subprocess
import sys

import pytest

from ghn_jax.runtime import Entries

WORKER = """
import resource, signal, sys
if len(sys.argv) > 1:  # a disk that is nearly full
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import jax, jax.numpy as jnp
from ghn_jax.runtime import use_compilation_cache
use_compilation_cache()
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rsplit("/")[-1]))
for factor in (3, 4, 5):
    assert jax.jit(lambda x: x @ x * factor)(jnp.ones((2, 2), jnp.float32))[0, 0] == 2 * factor
print(found.count("cache_hits"), found.count("compile_requests_use_cache"))
"""


def compile_in_a_process(home, largest_file=None):
    """Programs found in the cache below `home`, programs asked for, and the lines on stderr."""

    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORKER, *([] if largest_file is None else [str(largest_file)])],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    hits, asked = map(int, done.stdout.split())
    return hits, asked, done.stderr.splitlines()


def test_damaged_entries_are_compiled_again_and_said_once(tmp_path):
    hits, asked, lines = compile_in_a_process(tmp_path)
    assert hits < asked and lines == []
    files = sorted((tmp_path / "ghn_jax" / "xla").iterdir())
    assert len(files) == asked - hits >= 3 and {file.suffix for file in files} == {".program"}
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(whole[1][: len(whole[1]) // 2])
    files[2].write_bytes(whole[2][:50] + bytes([whole[2][50] ^ 1]) + whole[2][51:])
    hits, asked, (line,) = compile_in_a_process(tmp_path)
    assert hits == asked - 3
    assert line.startswith("ghn_jax: ") and line.endswith("is damaged: it is compiled again, and so are others like it")
    assert any(str(file) in line for file in files[:3])
    assert compile_in_a_process(tmp_path) == (asked, asked, [])
    assert sorted((tmp_path / "ghn_jax" / "xla").iterdir()) == files


def test_a_full_disk_is_said_once_and_leaves_nothing_behind(tmp_path):
    hits, asked, (line,) = compile_in_a_process(tmp_path, largest_file=1000)
    folder = tmp_path / "ghn_jax" / "xla"
    assert line.startswith(f"ghn_jax: no more compiled programs are kept in {folder}: ")
    assert hits < asked and list(folder.iterdir()) == []


@pytest.mark.parametrize("blocked", ["ghn_jax", "ghn_jax/xla"])
def test_a_folder_that_cannot_be_made_is_said_once(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file in the place of the folder")
    hits, _, (line,) = compile_in_a_process(tmp_path)
    assert hits == 0
    assert line.startswith("ghn_jax: no compiled programs are kept: ") and str(tmp_path / "ghn_jax" / "xla") in line


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in ("a.31.140", "b.32.140", "c.program", "note.1.txt"):
        (tmp_path / name).write_bytes(b"half")
        if name != "b.32.140":  # which a process may be writing
            os.utime(tmp_path / name, (0, 0))
    entries = Entries(tmp_path)
    entries.put("one", b"1")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.32.140", "c.program", "note.1.txt", "one.program"]


def test_entries(tmp_path, capsys):
    entries = Entries(tmp_path)
    assert entries.get("one") is None
    entries.put("one", b"1")
    entries.put("one", b"2")  # what cannot be loaded is replaced
    assert entries.get("one") == b"2" and [file.name for file in tmp_path.iterdir()] == ["one.program"]
    for damage in (b"", b"\0\0\0\0", b"2", b"2\0\0\0\0\0"):
        (tmp_path / "one.program").write_bytes(damage)
        assert entries.get("one") is None
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_that_cannot_be_read_or_written_is_said_once(tmp_path, capsys):
    entries = Entries(tmp_path)
    (tmp_path / "one.program").mkdir()
    assert entries.get("one") is None
    entries.put("two", b"2")
    assert entries.get("two") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ghn_jax: no more compiled programs are kept in {tmp_path}: ")
