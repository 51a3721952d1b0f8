"""Nothing is removed but what this package wrote, and only regular files are read."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scripts
from small_runs import small_config

import ghn_jax
from ghn_jax.checks import files
from ghn_jax.checks.files import FileError, replacing
from ghn_jax.cli.common import CommandError
from ghn_jax.cli.main import main
from ghn_jax.evaluation import json_lines
from ghn_jax.training import loop
from ghn_jax.training.watch import rewind


def contents(folder):
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file() and path.name != files.MARK}


def write_folder(path, **texts):
    with replacing(path) as temporary:
        temporary.mkdir()
        for name, text in texts.items():
            (temporary / name).write_text(text)


def test_a_folder_replaces_only_what_was_written_here(tmp_path):
    write_folder(tmp_path / "out", a="1", b="2")
    write_folder(tmp_path / "out", a="3")
    assert contents(tmp_path / "out") == {"a": "3"}
    (tmp_path / "out" / "thesis").write_text("precious")
    with pytest.raises(FileError, match="stays as it is: this program did not write thesis in it"):
        write_folder(tmp_path / "out", a="4")
    assert contents(tmp_path / "out") == {"a": "3", "thesis": "precious"}
    (tmp_path / "own").mkdir()
    for name in ("own", "out"):
        with pytest.raises(FileError, match="stays as it is"), replacing(tmp_path / name) as temporary:
            temporary.write_text("a file")
    with pytest.raises(FileError, match="did not write it"):
        write_folder(tmp_path / "own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]  # no temporary ones


def test_devices_pipes_and_links(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "pipe", "/dev/null", "/dev/zero"):
        with pytest.raises(FileError, match="is a (named pipe|device)"):
            files.read_regular(path)
        with pytest.raises(FileError, match="is a (named pipe|device) and stays as it is"), replacing(path):
            pass
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new" and (tmp_path / "link").is_symlink()
    with pytest.raises(FileError, match="has 3 bytes, expected at most 2"):
        files.read_regular(tmp_path / "file", most=2)
    for path in ("pipe", "circle"):
        for suffix in ("", ".npz", ".pt", ".safetensors"):
            name = tmp_path / f"{path}{suffix}"
            if suffix:
                name.symlink_to(path)
            with pytest.raises(ghn_jax.GHNError):
                ghn_jax.load(name)


def test_a_limit_takes_no_memory(tmp_path):
    """Nothing is made room for but what a file has, however large it might be."""
    (tmp_path / "file").write_text("abc")
    tracemalloc.start()
    try:
        assert files.read_regular(tmp_path / "file", most=1 << 33) == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(FileError, match="has more than the 0 bytes that it says"):
        files.read_regular("/proc/self/stat")


def test_a_name_twice_is_no_json():
    for text in ('{"a": 1, "a": 1}', '[{"b": {"c": 1, "a": 2, "c": 3}}]'):
        with pytest.raises(ValueError, match="it has '[ac]' twice"):
            files.parse_json(text)
    many = ",".join(f'"{number}": 0' for number in range(100_000))
    with pytest.raises(ValueError, match="it has '99999' twice"):
        files.parse_json(f'{{{many}, "99999": 1}}')
    assert files.parse_json(f"{{{many}}}")["99999"] == 0


def test_the_command_line_overwrites_nothing_of_its_user(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "thesis").write_text("precious")
    for out in ("runs", "."):
        with pytest.raises(SystemExit, match="stays as it is"):
            main(["predict", "--arch=vit", f"--out={out}", "--overwrite"])
    assert contents(tmp_path) == {"thesis": "precious"}


@pytest.mark.parametrize(
    "command", ["plot .", "visualize --arch=vit", "visualize --arch=vit --out=vit.pdf", "deepnets describe --split=val"]
)
def test_pictures_replace_nothing_unasked(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "minutes": 1, "loss": 2.0, "accuracy": 0.5}\n')
    pictures = ("runs.png", "vit.png", "vit.pdf", "deepnets_val.png")
    for name in pictures:
        (tmp_path / name).write_text("precious")
    with pytest.raises(SystemExit, match=r"^--out=\w+\.(png|pdf) exists; --overwrite replaces it"):
        main(command.split())
    assert all((tmp_path / name).read_text() == "precious" for name in pictures)
    if "describe" not in command:
        main([*command.split(), "--overwrite"])
        assert sum((tmp_path / name).stat().st_size > 1000 for name in pictures) == 1


@pytest.mark.parametrize(
    ("script", "words", "name"),
    [
        ("evaluate_splits", "a=b --dataset=digits", "splits.png"),
        ("search", "x --dataset=digits", "search.md"),
        ("compare_architectures", "", "map.png"),
        ("few_shot", "--arch test/7", "few_shot.png"),
        ("detection", "--drawn=3 --arch test/7", "detection.md"),
        ("predict_properties", "x a=b", "properties.png"),
    ],
)
def test_studies_replace_nothing_of_their_user(script, words, name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("precious")
    module = scripts.load(f"experiments/{script}.py")
    monkeypatch.setattr(module, "use_compilation_cache", lambda: pytest.fail("it went on"))
    with pytest.raises(CommandError, match=f"{name} (stays as it is: --out=.* has no|exists; --overwrite)"):
        module.main([*words.split(), f"--out={tmp_path}"])
    assert contents(tmp_path) == {name: "precious"}


def test_a_run_replaces_no_picture_of_its_user(tmp_path):
    picture = tmp_path / loop.PICTURE
    picture.write_text("precious")
    with pytest.raises(FileError, match="training.png stays as it is: this program did not write it"):
        loop.train(small_config(tmp_path))
    assert picture.read_text() == "precious"


def test_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "training.lock"
    with files.locked(path), pytest.raises(FileError, match=f"is held by process {os.getpid()} on .*, since 20"):
        with files.locked(path):
            pass
    script = (
        f"import os\nfrom ghn_jax.checks.files import locked\nwith locked({str(path)!r}):\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == -9
    with files.locked(path):  # its owner is dead
        pass


def test_a_broken_line_costs_itself(tmp_path):
    path = tmp_path / "results.jsonl"
    for number in range(3):
        json_lines.append(path, {"step": number})
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "lo')  # a full disk
    json_lines.append(path, {"step": 4})
    path.write_bytes(
        path.read_bytes() + b"\xff\xfe\n[1]\n" + b"[" * 10**5 + b'\n{"note": 1}\n{"step": true}\n{"step": 5}'
    )
    before = path.read_bytes()
    assert [row["step"] for row in json_lines.resume(path, step=int)] == [0, 1, 2, 4, 5]
    assert path.read_bytes() == before
    rewind(path, 4)
    assert path.read_text().splitlines() == [
        '{"step": 0}', '{"step": 1}', '{"step": 2}', '{"step": 4}', '{"note": 1}', '{"step": true}'
    ]  # fmt: skip


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    json_lines.append(path, {"step": 0})
    script = (
        "import resource, signal, sys\nfrom ghn_jax.evaluation import json_lines\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        f"json_lines.append({str(path)!r}, {{'step': 1, 'text': 'x' * 50}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert path.read_text() == '{"step": 0}\n'


def test_arrays_that_claim_more_than_a_file_has(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(50_000_000, np.uint8))
    with pytest.raises(ghn_jax.CheckpointError, match="which claim to unpack to 50,000,"):
        ghn_jax.load_params(tmp_path / "zeros.npz")


def test_what_was_there_survives_a_failing_replacement(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", a="1")
    rename, names = Path.rename, []

    def fail_at_second(self, target):
        names.append(self.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", a="2")
    assert names == ["out", "out", "out.before"]
    assert contents(tmp_path) == {"a": "1"} and os.listdir(tmp_path) == ["out"]


def test_a_lock_replaces_nothing_of_its_user(tmp_path):
    lock, thesis = tmp_path / "training.lock", tmp_path / "thesis"
    thesis.write_text("precious")
    lock.symlink_to(thesis)
    with pytest.raises(FileError, match="stays as it is: this program did not write it"), files.locked(lock):
        pass
    assert thesis.read_text() == "precious"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(FileError, match="is a named pipe, expected a regular file"), files.locked(lock):
        pass
    lock.unlink()
    lock.write_text("process 1 on elsewhere, since 2020-01-01 00:00:00: " + "x" * 1000)
    for _ in range(2):
        with files.locked(lock):
            assert lock.read_text().startswith(f"process {os.getpid()} on ")


def test_a_lock_on_a_full_disk(tmp_path):
    script = (
        "import resource, signal\nfrom ghn_jax.checks import files\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nwith files.locked({str(tmp_path / 'lock')!r}):\n    pass"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "lock").read_text() == ""


WRITER = """
import os, sys, time
from pathlib import Path
from ghn_jax.checks import files

