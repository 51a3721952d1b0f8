"""Loads predicted parameters into torchvision and compares the logits; reads our safetensors with its own library.

    pip install torch torchvision safetensors
    python benchmarks/check_formats.py

A ResNet-50 for photographs is predicted, saved as `.safetensors` and as `.pt` in PyTorch's layout, and loaded into
`torchvision.models.resnet50`.  Only the running statistics of batch norm are not in the files, since nothing has
accumulated any: both networks use those of the batch.  Prints the largest relative difference of the logits, and of the
parameters after the way back.  Exit status 1 if a name differs or a difference exceeds 1e-4.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import ghn_jax
from ghn_jax.execution import whole
from ghn_jax.networks.lowering import lower

TOLERANCE = 1e-4


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=96, help="height and width of the images (%(default)s)")
    args = parser.parse_args()
    try:
        torch, torchvision, safetensors_torch = map(
            importlib.import_module, ("torch", "torchvision", "safetensors.torch")
        )
    except ImportError as missing:
        sys.exit(f"{missing.name} is not installed: pip install torch torchvision safetensors")

    ghn = ghn_jax.load("ghn2_cifar10")
    network = ghn_jax.named("resnet50")
    task = ghn_jax.Task(ghn.config.num_classes, args.image_size, large_images=True)
    graph = ghn_jax.build_graph(network, task)
    params = ghn_jax.predict_params(graph, ghn)
    images = np.random.default_rng(0).standard_normal((8, args.image_size, args.image_size, 3), np.float32)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(lambda p, x: whole.run(lower(network, task), p, x))(params, images))

    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("resnet50.safetensors", "resnet50.pt"):
            path = ghn_jax.save(params, Path(folder) / name, layout="torch", graph=graph)
            if path.suffix == ".pt":
                state = torch.load(path, weights_only=True)
            else:
                state = safetensors_torch.load_file(path)
            model = torchvision.models.resnet50(num_classes=task.num_classes)
            found = model.load_state_dict(state, strict=False)
            absent = [key for key in found.missing_keys if "running_" not in key and "num_batches" not in key]
            if absent or found.unexpected_keys:
                print(f"{name}: torchvision misses {absent}, does not know {found.unexpected_keys}")
                return 1
            with torch.no_grad():  # in training mode, which takes the statistics of the batch
                theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
            again = ghn_jax.load_params(path, graph, layout="torch")
            back = max(relative(np.asarray(again[key]), np.asarray(params[key])) for key in params)
            logits = relative(ours, theirs)
            print(f"{name}: {len(state)} tensors; logits differ by {logits:.1e}, parameters read back by {back:.1e}")
            worst = max(worst, logits, back)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
