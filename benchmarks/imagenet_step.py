"""One training step on synthetic images of ImageNet's shapes: 224x224 pixels, 1000 classes, GHN-2 of 16x16 kernels.

    python benchmarks/imagenet_step.py
    python benchmarks/imagenet_step.py --batch_size=64 --meta_batch=8      # on a GPU

Prints seconds, the memory for activations and the process's, and what configs/imagenet.py would need.
"""

import argparse
import dataclasses
import itertools
import resource
import time

import jax
import numpy as np

from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import IMAGENET
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.memory import plan_of
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import init_state

GIB = 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--meta_batch", type=int, default=2)
    parser.add_argument("--looked_at", type=int, default=200, help="networks for the estimate of a full run")
    args = parser.parse_args()
    use_compilation_cache()
    config = TrainConfig(dataset="imagenet", batch_size=args.batch_size, meta_batch=args.meta_batch, fixed_width=32)
    targets = next(meta_batches(config, IMAGENET)).targets
    hypernet, optimizer = config.hypernetwork(IMAGENET), make_optimizer(config)
    engine = Engine(config, hypernet, optimizer)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((config.batch_size, 224, 224, 3)).astype(np.float32)
    labels = rng.integers(0, 1000, config.batch_size).astype(np.int32)
    state = parallel.replicate(init_state(GHN.init(hypernet, seed=0).params, optimizer))
    prepared = engine.prepare(state, targets)
    for number in (1, 2):
        begin = time.perf_counter()
        state, metrics = engine.step(state, prepared, images, labels)
        metrics = parallel.first_copy(metrics)
        print(f"step {number}: {time.perf_counter() - begin:.1f} s, losses {metrics.losses.ravel().round(3).tolist()}")
    engine.close()
    largest = max(plan_of(target, config).peak_bytes for target in targets)
    costs = ", ".join(f"{target.program.multiply_adds / 1e6:.0f}M" for target in targets)
    print(
        f"{jax.default_backend()}: {len(targets)} networks of {costs} multiply-adds, {config.batch_size} images: "
        f"{largest / GIB:.2f} GiB for activations of the largest, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB:.2f} GiB at most in the process"
    )
    drawn = meta_batches(TrainConfig(dataset="imagenet", meta_batch=8, batch_size=256), IMAGENET)
    several = itertools.islice((target for meta_batch in drawn for target in meta_batch.targets), args.looked_at)
    full = dataclasses.replace(config, batch_size=256)
    sizes = np.array([plan_of(target, full).peak_bytes / GIB for target in several])
    print(
        f"configs/imagenet.py, 256 images, float32: {np.median(sizes):.1f} GiB for the median of {len(sizes)} train "
        f"networks, {np.quantile(sizes, 0.95):.1f} for 95% of them, {sizes.max():.1f} for the largest"
    )


if __name__ == "__main__":
    main()
