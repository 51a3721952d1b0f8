"""How often XLA compiles in a training run over more than a thousand distinct architectures.

    python benchmarks/compilations.py
    python benchmarks/compilations.py --widths      # also networks wider than 32 channels: more programs

Prints after how many networks how many programs had been compiled, and what that took: an operation is compiled when
the first network has it.  Images are random: they do not change what is compiled.  Run it a second time to see a
process that finds everything in the persistent cache.
"""

import argparse
import contextlib
import time

import numpy as np

from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.runtime import counted, use_compilation_cache
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.step import init_state

SHOWN = (8, 16, 32, 64, 128, 256, 512, 1024)
BATCH = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=1040)
    parser.add_argument("--widths", action="store_true")
    args = parser.parse_args()
    began = time.perf_counter()
    use_compilation_cache()
    config = TrainConfig(
        steps=-(-args.architectures // 8),
        batch_size=BATCH,
        network_clip_norm=1.0,
        fixed_width=None if args.widths else 32,
        max_multiply_adds=60_000_000,
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, BATCH).astype(np.int32)
    seen, rows = set(), []
    ghn, optimizer = config.hypernetwork(CIFAR10), make_optimizer(config)
    with counted() as compilations, contextlib.closing(Engine(config, ghn, optimizer)) as engine:
        state = parallel.replicate(init_state(GHN.init(ghn, seed=0).params, optimizer))
        stream = prefetch(engine.prepare(state, meta_batch.targets) for meta_batch in meta_batches(config, CIFAR10))
        for step in range(config.steps):
            prepared = next(stream)
            state, metrics = engine.step(state, prepared, images, labels)
            parallel.first_copy(metrics)
            seen.update(target.architecture for target in prepared.targets)
            if len(seen) in SHOWN or step == config.steps - 1:
                rows.append((len(seen), len(compilations), sum(compilations), time.perf_counter() - began))
        stream.close()
    print(f"{'networks':>9}{'compilations':>14}{'seconds of them':>17}{'seconds':>9}")
    for networks, count, compiling, seconds in rows:
        print(f"{networks:9}{count:14}{compiling:17.0f}{seconds:9.0f}")


if __name__ == "__main__":
    main()
