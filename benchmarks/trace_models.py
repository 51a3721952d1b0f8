"""Well-known models, traced and predicted: how much of them the hypernetwork predicts, and how long that takes.

    python benchmarks/trace_models.py
    python benchmarks/trace_models.py --all    # also models of Haiku and Keras, as far as they are installed

Prints a table in Markdown.  "graph" is the first trace of a model in this process and then a second one; "prediction"
is the second one of the model, so everything is compiled; both are CPU time, of all threads together.  Nearly all of
the graph's is Flax's own: it runs the model's Python code twice, to initialise (abstractly) and to apply.
Models of flaxmodels (if installed) are taken as they are.
"""

import itertools
import os
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


def of_haiku():
    """ResNets of Haiku: functions of parameters, states and images."""
    import haiku as hk

    for name in ("ResNet18", "ResNet50"):
        build = getattr(hk.nets, name)
        net = hk.transform_with_state(lambda x, build=build: build(10)(x, is_training=True))
        sample = images(224)
        params, states = jax.eval_shape(net.init, jax.random.key(0), sample)
        function = lambda params, states, x, net=net: net.apply(params, states, None, x)  # noqa: E731
        yield f"Haiku {name}", function, (params, states, sample)


def of_keras():
    """Applications of Keras, in inference: functions of trainable variables, others, and images."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    for name in ("MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121", "ConvNeXtTiny", "Xception"):
        build = getattr(keras.applications, name)
        model = build(weights=None, classes=10, input_shape=(224, 224, 3), classifier_activation=None)
        kinds = (model.trainable_variables, model.non_trainable_variables)
        params, states = ([jax.ShapeDtypeStruct(v.shape, v.value.dtype) for v in kind] for kind in kinds)
        yield f"Keras {name}", model.stateless_call, (params, states, images(224))


def others():
    """Models of other packages; those that are not installed are named on stderr."""
    for package in (of_haiku, of_keras):
        try:
            yield from package()
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)


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
    for name, model, sample in itertools.chain(models(), others() if "--all" in sys.argv else ()):
        inputs = sample if isinstance(sample, tuple) else (sample,)
        graph, first = timed(lambda model=model, inputs=inputs: ghn_jax.trace(model, *inputs))
        _, again = timed(lambda model=model, inputs=inputs: ghn_jax.trace(model, *inputs))
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
