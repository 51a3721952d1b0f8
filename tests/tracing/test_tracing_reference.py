"""ResNet-50 and ViT written in Flax have the graphs and predictions of the published implementation."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scripts
from flax import linen as nn
from traced import assert_same_graph

import ghn_jax
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.torch_layout import to_torch
from ghn_jax.prediction.predict import predict_params
from ghn_jax.weights import conversion

sys.path.insert(0, str(scripts.ROOT))
from examples.models.resnet import resnet50  # noqa: E402

SIZES = {"cifar10": (32, 10), "imagenet": (224, 1000)}


class Layer(nn.Module):
    """A pre-norm transformer layer without biases of the queries, keys and values."""

    heads: int = 8

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        y = nn.LayerNorm(epsilon=1e-5)(x).reshape(batch, height * width, channels)
        qkv = nn.DenseGeneral((3, self.heads, channels // self.heads), use_bias=False)(y)
        y = nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + nn.DenseGeneral(channels, axis=(-2, -1))(y).reshape(x.shape)
        y = nn.Dense(channels)(nn.LayerNorm(epsilon=1e-5)(x))
        return x + nn.Dense(channels)(nn.gelu(y))


class ViT(nn.Module):
    """The ViT of the paper: a class is predicted from the mean of all patches; two layers are average pools."""

    num_classes: int
    patch: int
    padding: int
    dim: int = 128
    depth: int = 12

    @nn.compact
    def __call__(self, x):
        pads = [(self.padding, self.padding)] * 2
        patch = (self.patch, self.patch)
        x = nn.Conv(self.dim, patch, strides=patch, padding=pads, use_bias=False)(x)
        x = x + self.param("pos_enc", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for layer in range(self.depth):
            if layer in (self.depth // 3, 2 * self.depth // 3):
                x = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
            else:
                x = Layer()(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def model(name, dataset):
    size, classes = SIZES[dataset]
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    if name == "resnet50":
        return resnet50(num_classes=classes, small_images=dataset == "cifar10"), images
    return ViT(classes, *((3, 1) if dataset == "cifar10" else (16, 0))), images


@reference.needs_reference
@pytest.mark.parametrize("dataset", SIZES)
@pytest.mark.parametrize("name", ["resnet50", "vit"])
def test_graph_and_predictions(name, dataset):
    graph = ghn_jax.trace(*model(name, dataset), strict=True)
    stored = reference.graph(f"predefined/{name}", dataset)
    within = np.where(graph.distances <= 50, graph.distances, 0)
    expected = np.where(stored.distances <= 50, stored.distances, 0)
    places = assert_same_graph(
        ghn_jax.Graph(graph.node_types, graph.node_shapes, within, graph.tensors),
        ghn_jax.Graph(stored.node_types, stored.node_shapes, expected, stored.tensors),
    )
    hypernetwork = f"ghn2_{dataset}"
    ghn = GHN(*conversion.load_npz(reference.REFERENCE / f"{hypernetwork}.npz"))
    names = [leaf.name for leaf in graph.tree.leaves]
    params = dict(zip(names, jax.tree.leaves(predict_params(graph, ghn)), strict=True))
    ours = {(tensor.node, tensor.role): tensor for tensor in graph.tensors}
    figures = reference.load_json("predictions.json")[f"{hypernetwork}/predefined/{name}"]["params"]
    assert len(figures) == len(graph.tensors)
    for tensor in stored.tensors:
        mine = ours[int(places[tensor.node]), tensor.role]
        values = np.asarray(params[mine.name]).reshape(tensor.shape)
        flat = to_torch(tensor.role, values).reshape(-1).astype(np.float64)
        norm = np.linalg.norm(flat)
        statistics = [norm, flat.mean(), flat.std(), *flat[:4], *flat[-4:]]
        scale = norm / flat.size**0.5
        allowed = np.array([norm, *[scale] * 10]) * 1e-4
        assert (np.abs(np.array(statistics) - figures[tensor.name]) <= allowed).all(), (tensor.name, mine.name)
