"""Results files with foreign rows, and options of scripts that make no sense: one error of ours, before long work."""

import json
import os

import pytest
import scripts

import ghn_jax
from ghn_jax.cli import model, pack
from ghn_jax.cli.common import CommandError
from ghn_jax.deepnets.sampler import SplitError
from ghn_jax.errors import GHNError
from ghn_jax.evaluation import json_lines
from ghn_jax.studies import evaluate_splits, fit_forecast, judge_starts, properties, train_networks
from ghn_jax.studies.train_networks import MEASURED_FIELDS, StudyError
from ghn_jax.training import plot
from ghn_jax.training.watch import rewind

ROW = {
    **{"split": "val", "number": 3, "start": "he", "accuracy": {"5": 0.25, "20": 0.5}, "noisy_accuracy": {"20": 0.4}},
    **{"train_accuracy": [0.1, 0.9], "parameters": 10, "multiply_adds": 100},
}


@pytest.mark.parametrize(
    "foreign",
    [
        {"split": "valid"},
        {"number": -1},
        {"number": 0.0},
        {"number": 10**30},
        {"start": "warm"},
        {"accuracy": {"last": 0.5}},
        {"accuracy": {"020": 0.5}},
        {"accuracy": {"20": 10**400}},
        {"accuracy": {"20": "0.5"}},
        {"accuracy": {"20": float("nan")}},
        {"accuracy": {"20": 47.3}},
        {"accuracy": [0.5]},
        {"noisy_accuracy": None},
        {"train_accuracy": [True]},
        {"train_accuracy": []},
        {"parameters": "10"},
        {"multiply_adds": 1e9},
    ],
)
def test_a_foreign_row_costs_itself_only(foreign, tmp_path):
    path = tmp_path / "networks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROW | foreign, ROW, {"split": "val"})))
    assert list(json_lines.read(path, **MEASURED_FIELDS)) == [ROW]


def test_rows_of_other_numbers_and_accuracies_are_left_out(tmp_path):
    path, row = tmp_path / "networks.jsonl", {"split": "predefined", "images": 1024, "accuracy": {"a": 0.5}}
    rows = [row | {"number": number} for number in (-1, 1, 2, 10**9)] + [row | {"number": 0, "accuracy": {"a": "x"}}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert evaluate_splits.collect(path, ["a"]) == {"vit": {"a": [0.5]}}


def test_networks_that_were_measured_once():
    once = ROW | {"accuracy": {"0": 0.1, "20": 0.5}}
    found = properties.collect([once], {}, reach=0.7)
    assert found.properties["accuracy"] == {"val/3": 50.0}
    assert found.baselines["accuracy after 20 steps"] == {"val/3": 0.5}
    with pytest.raises(StudyError, match="val/3 was measured after no step"):
        properties.collect([ROW | {"accuracy": {"0": 0.1}}], {}, reach=0.7)
    never = ROW | {"start": "predicted", "accuracy": {}}  # as of a plan that measures nothing of this start
    assert properties.collect([once, never], {}, reach=0.7).properties["accuracy"] == {"val/3": 50.0}
    assert fit_forecast.helped([once, never]) == {}
    with pytest.raises(StudyError, match="no network was trained from predicted and from He parameters"):
        judge_starts.judge([once, never], None, None)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{'a': 1}", '{"val/3": "1"}', '{"val/3": NaN}', '{"val/3": -1}'])
def test_foreign_times(text, tmp_path):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(StudyError, match="times.json"):
        properties.read_times(path)
    with pytest.raises(StudyError, match="nothing.json cannot be read"):
        properties.read_times(tmp_path / "nothing.json")


def test_more_networks_than_a_split_has():
    with pytest.raises(StudyError, match="train has 1000000 networks, expected 1000001 from number 0 on"):
        train_networks.first_networks(["train"], 1_000_001, None)
    with pytest.raises(SplitError, match="index 500: split 'val' has architectures 0 to 499"):
        train_networks.sample_architecture("val", 500)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train_networks", "--dataset=digits --batch_size=0"),
        ("train_networks", "--dataset=digits --steps=0"),
        ("train_networks", "--dataset=digits --image_size=0"),
        ("train_networks", "--dataset=digits --train_images=-5"),
        ("train_networks", "--dataset=digits --learning_rate=nan"),
        ("train_networks", "--dataset=digits --weight_decay=-1"),
        ("train_networks", f"--dataset=digits --pool={10**30}"),
        ("few_shot", "--arch test/7 --rates 0.01 nan"),
        ("few_shot", "--arch test/7 --test_images=-5"),
        ("few_shot", "--arch test/7 --seeds -1"),
        ("fine_tune", "--train_images=0"),
        ("fine_tune", "--num=1.5"),
        ("evaluate_splits", "a=b --dataset=digits --out=x --noise=nan"),
        ("evaluate_splits", "a=b --dataset=digits --out=x --noise=inf"),
        ("search", "x --dataset=digits --steps=1 --out=x --pool=0"),
        ("search", "x --dataset=digits --steps=1 --out=x --best=11 --num=10"),
        ("predict_properties", "x a=b --out=x --reach=nan"),
        ("compare_architectures", "--out=x --num=1000000000"),
        ("judge_starts", "x --batches=1"),
        ("time_networks", "x --out=x --rounds=0"),
        ("graph_use", "a=b --dataset=digits --num=0"),
    ],
)
def test_options_that_make_no_sense(script, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, *words.split()])
    module = scripts.load(f"experiments/{script}.py")
    for name in ("use_compilation_cache", "load_hypernetwork", "load_setting", "load_several"):
        monkeypatch.setattr(module, name, lambda *words: pytest.fail("it went on"), raising=False)
    with pytest.raises(SystemExit) as ended:
        module.main(*([words.split()] if script not in ("fine_tune", "graph_use") else []))
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_a_file_without_networks(tmp_path):
    module = scripts.load("experiments/time_networks.py")
    (tmp_path / "networks.jsonl").write_text('{"split": "nope", "number": 1}\n[]\n')
    with pytest.raises(GHNError, match="has no networks: expected rows of train_networks"):
        module.main([str(tmp_path / "networks.jsonl"), f"--out={tmp_path / 'times.json'}"])