def end():
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    print("writes", flush=True)
    time.sleep(100)

if sys.argv[3:]:  # between the two renamings
    rename, names = Path.rename, []
    def rename_once(self, target):
        names.append(self)
        return rename(self, target) if len(names) == 1 else end()
    Path.rename = rename_once
with files.replacing(sys.argv[1]) as temporary:
    temporary.mkdir()
    (temporary / "new").write_text("half")
    if not sys.argv[3:]:
        end()
"""


def die_writing(*words):
    assert subprocess.run([sys.executable, "-c", WRITER, str(words[0]), "dies", *words[1:]]).returncode == -9


@pytest.fixture
def living_writer(tmp_path):
    """The temporary folder of a process that is writing `out`, and goes on."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out"), "lives"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writes\n"
        (folder,) = tmp_path.iterdir()
        yield folder
        writer.kill()


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    out, beside = tmp_path / "out", tmp_path / "out.b"
    die_writing(out)
    die_writing(beside)
    assert all(path.name.startswith(".out.") for path in tmp_path.iterdir())
    write_folder(out, a="1")
    (left,) = (path for path in tmp_path.iterdir() if path != out)
    assert left.name.startswith(".out.b.") and contents(out) == {"a": "1"}  # of another target
    write_folder(beside, a="2")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.b"]


