"""Well-known models, traced and predicted: how much of them the hypernetwork predicts, and how long that takes.

    python benchmarks/trace_models.py

Prints a table in Markdown.  "graph" is the first trace of a model in this process and then a second one; "prediction"
is the second one of the model, so everything is compiled; both are CPU time, of all threads together.  Nearly all of
the graph's is Flax's own: it runs the model's Python code twice, to initialise (abstractly) and to apply.
Models of flaxmodels (if installed) are taken as they are.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import ghn_jax
from ghn_jax.cli.common import make_parser
from ghn_jax.prediction.predict import warm_up
from ghn_jax.weights import pretrained

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.models import convnext, densenet, gpt, mobilenet, nnx_models, resnet, unet, vgg, vit  # noqa: E402


def images(size):
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def models():
    """Names, models and inputs."""
    large, small = images(224), images(32)
    yield "ResNet-18", resnet.resnet18(), large
    yield "ResNet-50", resnet.resnet50(), large
    yield "WideResNet-28-10", resnet.wide_resnet28_10(), small
    yield "VGG-16 (batch norm)", vgg.vgg16(), large
    yield "DenseNet-121", densenet.densenet121(), large
    yield "MobileNetV2", mobilenet.mobilenet_v2(), large
    yield "MobileNetV3-Large", mobilenet.mobilenet_v3(), large
    yield "EfficientNet-B0", mobilenet.efficientnet_b0(), large
    yield "ConvNeXt-T", convnext.convnext_tiny(), large
    yield "ViT-S/16", vit.vit_s16(), large
    yield "MLP-Mixer-S/16", vit.mixer_s16(), large
    yield "U-Net encoder", unet.unet_encoder(), images(256)
    yield "GPT-like decoder (scan)", gpt.gpt_small(), jax.ShapeDtypeStruct((1, 256), jnp.int32)
    yield "ResNet-18 (NNX)", nnx_models.resnet18(), small
    yield "ViT (NNX)", nnx_models.vit(), small
    yield "MLP on a table (NNX)", nnx_models.mlp(), jax.ShapeDtypeStruct((8, 16), jnp.float32)
    try:
        import flaxmodels
    except ImportError:
        return
    yield "flaxmodels.ResNet50", flaxmodels.ResNet50(output="logits", pretrained=None), large
    yield "flaxmodels.VGG16", flaxmodels.VGG16(output="logits", pretrained=None), large


def timed(function, *args):
    """Its result and CPU milliseconds."""
    begin = time.process_time()
    result = jax.block_until_ready(function(*args))
    return result, 1e3 * (time.process_time() - begin)


def main():
    make_parser(__doc__ or "").parse_args()
    warm_up(pretrained.load())
    print("| model | parameters | predicted | of kinds seen in training | nodes | graph: first, again | prediction |")
    print("|---|---|---|---|---|---|---|")
    for name, model, sample in models():
        graph, first = timed(lambda model=model, sample=sample: ghn_jax.trace(model, sample))
        _, again = timed(lambda model=model, sample=sample: ghn_jax.trace(model, sample))
        ghn_jax.predict_params(graph)
        _, prediction = timed(ghn_jax.predict_params, graph)
        report = ghn_jax.report(graph)
        count = sum(row.size for row in report.rows)
        seen = sum(row.size for row in report.of(ghn_jax.Verdict.SEEN))
        print(
            f"| {name} | {count / 1e6:.2f}M | {100 * report.share_predicted:.1f}% | {100 * seen / count:.1f}% "
            f"| {graph.num_nodes} | {first:.0f} ms, {again:.0f} ms | {prediction:.0f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
