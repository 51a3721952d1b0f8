"""Against figures computed with the published PyTorch implementation."""

import numpy as np
import pytest
import reference
from reference import HYPERNETWORKS, needs_reference

import ghn_jax
from ghn_jax.ghn.model import GHN
from ghn_jax.prediction.predict import embed_nodes, predict_params
from ghn_jax.weights import conversion

pytestmark = needs_reference

QUICK = ("val/0", "val/12", "deep/6", "dense/0", "bnfree/0", "predefined/resnet50", "predefined/vit")
TOLERANCE = 1e-5


def load(hypernetwork: str) -> tuple[GHN, str]:
    """The hypernetwork, and the data set of its networks."""
    return GHN(*conversion.load_npz(reference.REFERENCE / f"{hypernetwork}.npz")), hypernetwork.split("_")[1]


def check(hypernetwork: str, keys: set[str]) -> None:
    ghn, dataset = load(hypernetwork)
    embeddings = reference.embeddings(hypernetwork)
    predictions = reference.load_json("predictions.json")
    checked = 0
    for key, expected in embeddings.items():
        if key not in keys:
            continue
        graph = reference.graph(key, dataset)
        assert expected.shape == (graph.num_nodes, ghn.config.hid)
        np.testing.assert_allclose(embed_nodes(graph, ghn), expected, atol=TOLERANCE, err_msg=key)
        check_parameters(predict_params(graph, ghn), graph, predictions[f"{hypernetwork}/{key}"]["params"])
        checked += 1
    assert checked


def check_parameters(predicted, graph, expected) -> None:
    assert set(predicted) == set(expected)
    for tensor in graph.tensors:
        values = reference.to_torch(tensor.role, np.asarray(predicted[tensor.name], np.float64)).reshape(-1)
        norm = np.linalg.norm(values)
        figures = [norm, values.mean(), values.std(), *values[:4], *values[-4:]]
        scale = expected[tensor.name][0]
        np.testing.assert_allclose(figures, expected[tensor.name], atol=TOLERANCE * scale, rtol=0, err_msg=tensor.name)


@pytest.mark.parametrize("hypernetwork", HYPERNETWORKS)
def test_embeddings_and_parameters(hypernetwork):
    check(hypernetwork, set(QUICK))


def test_the_published_file_gives_the_same_predictions():
    """`ghn2_cifar10.pt`, as a user loads it."""
    ghn = ghn_jax.load(reference.REFERENCE / "ghn2_cifar10.pt")
    predictions = reference.load_json("predictions.json")
    for key in ("val/0", "bnfree/0", "predefined/resnet50", "predefined/vit"):
        graph = reference.graph(key, "cifar10")
        check_parameters(predict_params(graph, ghn), graph, predictions[f"ghn2_cifar10/{key}"]["params"])


@pytest.mark.slow
@pytest.mark.parametrize("hypernetwork", HYPERNETWORKS)
def test_all_embeddings_and_parameters(hypernetwork):
    check(hypernetwork, set(reference.embeddings(hypernetwork)))
