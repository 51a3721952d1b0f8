"""The forecast's fit: it finds what is there, on groups that it did not see, and its curve is the known one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import scripts
from small_runs import SMALL

import ghn_jax
from ghn_jax.ghn.model import GHN
from ghn_jax.prediction import forecast
from ghn_jax.prediction.forecast import FEATURES, Trees
from ghn_jax.studies import fit_forecast
from ghn_jax.studies.fit_forecast import Example, StudyError


def examples(count=160, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        features = rng.uniform(0, 1, len(FEATURES))
        accuracy = 1 - 0.8 * (features[2] > 0.6) - 0.3 * features[7] + 0.02 * rng.standard_normal()
        helps = bool(accuracy + 0.1 * rng.standard_normal() > 0.5)
        made.append(Example(f"{number % 4}/{number}", f"split {number % 4}", features, accuracy, helps))
    return made


@pytest.fixture(scope="module")
def score():
    return fit_forecast.fit(examples())


def test_features_are_of_these_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fit_forecast, "report", lambda graph, ghn: SimpleNamespace(features=np.full(len(FEATURES), 1 / 3))
    )
    path, key = tmp_path / "features.jsonl", ("test", 0, "small")

    def lines_after(ghn):
        found = fit_forecast.features_of_networks([("test", 0)], {"small": ghn}, path)[key]
        assert found.tolist() == [0.33333] * len(FEATURES)  # when they are made as when they are read
        return path.read_text().splitlines()

    first, other = GHN.init(SMALL, 0), GHN.init(SMALL, 1)
    assert [len(lines_after(ghn)) for ghn in (first, first, other, first)] == [1, 1, 2, 2]
    assert [json.loads(line)["weights"] for line in path.read_text().splitlines()] == [
        first.fingerprint,
        other.fingerprint,
    ]


def test_what_there_is_is_found_on_other_networks(score):
    others = examples(seed=1)
    accuracy = score.accuracy(np.stack([example.features for example in others]))
    errors = accuracy - np.array([example.accuracy for example in others])
    assert np.sqrt(np.mean(np.square(errors))) < 0.08
    helps = score.probability(accuracy)
    assert fit_forecast.area_under_curve(helps, [example.helps for example in others]).area > 0.9
    assert abs(np.mean(helps) - np.mean([example.helps for example in others])) < 0.1


def test_trees_are_those_of_scikit_learn(score):
    from sklearn.ensemble import GradientBoostingRegressor

    made = examples()
    features, targets = np.stack([e.features for e in made]), [e.accuracy for e in made]
    theirs = GradientBoostingRegressor(
        n_estimators=fit_forecast.TREES, max_depth=fit_forecast.DEPTH, subsample=0.7, random_state=0
    ).fit(features, targets)
    others = np.stack([example.features for example in examples(seed=2)])
    np.testing.assert_allclose(score.accuracy(others), theirs.predict(others), rtol=1e-6, atol=1e-6)


def test_by_hand():
    """Two trees of two levels; a leaf that was repeated gives its value on both sides."""
    trees = Trees(
        1.0,
        np.array([[0, 1, 0], [1, 0, 0]]),
        np.array([[0.5, 0.5, 0.0], [2.0, 0.0, 0.0]]),
        np.array([[1.0, 2.0, 4.0, 4.0], [10.0, 10.0, 20.0, 20.0]]),
    )
    features = np.array([[0.0, 0.0], [0.5, 1.0], [1.0, 0.0], [1.0, 3.0]])
    np.testing.assert_allclose(trees(features), [12, 13, 15, 25])


def test_reasons_are_what_costs_most(score):
    features = np.full(len(FEATURES), 0.3)
    good = forecast.forecast(features, score)
    assert good.reasons == () and good.accuracy == pytest.approx(0.9, abs=0.1) and good.advice == forecast.HELPS
    features[2] = 0.9
    bad = forecast.forecast(features, score)
    assert len(bad.reasons) == 1 and bad.reasons[0].startswith(f"{FEATURES[2]} 0.9, typically 0.")
    assert bad.accuracy < 0.3 and bad.helps < 0.2 and bad.advice == forecast.DOES_NOT
    assert forecast.DOES_NOT in str(bad) and FEATURES[2] in str(bad)


def test_what_is_stored_is_what_is_read(score, tmp_path, monkeypatch):
    (tmp_path / "forecast.json").write_text(json.dumps(fit_forecast.stored(score)))
    monkeypatch.setattr(forecast, "DATA", tmp_path / "forecast.json")
    forecast.fitted.cache_clear()
    try:
        features = examples(1, seed=3)[0].features
        mine, read = forecast.forecast(features, score), forecast.forecast(features)
        assert read.accuracy == pytest.approx(mine.accuracy, abs=1e-3) and read.reasons == mine.reasons
    finally:
        forecast.fitted.cache_clear()


def test_groups_are_judged_by_a_fit_to_the_others():
    made = examples(80)
    values = fit_forecast.leave_one_group_out(made, fit_forecast.fit_trees)
    others = fit_forecast.fit_trees([example for example in made if example.group != "split 2"])
    mine = [place for place, example in enumerate(made) if example.group == "split 2"]
    np.testing.assert_allclose(values[mine], others(np.stack([made[place].features for place in mine])))


def test_area_under_the_curve():
    curve = fit_forecast.area_under_curve([1, 2, 3, 4], [False, False, True, True], draws=50)
    assert curve.area == 1 and (curve.positive, curve.negative) == (2, 2)
    assert fit_forecast.area_under_curve([1, 3, 2, 4], [False, False, True, True], draws=50).area == 0.75
    assert fit_forecast.area_under_curve([1, 1], [False, True], draws=50).area == 0.5
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.5
    curve = fit_forecast.area_under_curve(labels + rng.standard_normal(200), labels, draws=300)
    assert curve.low < 0.76 < curve.high and curve.high - curve.low < 0.2  # Phi(1 / sqrt 2) = 0.76
    assert str(curve).startswith(f"{curve.area:.2f} (")
    scores = labels + rng.standard_normal(200)
    once = fit_forecast.area_under_curve(scores, labels, 300)
    names = [str(place % 200) for place in range(800)]
    again = fit_forecast.area_under_curve(np.tile(scores, 4), np.tile(labels, 4), 300, names)
    assert again.area == pytest.approx(once.area)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.2)  # the same networks, four times each


def test_whether_a_prediction_helped():
    def row(number, start, **accuracy):
        return {"split": "val", "number": number, "start": start, "accuracy": accuracy}

    rows = [row(0, "he", **{"5": 0.5, "10": 0.6}), row(0, "predicted", **{"0": 0.1, "5": 0.8, "10": 0.59})]
    rows += [row(1, "he", **{"9": 0.5}), row(1, "predicted", **{"10": 0.6}), row(2, "he", **{"10": 0.6})]
    assert fit_forecast.helped(rows) == {("val", 0): False, ("val", 1): True}
    assert fit_forecast.helped([row(3, "predicted", **{"0": 0.5}), row(3, "he", **{"10": 0.4})]) == {}


def test_public_models_are_judged_and_not_fitted_to():
    found = examples(80)
    others = [one._replace(group="public models", accuracy=5.0) for one in examples(8, seed=2)]
    alone = fit_forecast.leave_one_group_out(found, fit_forecast.fit_trees)
    both = fit_forecast.leave_one_group_out([*found, *others], fit_forecast.fit_trees)
    np.testing.assert_array_equal(both[: len(found)], alone)
    trees = fit_forecast.fit_trees(found)
    np.testing.assert_array_equal(both[len(found) :], trees(np.stack([one.features for one in others])))


def test_models_of_others(tmp_path):
    ghn, path = GHN.init(SMALL, 0), tmp_path / "models.jsonl"
    row = {"model": "VGG", "checkpoint": "small", "weights": ghn.fingerprint, "features": [0.25] * len(FEATURES)}
    accuracy = {"predicted": {"0": 0.4, "100": 0.6}, "he": {"0": 0.1, "100": 0.7}}
    rows = [row | {"accuracy": accuracy}, row | {"weights": "others", "accuracy": accuracy}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    (example,) = fit_forecast.examples_of_models(path, "small", ghn, reference=0.7, chance=0.1)
    assert (example.name, example.group, example.helps) == ("VGG", "public models", False)
    assert example.accuracy == pytest.approx(0.5) and example.features.tolist() == [0.25] * len(FEATURES)
    with pytest.raises(StudyError, match="no model of another with the weights that it has now"):
        fit_forecast.examples_of_models(path, "another", ghn, reference=0.7, chance=0.1)
    path.write_text(json.dumps(row | {"features": [1.0], "accuracy": accuracy}) + "\n")
    with pytest.raises(StudyError, match="1 features of VGG, expected 11"):
        fit_forecast.examples_of_models(path, "small", ghn, reference=0.7, chance=0.1)
    he, count = {"0": 0.1, "100": 0.7}, len(FEATURES)
    for change, message in (
        ({"accuracy": {"predicted": he}}, "accuracy of VGG, he=None: expected a number from 0 to 1 by number"),
        ({"accuracy": {"predicted": {"0": "a"}, "he": he}}, "accuracy of VGG, predicted={'0': 'a'}"),
        ({"accuracy": {"predicted": {"0": 40}, "he": he}}, "accuracy of VGG, predicted={'0': 40}"),
        ({"accuracy": {"predicted": {}, "he": he}}, "accuracy of VGG: expected it before training"),
        ({"accuracy": {"predicted": {"100": 0.5}, "he": he}}, "accuracy of VGG: expected it before training"),
        ({"accuracy": {"predicted": {"0": 0.1, "50": 0.2}, "he": he}}, "and of both starts after it"),
        ({"accuracy": accuracy, "features": ["1"] * count}, "features of VGG=.*: expected 11 entries"),
        ({"accuracy": accuracy, "features": [float("nan")] * count}, "features of VGG=.*: expected 11 entries"),
        ({"accuracy": accuracy, "features": [[1]] * count}, "features of VGG=.*: expected 11 entries"),
        ({"accuracy": accuracy, "features": [10**400] * count}, "features of VGG=.*: expected 11 entries"),
    ):
        path.write_text(json.dumps(row | change) + "\n")
        with pytest.raises(StudyError, match=message):
            fit_forecast.examples_of_models(path, "small", ghn, reference=0.7, chance=0.1)


def test_script(tmp_path, capsys):
    """From the files of the two measurements to a score that the package reads."""
    made = examples(48)
    splits, rng = ("test", "deep", "wide"), np.random.default_rng(0)
    zero_shot, trained, features = [], [], []
    for place, example in enumerate(made):
        split, number = splits[place % 3], place // 3
        accuracy = 0.1 + 0.6 * example.accuracy
        zero_shot.append({"split": split, "number": number, "images": 64, "accuracy": {"GHN-2": accuracy}})
        row = {"split": split, "number": number}
        trained.append(row | {"start": "he", "accuracy": {"100": 0.5 + 0.02 * rng.random()}})
        trained.append(row | {"start": "predicted", "accuracy": {"0": accuracy, "100": 0.4 + 0.2 * example.helps}})
        features.append(row | {"checkpoint": "ghn2_cifar10", "features": example.features.tolist()})
    for name, rows in (("zero_shot", zero_shot), ("trained", trained), ("features", features)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = scripts.load("experiments/fit_forecast.py")
    script.main(
        [
            f"--zero_shot=ghn2_cifar10:GHN-2:{tmp_path / 'zero_shot.jsonl'}",
            f"--trained=ghn2_cifar10:{tmp_path / 'trained.jsonl'}",
            *(f"--features={tmp_path / 'features.jsonl'}", f"--out={tmp_path / 'out'}"),
        ]
    )
    output = capsys.readouterr().out
    assert "48 examples" in output and "| deep | 16 |" in output
    stored = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert stored["helps"][0] > 0 and len(stored["typical"]) == len(FEATURES)
    ghn = ghn_jax.load("ghn2_cifar10")
    np.testing.assert_array_equal(np.float32(stored["references"][ghn.fingerprint]), forecast.references(ghn))
    assert np.array(stored["accuracy"]["value"]).shape == (fit_forecast.TREES, 2**fit_forecast.DEPTH)
    with pytest.raises(SystemExit):
        script.main(["--zero_shot=a:b", "--trained=a:b", "--features=f", "--out=o"])
    assert "expected 3 parts with colons" in capsys.readouterr().err


def test_bad_input():
    made = examples(12)
    with pytest.raises(StudyError, match="of 12 examples 12 help"):
        fit_forecast.fit([example._replace(helps=True) for example in made])
    with pytest.raises(StudyError, match="none of 12 examples has an accuracy"):
        fit_forecast.fit([example._replace(accuracy=None) for example in made])
    with pytest.raises(StudyError, match=r"0/0 has features of shape \(3,\)"):
        fit_forecast.fit([made[0]._replace(features=np.zeros(3)), *made[1:]])
    with pytest.raises(StudyError, match="all examples are of a: expected at least 2 groups"):
        fit_forecast.fit([example._replace(group="a") for example in made])
    with pytest.raises(StudyError, match="3 of 3 are positive"):
        fit_forecast.area_under_curve([1, 2, 3], [True] * 3)
