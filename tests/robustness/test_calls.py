"""Calls from Python with what nothing can be made of: refused before any work, by an error that names the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import ghn_jax
from ghn_jax.checks.files import FileError
from ghn_jax.deepnets.files.reading import DeepNetsFile
from ghn_jax.errors import GHNError
from ghn_jax.evaluation import best_start as best_start_module
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.images import load as load_images
from ghn_jax.networks.architecture import ArchitectureError, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.studies.detection import penn_fudan
from ghn_jax.weights import checkpoint, pretrained

NETWORK = ghn_jax.ResNet(depths=(1,), width=8)
GRAPH = ghn_jax.build_graph(NETWORK)
CONFIG = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)
BATCH = (np.zeros((4, 32, 32, 3), np.float32), np.arange(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ghn_jax.save({"a": np.ones(2)}, "a.npz", overwrite="no"), "overwrite='no': expected True or False"),
        (lambda: ghn_jax.save({1: np.ones(2), "1": np.ones(2)}, "a.npz"), "names of several types"),
        (lambda: ghn_jax.load_params("a.npz", 5, layout="torch"), "no file|No such file|needs graph="),
        (lambda: ghn_jax.report(GRAPH, scales="yes"), "scales='yes': expected True or False"),
        (lambda: ghn_jax.find_architecture("3", "test", "False"), "large_images='False': expected True or False"),
        (lambda: ghn_jax.find_architecture("test/\u0663"), "no architecture"),
        (lambda: ghn_jax.edge_table(GRAPH, "x"), "max_distance='x': expected an integer"),
        (lambda: ghn_jax.to_networkx(GRAPH, 0), "max_distance=0: expected an integer from 1"),
        (lambda: ghn_jax.visualize(GRAPH, "graph"), "path='graph': expected a name ending in"),
        (lambda: ghn_jax.visualize(GRAPH, 5), "path=5: expected a name ending in"),
        (lambda: ghn_jax.visualize(GRAPH, labels="no"), "labels='no': expected True or False"),
        (lambda: ghn_jax.visualize(GRAPH, title=5), "title=5: expected a text"),
        (lambda: ghn_jax.push_to_hub(5, "user/name", {}), "expected a GHN to push, got int"),
        (lambda: ghn_jax.from_hub(None), "repo_id=None: expected a text"),
        (lambda: load_images("digits", ""), "data_dir='': expected an existing folder"),
        (lambda: checkpoint.describe(5), "5: expected the path of a file or folder"),
        (lambda: pretrained.read(None), "None: expected the path of a file or folder"),
        (lambda: penn_fudan.read(5), "5: expected the path of a file or folder"),
        (lambda: DeepNetsFile(""), "expected the path of a file"),
        (lambda: list(json_lines.read([])), "expected the path of a file or folder"),
    ],
)
def test_values_of_other_types(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GHNError, match=message):
        call()


def test_pictures_take_the_place_of_files_alone(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FileError, match="stays as it is"):
        ghn_jax.visualize(GRAPH, tmp_path / "folder.png")
    ghn_jax.visualize(GRAPH, tmp_path / "graph.png", title=r"costs $\x$")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: None, "GHN.params=None: expected the arrays"),
        (lambda params: {}, "GHN.params={}: expected the arrays"),
        (lambda params: jax.tree.map(lambda x: x.astype(int), params), "of int32, expected an array of floats"),
        (lambda params: jax.tree.map(np.ma.masked_array, params), "expected an array of floats"),
        (lambda params: jax.eval_shape(lambda: params), "expected an array of floats"),
        (lambda params: params | {"more": np.ones(2, np.float32)}, "has a surplus array more"),
        (lambda params: {"norm": params["norm"]}, "has no array "),
        (
            lambda params: params | {"norm": jax.tree.map(lambda x: x[:1], params["norm"])},
            r"has shape \(1,\), expected",
        ),
    ],
)
def test_hypernetworks_made_by_hand(change, message, tmp_path):
    params = ghn_jax.GHN.init(CONFIG, 0).params
    for use in (
        lambda ghn: ghn_jax.predict_params(GRAPH, ghn),
        lambda ghn: ghn_jax.save(ghn, tmp_path / "ghn.npz"),
        lambda ghn: ghn_jax.save(ghn, tmp_path / "ghn.safetensors"),
    ):
        with pytest.raises(ghn_jax.ConfigError, match=message):
            use(ghn_jax.GHN(CONFIG, change(params)))
    with pytest.raises(ghn_jax.ConfigError, match="GHN.config=None: expected a HypernetConfig"):
        ghn_jax.GHN(None, params)
    assert not list(tmp_path.iterdir())


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        if x.shape[-1] != 8:
            raise RuntimeError("eight features")
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))


ROWS = np.linspace(0, 1, 32, dtype=np.float32).reshape(4, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strict": "no"}, "strict='no': expected True or False"),
        ({"state": "Dense_0/kernel"}, "state='Dense_0/kernel': expected"),
        ({"state": None}, "state=None: expected"),
        ({"state": ["Dense_1/kernel"]}, r"state=\['Dense_1/kernel'\]: there is no such leaf"),
        ({"rngs": 5}, "rngs=5: expected keys by the name"),
    ],
)
def test_traces(options, message):
    with pytest.raises(ghn_jax.TraceError, match=message):
        ghn_jax.trace(Normed(), ROWS, **options)
    assert ghn_jax.trace(Normed(), ROWS, state=["Dense_0/kernel", 0, "train"], train=True).num_nodes > 0


def of_normed(**changes):
    return Normed().init(jax.random.key(0), ROWS)["params"] | changes


@pytest.mark.parametrize(
    ("change", "batches", "message"),
    [
        ({}, None, "batches=None: expected a list of batches"),
        ({}, ROWS, "expected a list of batches"),
        ({}, {"a": ROWS}, "expected a list of batches"),
        ({}, [None], "a batch is None: expected an array of at least one example"),
        ({}, [ROWS[:0]], "expected an array of at least one example"),
        ({}, [[[1.0], [1.0, 2.0]]], "expected an array of at least one example"),
        ({}, [ROWS, ROWS * np.nan], "statistics of BatchNorm_0 are not finite"),
        ({}, [np.ma.masked_array(ROWS)], "a batch is a masked array"),
        ({}, [ROWS, ROWS[:, :4]], "Normed fails: RuntimeError: eight features"),
        ({}, [(ROWS, True, 3)], "Normed fails: TypeError"),
        ({"Dense_1": {"kernel": ROWS}}, [ROWS], "parameters with a surplus Dense_1/kernel: expected those of Normed"),
        ({"Dense_0": {}}, [ROWS], "parameters without Dense_0/bias, Dense_0/kernel"),
        ({"Dense_0": {"kernel": ROWS[:1], "bias": ROWS[0, :4]}}, [ROWS], "Normed fails: ScopeParamShapeError"),
    ],
)
def test_calibrations(change, batches, message):
    with pytest.raises(ghn_jax.CalibrationError, match=message):
        ghn_jax.calibrate(Normed(), of_normed(**change), batches)


def test_calibration_of_parameters_of_another_nnx_module():
    module = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    with pytest.raises(ghn_jax.CalibrationError, match="parameters without bias, scale: expected those of BatchNorm"):
        ghn_jax.calibrate(module, {}, [ROWS[:, :4]])


@pytest.mark.parametrize("key", [jax.random.key(1), jax.random.PRNGKey(1), jax.random.key(1, impl="rbg")])
def test_keys_of_every_kind(key):
    found = ghn_jax.calibrate(Normed(), of_normed(), [ROWS], rngs=key)
    expected = ghn_jax.calibrate(Normed(), of_normed(), [ROWS])
    np.testing.assert_array_equal(found["BatchNorm_0"]["mean"], expected["BatchNorm_0"]["mean"])


@pytest.fixture
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(best_start_module, "Trainer", None)
    monkeypatch.setattr(best_start_module, "predict_params", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": None}, "batches=None: expected a list of batches"),
        ({"batches": BATCH[0]}, "expected a list of batches"),
        ({"batches": [([[1, 2], [3]], [0, 1])] * 2}, "images or labels that make no array"),
        ({"batches": [(np.ma.masked_array(BATCH[0]), BATCH[1])] * 2}, "a batch has a masked array"),
        ({"batches": [(np.full((4, 32, 32, 3), 1e300), BATCH[1])] * 2}, "images: expected finite numbers"),
        ({"starts": 5}, "starts=5: expected 1 to"),
        ({"starts": [["random"]]}, "starts=.*: expected 1 to"),
    ],
)
def test_best_starts(options, message, nothing_is_trained):
    with pytest.raises(ghn_jax.StartError, match=message):
        ghn_jax.best_start(NETWORK, **{"batches": [BATCH] * 2, **options})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (5, "loss=5: expected a function"),
        (lambda params, batch: params["kernel"], "the loss fails on the first batch: TypeError: Gradient only defined"),
        (lambda params, batch: None, "the loss fails on the first batch: TypeError"),
        (lambda params: 1.0, "the loss fails on the first batch: TypeError"),
        (lambda params, batch: 1 / 0, "the loss fails on the first batch: ZeroDivisionError: division by zero"),
    ],
)
def test_losses(loss, message, nothing_is_trained):
    graph = ghn_jax.trace(nn.Dense(3), ROWS)
    with pytest.raises(ghn_jax.StartError, match=message):
        ghn_jax.best_start(graph, [ROWS, ROWS], loss=loss)


def test_images_that_reductions_do_not_halve():
    edges = (("conv_1x1", 0), ("none", 1))
    network = ghn_jax.Architecture(ghn_jax.Genotype(edges, (2,), edges, (2,)), n_cells=3, C=8, stem_type=1)
    lower(network, Task(image_size=40))
    with pytest.raises(ArchitectureError, match="17x17 and 16x16 pixels cannot be concatenated"):
        lower(network, Task(image_size=33))


def test_parameters_that_are_shapes():
    params = {tensor.name: jax.ShapeDtypeStruct(tensor.shape, jnp.float32) for tensor in GRAPH.tensors}
    with pytest.raises(ghn_jax.ExecutionError, match="is a ShapeDtypeStruct: expected an array of floats"):
        ghn_jax.measure_accuracy(NETWORK, params, "digits")