def test_lines_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_MOST_LINE_BYTES", 32)
    path = tmp_path / "rows.jsonl"
    long = '{"a": "' + "x" * 100
    path.write_text(f'{{"a": 1}}\n{long}"}}\n{{"a": 2}}\n{long}')
    assert list(json_lines.read(path)) == [{"a": 1}, {"a": 2}]


def test_pictures_of_foreign_lines(tmp_path):
    """Numbers beyond those of NumPy, losses that are none, errors that are texts, and names that begin formulas."""
    for name, change in {
        "a": {"loss": 10**400},
        "b": {"step": 10**30},
        "c": {"loss": float("nan"), "accuracy": float("nan")},
        "d": {"loss": 1.7e308},
        "e$f_{": {},
    }.items():
        row = {"step": 1, "minutes": 0.5, "loss": 2.0, "accuracy": 0.5} | change
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(4 * (json.dumps(row) + "\n"))
    lines = [{"step": 1, "accuracy": 0.25, "standard_error": error} for error in ("x", -1, [1], 10**400, 0.125)]
    (tmp_path / "e$f_{" / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot.plot_runs([tmp_path / name for name in ("a", "b", "c", "d", "e$f_{")], tmp_path / "all.png")
    assert [plot._error(line) for line in lines] == [0, 0, 0, 0, 0.125]


def test_rewinding_reads_no_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_MOST_LINE_BYTES", 32)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + '{"step": 2, "a": "' + "x" * 100 + '"}\n{"step": 2}\n{"step": 3}\n{"other": 1}')
    rewind(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"other": 1}\n'
    before = path.stat().st_ino
    rewind(path, 2)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("text", ["²", "test/²", "9" * 5000, "test/" + "9" * 5000])
def test_numbers_that_are_none(text):
    with pytest.raises(ghn_jax.ArchitectureError):
        ghn_jax.find_architecture(text)


def test_arguments_that_json_cannot_read():
    for value in ("[" * 100_000, "9" * 5000):
        assert model.parse_arg(f"depth={value}") == ("depth", value)


def test_measured_accuracies_of_another_kind(tmp_path):
    path = tmp_path / "splits.json"
    os.mkfifo(path)
    with pytest.raises(CommandError, match="splits.json is a named pipe"):
        pack.stored_accuracy(f"{path}:GHN-2")
    path.unlink()
    for text in ('{"what": "", "accuracy": "GHN-2"}', '{"what": 1, "accuracy": {"GHN-2": {}}}', '{"accuracy": [1]}'):
        path.write_text(text)
        with pytest.raises(CommandError, match="is no file of experiments/evaluate_splits.py"):
            pack.stored_accuracy(f"{path}:GHN-2")
    path.write_text('{"what": "", "accuracy": {"GHN-2": 0.5, "GHN-1": {}}}')
    with pytest.raises(CommandError, match="splits.json has GHN-2, GHN-1"):
        pack.stored_accuracy(f"{path}:GHN-2")
    path.write_text('{"accuracy": {"GHN-2": {}}}')
    with pytest.raises(CommandError, match="is no file of experiments/evaluate_splits.py"):
        pack.stored_accuracy(f"{path}:GHN-2")
