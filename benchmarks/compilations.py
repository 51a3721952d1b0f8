"""How often XLA compiles in a training run over more than a thousand distinct architectures.

    python benchmarks/compilations.py
    python benchmarks/compilations.py --widths      # also networks wider than 32 channels: more programs

Prints the compilations before and after the first 50 steps, and how long they took.  After those steps there should be
none.  Images are random: they do not change what is compiled.  Run it a second time to see a process that finds
everything in the persistent cache.
"""

import argparse
import time

import numpy as np
from ghn_jax.training.survey import survey

from ghn_jax.architecture import CIFAR10
from ghn_jax.compilation_cache import use_compilation_cache
from ghn_jax.compilations import counted
from ghn_jax.predict import GHN
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.step import init_state, make_optimizer
from ghn_jax.training.targets import meta_batches

WARM_UP = 50
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
    seen = set()
    with counted() as compilations:
        ahead = survey(config, CIFAR10)
        ghn, optimizer = config.hypernetwork(CIFAR10), make_optimizer(config)
        engine = Engine(config, ghn, optimizer, ahead)
        state = parallel.replicate(init_state(GHN.init(ghn, seed=0).params, optimizer))
        print(f"{sum(len(table.signatures) for table in ahead.tables.values())} operations, widths {[*ahead.tables]}")
        drawn = meta_batches(config, CIFAR10, engine.accepts)
        stream = prefetch(engine.prepare(meta_batch.targets) for meta_batch in drawn)
        first_step, warm_up = None, 0
        for step in range(config.steps):
            prepared = next(stream)
            state, metrics = engine.step(state, prepared, images, labels)
            parallel.first_copy(metrics)
            seen.update(target.architecture for target in prepared.targets)
            if step == 0:
                first_step = time.perf_counter() - began
            if step == WARM_UP - 1:
                warm_up = len(compilations)
        total = time.perf_counter() - began
    before, after = compilations[:warm_up], compilations[warm_up:]
    print(f"{len(seen)} distinct architectures, {config.steps} steps in {total:.0f} s, first after {first_step:.0f} s")
    for label, seconds in ((f"first {WARM_UP} steps", before), ("after them", after)):
        long = [value for value in seconds if value > 0.5]
        print(f"{label:16} {len(seconds):4} compilations, {sum(seconds):6.1f} s; {len(long):3} longer than 0.5 s")


if __name__ == "__main__":
    main()
