"""Public models trained from predicted parameters and from their own, to judge the forecast by.

    python benchmarks/forecast_models.py --out=results/forecast/models.jsonl

Small variants of the models in `examples/models`, which the forecast was not fitted to, on Fashion-MNIST: accuracy on
test images before and after 100 steps of SGD (batches of 32, rate 0.025 along a cosine, momentum 0.9, weight decay
3e-4, clipping to a norm of 5), from the prediction of the hypernetwork and from the model's own initialisation, as
`experiments/train_networks.py` does with networks of DeepNets-1M.  A line is added for every model, with the features
that its forecast is made of: `experiments/fit_forecast.py --models=WHAT:FILE` reads them.  The same command goes on
after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

import ghn_jax  # noqa: E402
from examples.models import convnext, densenet, mobilenet, resnet, vgg, vit  # noqa: E402
from ghn_jax import images  # noqa: E402
from ghn_jax.checks.fields import ByName, Rule  # noqa: E402
from ghn_jax.cli.common import COUNT  # noqa: E402
from ghn_jax.evaluation import json_lines  # noqa: E402
from ghn_jax.evaluation.fine_tuning import Protocol  # noqa: E402
from ghn_jax.images import Dataset, Split  # noqa: E402
from ghn_jax.prediction.forecast import FEATURES, forecast  # noqa: E402
from ghn_jax.runtime import use_compilation_cache  # noqa: E402
from ghn_jax.studies.train_networks import FROM_HE, FROM_PREDICTED  # noqa: E402

STEPS, BATCH, SEED = 100, 32, 0
PROTOCOL = Protocol(STEPS, BATCH)

STARTS = {FROM_PREDICTED, FROM_HE}
ROW: dict[str, Rule] = {
    "features": json_lines.numbers(len(FEATURES), len(FEATURES)),
    "accuracy": ByName(json_lines.ACCURACIES),
}
"""Fields of a stored row, beside the name of the model."""

SMALL = dict(num_classes=10, small_images=True)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-8": lambda: resnet.ResNet((1, 1, 1), resnet.BasicBlock, num_filters=32, **SMALL),
    "ResNet-14": lambda: resnet.ResNet((2, 2, 2), resnet.BasicBlock, num_filters=16, **SMALL),
    "WideResNet-10-2": lambda: resnet.WideResNet(depth=10, width=2),
    "DenseNet-22": lambda: densenet.DenseNet((2, 3, 4), growth=16, num_classes=10),
    "VGG of 4 convolutions": lambda: vgg.VGG((32, "M", 64, "M", 128, 128, "M"), num_classes=10, width=256),
    "VGG of 8 convolutions": lambda: vgg.VGG(
        (32, 32, "M", 64, 64, "M", 128, 128, "M", 256, 256, "M"), num_classes=10, width=256
    ),
    "MobileNetV2": lambda: mobilenet.MobileNetV2(num_classes=10),
    "ConvNeXt, 4 blocks": lambda: convnext.ConvNeXt((1, 1, 1, 1), (32, 64, 128, 256), num_classes=10),
    "ViT, 3 blocks": lambda: vit.ViT(patch=4, dim=96, depth=3, heads=4, num_classes=10),
    "ViT, 6 blocks": lambda: vit.ViT(patch=4, dim=192, depth=6, heads=6, num_classes=10),
    "MLP-Mixer, 3 blocks": lambda: vit.MlpMixer(patch=4, dim=96, depth=3, num_classes=10),
}


def measure(name: str, ghn: ghn_jax.GHN, dataset: Dataset, test: Split) -> dict[str, Any]:
    """Features and accuracies of a model."""
    model = MODELS[name]()
    sample = np.zeros((BATCH, dataset.image_size, dataset.image_size, 3), np.float32)
    graph = ghn_jax.trace(model, sample)
    rngs = {"params": jax.random.key(SEED), "dropout": jax.random.key(SEED)}
    own = jax.jit(lambda: model.init(rngs, sample))()
    states = {kind: values for kind, values in own.items() if kind != "params"}
    seen = [images.train_batch(dataset, 64, SEED, number).images for number in range(8)]  # for running statistics
    optimizer = optax.chain(optax.clip_by_global_norm(PROTOCOL.clip_norm), PROTOCOL.make_optimizer())

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: images.Batch, key: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            variables = {**states, "params": params}
            found, _ = model.apply(variables, batch.images, rngs={"dropout": key}, mutable=list(states))
            return optax.softmax_cross_entropy_with_integer_labels(found, batch.labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def classify(params: Any, stats: Any, pixels: Any) -> jax.Array:
        return model.apply({"params": params, **stats}, pixels, train=False).argmax(-1)

    def accuracy(params: Any) -> float:
        stats = {"batch_stats": ghn_jax.calibrate(model, params, seen, train=False)} if "batch_stats" in states else {}
        right = 0
        for batch, counted in images.eval_batches(test, dataset, 64):
            right += int((classify(params, stats, batch.images) == batch.labels)[:counted].sum())
        return right / len(test.labels)

    found = {}
    for start, params in ((FROM_PREDICTED, ghn_jax.predict_params(graph, ghn)), (FROM_HE, own["params"])):
        params = jax.tree.map(jax.numpy.array, params)  # steps use them up
        found[start] = {"0": accuracy(params)}
        state = optimizer.init(params)
        for number in range(STEPS):
            batch = images.train_batch(dataset, BATCH, SEED, number)
            params, state = step(params, state, batch, jax.random.fold_in(jax.random.key(SEED), number))
        found[start][str(STEPS)] = accuracy(params)
    features = [round(float(value), 5) for value in ghn_jax.report(graph, ghn).features]
    return {"features": features, "accuracy": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="ghn2_fashion_mnist", help="the hypernetwork")
    parser.add_argument("--data_dir", help="where Fashion-MNIST is")
    parser.add_argument("--test_images", type=COUNT, default=512)
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines, which grows")
    args = parser.parse_args()
    use_compilation_cache()
    ghn, dataset = ghn_jax.load(args.checkpoint), images.load("fashion_mnist", args.data_dir)
    test = Split(dataset.test.images[: args.test_images], dataset.test.labels[: args.test_images])
    about = {"checkpoint": args.checkpoint, json_lines.WEIGHTS: ghn.fingerprint}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = json_lines.resume(args.out, model=str, **ROW)
    stored = {row["model"]: row for row in rows if json_lines.is_of(row, about) and STARTS <= row["accuracy"].keys()}
    for name in tqdm(MODELS, unit="model"):
        if name not in stored:
            stored[name] = {"model": name, **about, **measure(name, ghn, dataset, test)}
            json_lines.append(args.out, stored[name])
    print("| model | forecast: helps | predicted: before, after | own: before, after |\n|---|---|---|---|")
    for name in MODELS:
        row = stored[name]
        cells = [
            " ".join(f"{100 * value:.1f}" for value in row["accuracy"][start].values())
            for start in (FROM_PREDICTED, FROM_HE)
        ]
        print(f"| {name} | {forecast(np.array(row['features'])).helps:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