def test_a_folder_that_a_killed_process_had_moved_away_comes_back(tmp_path):
    out = tmp_path / "out"
    write_folder(out, a="1")
    die_writing(out, "between")
    assert not out.exists()
    with pytest.raises(ZeroDivisionError), replacing(out):
        raise ZeroDivisionError
    assert contents(out) == {"a": "1"} and os.listdir(tmp_path) == ["out"]


def test_nothing_of_living_processes_and_of_users_is_removed(tmp_path, living_writer):
    out = tmp_path / "out"
    die_writing(out)
    (dead,) = (path for path in tmp_path.iterdir() if path != living_writer)
    (dead / "thesis").write_text("precious")
    for name, text in (("aaaaaaaa", None), ("bbbbbbbb", ""), ("cccccccc", "process 1 on elsewhere, since 2020")):
        folder = tmp_path / f".out.{name}.new"
        folder.mkdir()
        (folder / "out").write_text("precious")
        if text is not None:
            (folder / files._WRITER).write_text(text)
    (tmp_path / ".out.dddddddd.new").symlink_to(dead)
    before = set(os.listdir(tmp_path))
    write_folder(out, a="1")
    assert set(os.listdir(tmp_path)) == {*before, "out"} and (dead / "thesis").read_text() == "precious"
    (dead / "thesis").unlink()
    write_folder(out, a="2")
    assert set(os.listdir(tmp_path)) == {*before, "out"} - {dead.name}
