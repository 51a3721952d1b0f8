"""The console command: help, errors, pipes, and what it imports."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import scripts

from ghn_jax.checks.files import FileError, replacing
from ghn_jax.cli.common import CommandError, load_setting, make_parser, refuse_foreign
from ghn_jax.cli.main import COMMANDS, main
from ghn_jax.cli.train import read_config
from ghn_jax.errors import GHNError
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import GraphError
from ghn_jax.training.config import from_fields
from ghn_jax.weights import pretrained

ROOT = scripts.ROOT
SCRIPTS = ROOT / "experiments"
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
BY_ML_COLLECTIONS = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "ghn_jax", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    output = capsys.readouterr()
    assert end.value.code in (0, None) and output.err == ""
    assert f"ghn-jax {name}" in output.out


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
    *_, summary, forecast = done.stdout.splitlines()
    assert done.returncode == 0 and "seen 161 tensors (100.0%)" in summary and forecast.startswith("forecast: ")
    done = run("report", "--arch=resnet51")
    assert done.returncode == 1 and done.stderr.startswith("no architecture 'resnet51': expected")
    assert len(done.stderr.splitlines()) == 1


def test_help_does_not_wait_for_jax():
    code = "import sys; from ghn_jax.cli import main; main.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_unknown_words_have_one_line():
    for words in (("xyz",), ("--xyz",), ("deepnets", "--xyz")):
        done = run(*words)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and repr(" ".join(words)) in line and "deepnets describe" in line


@BY_ML_COLLECTIONS
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which run? Give --config=configs/cifar.py (or cifar_cpu.py, cifar_cpu_more.py, digits.py, "),
        (["--config=nothing.py"], "--config=nothing.py: there is no such file, expected configs/cifar.py"),
        (["--config=setup.cfg"], "--config=setup.cfg: expected a configuration"),
        (["--config=no_such_file.py"], "--config=no_such_file.py: there is no such file"),
        (["--config=configs/smoke.py", "--config.stepz=3"], "config has no field 'stepz'; did you mean 'steps'?"),
        (["--config=configs/smoke.py", "--config.steps=x"], "flag --config.steps=x: invalid literal for int()"),
        (["--config=configs/smoke.py", "--config.steps=0"], "config.steps=0: expected an integer from 1"),
        (["--config=configs/smoke.py", "--steps=3"], "Unknown command line flag 'steps'"),
        (["--config=configs/smoke.py", "more"], "unknown arguments more"),
    ],
)
def test_a_training_that_cannot_begin(monkeypatch, words, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=re.escape(message)) as stopped:
        main(["train", *words])
    assert isinstance(stopped.value.code, str) and len(stopped.value.code.splitlines()) == 1


@BY_ML_COLLECTIONS
def test_a_configuration_and_its_overrides(monkeypatch):
    """Read as `ml_collections.config_flags` reads them, any number of times in one process."""
    monkeypatch.chdir(ROOT)
    for steps in (7, 8):
        fields = read_config("configs/smoke.py", [f"--config.steps={steps}", "--config.decay_at=(0.5, 0.8)"])
        config = from_fields(fields)
        assert config.steps == steps and config.decay_at == (0.5, 0.8) and config.dataset == "digits"


@BY_ML_COLLECTIONS
@pytest.mark.parametrize("name", ["fixed_width", "max_multiply_adds", "max_minutes", "small_images"])
def test_a_field_is_set_to_none_where_the_file_has_a_number(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "all.py").write_text(
        "from ghn_jax.training.config import config_dict\n"
        "def get_config():\n"
        "    return config_dict(dataset='digits', workdir='w', steps=3, fixed_width=32, max_multiply_adds=10**6,\n"
        "                       max_minutes=2.0, small_images=4)\n"
    )
    path = str(tmp_path / "all.py")
    assert getattr(from_fields(read_config(path, [])), name) is not None
    assert getattr(from_fields(read_config(path, [f"--config.{name}=None"])), name) is None


@BY_ML_COLLECTIONS
@pytest.mark.parametrize(
    "words, message",
    [
        (["--config.steps=None"], "config.steps=None: expected"),
        (["--config.stepz=None"], "stepz"),
        (
            ["--config.fixed_width=None", "--config.fixed_width=32"],
            "--config.fixed_width: given twice, expected one value",
        ),
    ],
)
def test_a_field_that_cannot_be_none(words, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(GHNError, match=re.escape(message)):
        from_fields(read_config("configs/smoke.py", words))


@BY_ML_COLLECTIONS
def test_a_configuration_that_fails(tmp_path):
    (tmp_path / "bad.py").write_text("mine\n")
    with pytest.raises(CommandError, match="expected a configuration, .*NameError: name 'mine'"):
        read_config(str(tmp_path / "bad.py"), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate --arch=", "--arch=: given without a value"),
        ("evaluate --arch=vit --num=5", "--num=5 is for a split, --arch=vit is one architecture"),
        ("evaluate --split=wide --num=101", "expected at most 100, the networks of wide"),
        ("evaluate --noise=nan", "expected a number from 0 to 1"),
        ("predict --arch=vit --overwrite", "expected --out too"),
        ("embed --arch=vit --overwrite", "expected --out too"),
        ("import x.pt --dataset=cifar10", "expected --out too"),
        ("deepnets describe --compare_split=val", "expected --compare too"),
        ("train --config=configs/smoke.py --num_processes=2", "expected --coordinator=HOST:PORT too"),
        ("train --config=configs/smoke.py --process=1", "expected --coordinator=HOST:PORT too"),
        ("train --config=configs/smoke.py --coordinator=h:1 --num_processes=2 --process=2", "expected 0 to 1"),
        ("train --config=configs/smoke.py --coordinator=h", "--coordinator=h: expected HOST:PORT"),
    ],
)
def test_options_that_would_be_ignored(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_of_two_lists_none_is_left_out(capsys):
    parser = make_parser("lists")
    parser.add_argument("--splits", nargs="+")
    parser.add_argument("--num", type=int)
    words = ["--splits", "test", "wide", "--num=1", "--num=2"]
    for _ in range(2):
        args = parser.parse_args([*words, "--splits", "test", "wide"])
        assert args.splits == ["test", "wide"] and args.num == 2  # the last number counts, as usual
    with pytest.raises(SystemExit):
        parser.parse_args([*words, "--splits", "deep"])
    assert "--splits: given twice, as ['test', 'wide'] and ['deep']: expected one list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["evaluate --arch=vit --num_images=8 --dataset=digits", "predict --arch=vit --overwrite"]
)
def test_places_that_cannot_be_written_are_refused_before_any_work(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match="cannot be written: Not a directory|a file and a folder do not replace"):
        main([*words.split(), "--out=file"])
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]


def test_studies_refuse_such_places_too(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written: Not a directory"):
        refuse_foreign(tmp_path / "file", "networks.jsonl")


def test_a_hypernetwork_and_images_that_fit(tmp_path):
    config = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)
    pretrained.write(tmp_path / "ten.npz", GHN.init(config, 0), {"dataset": "digits"})
    setting = load_setting(str(tmp_path / "ten.npz"), None, None)
    assert setting.dataset.name == "digits" and setting.dataset.task == setting.task
    pretrained.write(tmp_path / "two.npz", GHN.init(dataclasses.replace(config, num_classes=2), 0), {})
    with pytest.raises(CommandError, match="two.npz does not say what it was trained on: give --dataset"):
        load_setting(str(tmp_path / "two.npz"), None, None)
    with pytest.raises(
        CommandError, match=r"^digits is for Task\(num_classes=10, .* networks for Task\(num_classes=2, "
    ):
        load_setting(str(tmp_path / "two.npz"), "digits", None)


@pytest.mark.parametrize("command", ["plot nothing", "visualize --arch=resnet50", "deepnets describe"])
def test_pictures_have_known_formats(capsys, command):
    with pytest.raises(SystemExit):
        main([*command.split(), "--out=picture.xyz"])
    assert "picture.xyz: expected a name ending in .png, .pdf" in capsys.readouterr().err


def test_results_appear_when_they_are_complete(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert temporary.suffix == ".txt" and not path.exists()
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("second")
        raise ZeroDivisionError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "folder") as temporary:
        temporary.write_text("a file does not replace a folder")
    assert (tmp_path / "folder").is_dir()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141), (GraphError("a graph"), "a graph")]
)
def test_a_program_ends_without_a_traceback(error, code):
    script = "from ghn_jax.cli.common import clean_exit\nfrom ghn_jax.graphs.graph import GraphError\n"
    name = error.__name__ if isinstance(error, type) else repr(error)
    done = subprocess.run(
        [sys.executable, "-c", f"{script}with clean_exit():\n    raise {name}"], capture_output=True, text=True
    )
    assert done.returncode == (1 if code == "a graph" else code)
    assert done.stderr == {130: "interrupted\n", 141: "", "a graph": "a graph\n"}[code]


def test_scripts_are_thin():
    assert {path.name for path in SCRIPTS.glob("*.py") if len(path.read_text().splitlines()) >= 110} == set()


@pytest.mark.parametrize(
    "name", ["predict", "make_deepnets", "compare_runs", "evaluate_splits", "fine_tune", "graph_use"]
)
def test_scripts_explain_themselves(name):
    words = [sys.executable, SCRIPTS / f"{name}.py", "--help"]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        "report --model=a:b --input={}x3", "report --model=a:b --input=1:{}", "report --model=a:b --input=1 --arg={}",
        "report --model={} --input=1", "report --arch={}", "report --arch={}.json", "evaluate --num_images={}",
        "predict --arch=vit --out={}", "report --model=a:b --input=1:O", "report --model=a:b --input=1:f4,f4",
    ],
)  # fmt: skip
def test_long_words_make_short_messages(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words.format("9" * 10**6).replace("--model=9", "--model=m9").replace("--arch=9", "--arch=m9").split(" "))
    said = str(stopped.value.code) + capsys.readouterr().err
    assert 10 < len(said) < 8000


@BY_ML_COLLECTIONS
def test_configurations_that_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    os.mkfifo(tmp_path / "pipe.py")
    for path in (tmp_path, tmp_path / "pipe.py", "/dev/zero"):
        with pytest.raises(SystemExit, match=r"expected a configuration, .* is a (folder|named pipe|device)"):
            main(["train", f"--config={path}"])
    with pytest.raises(SystemExit, match="config has no field 'steps.x'; did you mean 'steps'"):
        main(["train", "--config=configs/digits.py", "--config.steps.x=1"])
    with pytest.raises(SystemExit, match="can be no file: embedded null byte"):
        main(["predict", "--arch=vit", "--out=a\0b.npz"])
