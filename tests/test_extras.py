"""Prediction needs few packages; what needs others says which extra brings them."""

import os
import subprocess
import sys

import pytest

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocked())
"""

EXTRAS = "matplotlib,networkx,h5py,sklearn,PIL,huggingface_hub,pycocotools"
REST = "tensorflow_datasets,tensorflow,ml_collections,tqdm,pandas,tensorboardX"

PREDICTION = """
import jax.numpy as jnp
from flax import linen as nn
import ghn_jax

graph = ghn_jax.build_graph(ghn_jax.named("resnet50"))
assert len(ghn_jax.predict_params(graph)) == 161
assert ghn_jax.report(graph).share_predicted == 1

class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))

params = ghn_jax.predict_params(ghn_jax.trace(Model(), jnp.ones((1, 32, 32, 3))))
assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 8)
print("predicted")
"""


def run(code, blocked):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, blocked], env=environment, capture_output=True, text=True, timeout=200
    )


def test_prediction_needs_neither_extras_nor_what_training_needs():
    done = run(PREDICTION, f"{EXTRAS},{REST},optax,orbax")
    assert done.stdout == "predicted\n", done.stderr


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("import ghn_jax; ghn_jax.visualize", "networkx", "plot"),
        ("import ghn_jax.training.plot as plot; plot.plot_runs([], None)", "matplotlib", "plot"),
        ("import ghn_jax; ghn_jax.to_networkx", "networkx", "plot"),
        ("import ghn_jax; ghn_jax.from_hub('a/b')", "huggingface_hub", "hub"),
        ("from ghn_jax import images; images.load('digits')", "sklearn", "digits"),
        ("from ghn_jax.images.photos import decode_rgb; decode_rgb(Source(), 0)", "PIL", "photos"),
        ("import ghn_jax.deepnets.files.reading", "h5py", "deepnets"),
        (
            "from ghn_jax.studies.detection import comparison; comparison.measure(None, {}, [], 'nowhere')",
            "pycocotools",
            "detection",
        ),
        (
            "from ghn_jax.training.config import TrainConfig; from ghn_jax.training.loop import train;"
            "train(TrainConfig(dataset='digits', workdir='/nowhere'))",
            "matplotlib",
            "plot",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_extra(code, package, extra):
    code = "class Source:\n    def read(self, number):\n        return b''\n" + code
    done = run(code, EXTRAS)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(f"is not installed: pip install 'ghn_jax[{extra}]'") and package in last, done.stderr
