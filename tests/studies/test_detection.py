"""Detectors: average precision, networks as backbones, one that learns its pictures by heart, and the script."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scripts
from example_networks import NETWORKS
from small_runs import SMALL

from ghn_jax.execution import whole
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Architecture, Genotype, to_json
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import make_network
from ghn_jax.networks.primitives import Flatten, GlobalAvgPool
from ghn_jax.studies.detection import backbone, comparison, drawn
from ghn_jax.studies.detection.boxes import overlaps
from ghn_jax.studies.detection.detector import DetectorConfig
from ghn_jax.studies.detection.pictures import Scaling
from ghn_jax.studies.detection.training import DetectionProtocol, DetectorTrainer, divided
from ghn_jax.studies.train_networks import StudyError
from ghn_jax.weights import pretrained

EDGES = (("conv_3x3", 0), ("none", 1))
TINY = Architecture(Genotype(EDGES, (2,), EDGES, (2,)), n_cells=2, C=16)
CONFIG = DetectorConfig(
    anchor_sizes=(16, 32), anchor_ratios=(1, 2), proposals=32, test_proposals=16, drawn_anchors=32, drawn_regions=16,
    hidden=32, detections=8,
)  # fmt: skip
PROTOCOL = DetectionProtocol(epochs=2, test_pictures=2, scaling=Scaling(64, 64))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_backbone_has_the_features_before_the_head(name):
    program = lower(NETWORKS[name], CIFAR10)
    cut, params = backbone.truncated(program), he_init(program, 0)
    resized = backbone.resized(cut, params, (32, 32))
    assert resized.keys() == {
        tensor.name for tensor in program.tensors if not tensor.name.startswith(("classifier", "fc."))
    }
    for name, values in resized.items():
        np.testing.assert_array_equal(values, params[name])
    assert isinstance(program.instructions[len(cut.instructions)].primitive, (GlobalAvgPool, Flatten))
    assert backbone.feature_shape(cut, resized, (32, 32)) == cut.instructions[-1].shape


def test_the_head_on_the_features_gives_the_logits():
    program = lower(NETWORKS["resnet"], CIFAR10)
    params = he_init(program, 0)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def both(params):
        maps = backbone.features(backbone.truncated(program), params, images)
        return maps.mean((1, 2)) @ params["fc.weight"] + params["fc.bias"], whole.run(program, params, images)

    mine, expected = both(params)
    np.testing.assert_allclose(mine, expected, atol=1e-5 * np.abs(expected).max())


def test_position_codes_fit_other_images():
    program = lower(NETWORKS["attentive"], CIFAR10)
    cut, params = backbone.truncated(program), he_init(program, 0)
    (name,) = (name for name in params if name.startswith("pos_enc"))
    params[name] = np.broadcast_to(np.linspace(0, 1, 11)[:, None, None], params[name].shape).astype(np.float32)
    resized = backbone.resized(cut, params, (64, 96))
    _, height, width, _ = resized[name].shape
    assert backbone.feature_shape(cut, resized, (64, 96))[:2] == (height, width) == (22, 32)
    np.testing.assert_allclose(
        resized[name][0, :, 5, 0],
        np.interp((np.arange(22) + 0.5) / 2 - 0.5, range(11), np.linspace(0, 1, 11)),
        atol=1e-6,
    )


def test_images_too_small_for_a_network():
    program = lower(dataclasses.replace(TINY, n_cells=9), CIFAR10)
    with pytest.raises(StudyError, match="too small for this network"):
        backbone.resized(backbone.truncated(program), he_init(program, 0), (0, 32))


def test_a_detector_learns_its_pictures():
    """Two pictures by heart: most objects are found, one of them before all else; and every tensor was trained."""
    pictures = drawn.draw(4, 64, seed=0)
    protocol = dataclasses.replace(PROTOCOL, epochs=160, epochs_of_a_rate=120, learning_rate=0.02)
    program = lower(TINY, CIFAR10)
    trainer, start, losses = DetectorTrainer(program, pictures, CONFIG, protocol), he_init(program, 0), []
    *_, params = trainer.train(start, 0, made_step=losses.append)
    first, last = (np.mean([one.objectness for one in part]) for part in (losses[:10], losses[-10:]))
    assert last < 0.3 * first
    assert params["backbone"].keys() == {tensor.name for tensor in backbone.truncated(program).tensors}
    for name, values in params["backbone"].items():
        assert np.isfinite(values).all() and not np.array_equal(values, start[name]), name
    train, test = divided(pictures, protocol, 0)
    are_found = []
    for index, (boxes, scores) in zip(train, trainer.find(params, train), strict=True):
        objects = pictures[index].boxes
        common = np.asarray(overlaps(objects, boxes[: len(objects)]))
        are_found += (common.max(axis=1) > 0.5).tolist()
        assert common[:, 0].max() > 0.5, (objects, boxes, scores)
        assert np.all(np.diff(scores) <= 0)
    assert np.mean(are_found) >= 0.6  # of three or more; people that cover each other may take longer to learn
    assert len(trainer.find(params, test[:1])) == 1


def test_pictures_are_divided():
    pictures = drawn.draw(7, 32, seed=0)
    train, test = divided(pictures, PROTOCOL, seed=3)
    assert len(test) == 2 and sorted([*train, *test]) == list(range(7))
    assert not np.array_equal(test, divided(pictures, PROTOCOL, seed=4)[1])
    with pytest.raises(StudyError, match="3 pictures: expected at least 4, 2 to test and a batch of 2"):
        divided(pictures[:3], PROTOCOL, seed=0)


def test_rates():
    """Warmed up in the first epoch, a tenth after every third one."""
    protocol = DetectionProtocol(learning_rate=2.0)
    rates = [protocol.rate(epoch, step, 5) for epoch in range(10) for step in range(5)]
    np.testing.assert_allclose(rates[:5], [0.002, 0.5015, 1.001, 1.5005, 2])
    np.testing.assert_allclose(rates[5:], np.repeat([2, 0.2, 0.02, 0.002], [10, 15, 15, 5]))
    assert protocol.rate(0, 0, 1) == 2


def test_bad_fields():
    with pytest.raises(StudyError, match="DetectorConfig.proposals=0: expected"):
        DetectorConfig(proposals=0)
    with pytest.raises(StudyError, match=r"DetectorConfig.anchor_sizes=\(\): expected"):
        DetectorConfig(anchor_sizes=())
    with pytest.raises(StudyError, match="DetectionProtocol.batch_size=0: expected"):
        DetectionProtocol(batch_size=0)
    pytest.importorskip("pycocotools", reason="comes with the extra 'detection'")
    network = make_network(0, TINY, CIFAR10)
    for wrong, message in (
        ({"starts": ["body"]}, "start='body'"),
        ({"measure_at": [3]}, r"measure_at=\[3\]: expected"),
    ):
        with pytest.raises(StudyError, match=message):
            comparison.measure(None, {"a": network}, [], "x", protocol=PROTOCOL, **wrong)


def test_script(tmp_path, capsys):
    pytest.importorskip("pycocotools", reason="comes with the extra 'detection'")
    script = scripts.load("experiments/detection.py")
    pretrained.write(tmp_path / "ghn.npz", GHN.init(SMALL, 0), {})
    (tmp_path / "tiny.json").write_text(json.dumps(to_json(TINY)))
    options = [f"--checkpoint={tmp_path / 'ghn.npz'}", f"--arch={tmp_path / 'tiny.json'}", "--shorter=64"]
    options += ["--longer=64", "--anchor_sizes", "16", "32", "--anchor_ratios", "1", "2", "--proposals=32"]
    options += ["--test_proposals=16", "--drawn_anchors=32", "--drawn_regions=16", "--hidden=32", "--detections=8"]
    options += ["--test_pictures=2", "--epochs=2", "--measure_at=2", "--seeds", "0", f"--out={tmp_path}"]
    script.main([*options, "--drawn=4"])
    rows = [json.loads(line) for line in (tmp_path / "detection.jsonl").read_text().splitlines()]
    assert [row["start"] for row in rows] == ["predicted", "he"]
    assert rows[0]["losses"].keys() == {"1", "2"} and rows[0]["average_precision"].keys() == {"2"}
    assert "| tiny | predicted | " in capsys.readouterr().out
    script.main([*options, "--drawn=4"])
    assert len((tmp_path / "detection.jsonl").read_text().splitlines()) == 2
    with pytest.raises(SystemExit):
        script.main(options)
