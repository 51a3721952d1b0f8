"""`experiments/evaluate.py` from its command line to its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scripts

from ghn_jax.cli import evaluate
from ghn_jax.cli.common import CommandError, load_setting
from ghn_jax.evaluation.results import Result
from ghn_jax.weights import checkpoint

ROOT = scripts.ROOT


def run(*arguments):
    return subprocess.run(
        [sys.executable, "experiments/evaluate.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_table_a_file_and_a_picture(tmp_path):
    done = run("--dataset=digits", "--split=val", "--num=2", "--num_images=32", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Top-1 accuracy on 32 test images of digits" in lines
    assert [line.split()[0] for line in lines if line.startswith("val/")] == ["val/0", "val/1"]
    stored = json.loads((tmp_path / "evaluation_val.json").read_text())
    assert stored["dataset"] == "digits" and len(stored["architectures"]) == 2
    accuracies = [row["predicted"] for row in stored["architectures"]]
    assert stored["predicted"]["mean"] == sum(accuracies) / 2 and all(0 <= value <= 1 for value in accuracies)
    assert (tmp_path / "evaluation_val.png").stat().st_size > 5000


def test_architectures_with_points_in_their_names(tmp_path):
    for name in ("net.v1", "net.v2"):
        about = {"num_images": 1, "image_split": "test", "dataset": "digits"}
        evaluate.write(tmp_path / f"evaluation_{name}", [Result(name, 1, 0.5, 0.1)], about, name)
    assert sorted(os.listdir(tmp_path)) == [f"evaluation_net.v{n}.{kind}" for n in (1, 2) for kind in ("json", "png")]
    assert json.loads((tmp_path / "evaluation_net.v1.json").read_text())["architectures"][0]["name"] == "net.v1"


def test_results_of_another_measurement_stay(tmp_path):
    about = {"dataset": "digits", "image_split": "test", "num_images": 1, "weights": "a"}
    stem, names = tmp_path / "evaluation_val", ["val/0"]
    for more in ({}, {"noise": 0.5}):
        evaluate.write(stem, [Result("val/0", 1, 0.5, 0.1)], about | more, "val")
        evaluate.refuse_another(stem, about | more, names)
        others = [about | more | {"weights": "b"}, about | more | {"num_images": 2}, about | {"noise": 0.1}]
        others.append(about if more else about | {"noise": 0.5})
        for other in others:
            with pytest.raises(CommandError, match="evaluation_val.json has another measurement; --overwrite"):
                evaluate.refuse_another(stem, other, names)
        with pytest.raises(CommandError, match="another measurement"):
            evaluate.refuse_another(stem, about | more, ["val/0", "val/1"])
    for foreign in ("", "[]", '{"architectures": 3}', '{"architectures": [1]}', "[" * 10**5):
        stem.with_suffix(".json").write_text(foreign)
        with pytest.raises(CommandError, match="another measurement"):
            evaluate.refuse_another(stem, about, names)
    stem.with_suffix(".json").unlink()
    with pytest.raises(CommandError, match="evaluation_val.png exists"):
        evaluate.refuse_another(stem, about, names)


def test_results_have_a_folder_for_every_hypernetwork(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: [Result("vit", 1, 0.5, 0.1)])
    for name in ("ghn1_fashion_mnist", "ghn2_fashion_mnist"):
        words = ["--arch=vit", f"--checkpoint={name}", "--dataset=digits"]
        evaluate.main(words)
        assert json.loads((tmp_path / "evaluations" / name / "evaluation_vit.json").read_text())["checkpoint"] == name
        evaluate.main(words)  # the same once more
    with pytest.raises(CommandError, match="has another measurement"):
        evaluate.main([*words, "--num_images=3"])
    evaluate.main([*words, "--num_images=3", "--overwrite"])
    assert json.loads(Path("evaluations", name, "evaluation_vit.json").read_text())["num_images"] == 3


def test_a_run_trained_further_replaces_what_it_had_in_its_folder(tmp_path, monkeypatch, capsys):
    run_folder = tmp_path / "run"
    (run_folder / checkpoint.FOLDER).mkdir(parents=True)
    monkeypatch.setattr(evaluate, "use_compilation_cache", lambda: None)
    settings = [load_setting(name, "digits", None) for name in ("ghn1_fashion_mnist", "ghn2_fashion_mnist")]
    words = ["--arch=vit", f"--checkpoint={run_folder}", "--dataset=digits"]

    def evaluated(setting, *more):
        monkeypatch.setattr(evaluate, "load_setting", lambda *_: setting)
        monkeypatch.setattr(evaluate, "evaluate", lambda *_: [Result("vit", 1, 0.5, 0.1)])
        evaluate.main([*words, *more])

    for setting in settings:
        evaluated(setting)
        stored = json.loads((run_folder / "evaluation_vit.json").read_text())
        assert stored["weights"] == setting.ghn.fingerprint
    with pytest.raises(CommandError, match="another measurement"):
        evaluated(settings[0], "--num_images=3")
    evaluated(settings[0], f"--out={tmp_path / 'elsewhere'}")
    with pytest.raises(CommandError, match="another measurement"):
        evaluated(settings[1], f"--out={tmp_path / 'elsewhere'}")


def test_what_does_not_fit_is_one_line():
    done = run("--checkpoint=nothing")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nothing" in done.stderr
