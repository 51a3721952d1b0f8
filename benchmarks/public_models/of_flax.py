"""Packages of Linen modules (flaxmodels, jax-resnet, jax-models) and of NNX ones; a graph network of jraph."""

from __future__ import annotations

import functools
import importlib

import jax.numpy as jnp
import numpy as np

from public_models.case import Case, Cases, function, images, linen, nnx_module, tokens


def of_flaxmodels(small: bool) -> Cases:
    """ResNets and VGG."""
    import flaxmodels

    def resnet(name: str) -> Case:
        model = getattr(flaxmodels, name)(output="logits", pretrained=None)
        return linen(f"flaxmodels {name}", "flaxmodels", model, images(64 if small else 224, batch=2))

    def vgg() -> Case:
        model = flaxmodels.VGG16(output="logits", pretrained=None)
        return linen("flaxmodels VGG16", "flaxmodels", model, images(224), train=False)

    names = ("ResNet18",) if small else ("ResNet18", "ResNet50")
    made = {f"flaxmodels {name}": functools.partial(resnet, name) for name in names}
    return made if small else made | {"flaxmodels VGG16": vgg}


def of_jax_resnet(small: bool) -> Cases:
    """ResNets, ResNet-D, ResNeXt, ResNeSt and a wide one."""
    import jax_resnet

    def case(name: str) -> Case:
        model = getattr(jax_resnet, name)(n_classes=1000)
        return linen(f"jax-resnet {name}", "jax-resnet", model, images(64 if small else 224, batch=2))

    names = ("ResNet18",) if small else ("ResNet18", "ResNetD50", "ResNeXt50", "ResNeSt50", "WideResNet50")
    return {f"jax-resnet {name}": functools.partial(case, name) for name in names}


def of_jax_models(small: bool) -> Cases:
    """Vision transformers and their relatives."""
    from jax_models import load_model

    def case(name: str) -> Case:
        model = load_model(name, attach_head=True, num_classes=1000)
        return linen(f"jax-models {name}", "jax-models", model, images(224), deterministic=True)

    names = (
        "convmixer-512-12 convnext-tiny mlpmixer-s16 poolformer-s12 pvit-b0 segformer-b0 swin-tiny-224 van-tiny"
        " cait-xxs24-224 mpvit-tiny patchconvnet-s60"
    ).split()
    return {f"jax-models {name}": functools.partial(case, name) for name in (("mlpmixer-s32",) if small else names)}


def of_jraph(small: bool) -> Cases:
    """A graph network of three functions with weights, on a graph of eight nodes."""
    import jraph

    def case() -> Case:
        rng = np.random.default_rng(0)
        graph = jraph.GraphsTuple(
            nodes=rng.standard_normal((8, 16), np.float32), edges=rng.standard_normal((12, 4), np.float32),
            senders=rng.integers(0, 8, 12, np.int32), receivers=rng.integers(0, 8, 12, np.int32),
            globals=np.ones((1, 4), np.float32), n_node=np.array([8], np.int32), n_edge=np.array([12], np.int32),
        )  # fmt: skip
        sizes = {"edge": (4 + 16 + 16 + 4, 32), "node": (16 + 32 + 32 + 4, 32), "globals": (32 + 32 + 4, 10)}
        params = {
            name: {"kernel": rng.standard_normal(shape, np.float32) / shape[0] ** 0.5, "bias": jnp.zeros(shape[1])}
            for name, shape in sizes.items()
        }

        def layer(params, *values):
            return jnp.tanh(jnp.concatenate(values, axis=-1) @ params["kernel"] + params["bias"])

        def run(params, graph):
            network = jraph.GraphNetwork(*(functools.partial(layer, params[name]) for name in sizes))
            return network(graph)

        return function("jraph.GraphNetwork", "jraph", run, params, graph, main=lambda graph: graph.globals)

    return {"jraph.GraphNetwork": case}


def of_mamba2(small: bool) -> Cases:
    """Mamba-2 with 2 layers."""
    import mamba2_jax
    from flax import nnx

    def case() -> Case:
        config = mamba2_jax.Mamba2Config(
            vocab_size=1000, hidden_size=64 if small else 256, state_size=16 if small else 128, head_dim=16,
            chunk_size=32, num_hidden_layers=2,
        )  # fmt: skip
        model = mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
        return nnx_module("Mamba-2", "mamba2-jax", model, tokens(64, 1000), main=lambda output: output["logits"],
                    reduced="2 layers, narrower, fewer tokens")  # fmt: skip

    return {"Mamba-2": case}


def of_jaxkan(small: bool) -> Cases:
    """A Kolmogorov-Arnold network."""
    models = importlib.import_module("jaxkan.models.KAN")

    def case() -> Case:
        needed = {"D": 5, "flavor": "exact"}
        model = models.KAN(layer_dims=[4, 16, 16, 10], layer_type="chebyshev", required_parameters=needed)
        return nnx_module(
            "jaxKAN (Chebyshev)", "jaxkan", model, np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
        )

    return {"jaxKAN (Chebyshev)": case}
