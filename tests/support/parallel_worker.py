"""Two training steps on some devices and processes; run by test_parallel.py, once for every process."""

import argparse
import dataclasses
import itertools
import os

parser = argparse.ArgumentParser()
parser.add_argument("--workdir", required=True)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--coordinator")
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--process", type=int, default=0)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"

from ghn_jax.ghn.config import HypernetConfig  # noqa: E402
from ghn_jax.networks.architecture import Architecture, Genotype  # noqa: E402
from ghn_jax.networks.network import make_network  # noqa: E402
from ghn_jax.training import loop, memory, parallel  # noqa: E402
from ghn_jax.training.config import TrainConfig  # noqa: E402
from ghn_jax.training.meta_batches import MetaBatch  # noqa: E402

CELL = Genotype(
    normal=(("sep_conv_3x3", 0), ("conv_1x1", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)


def fixed_meta_batches(config, task, start=0, stop=None, *, first_step=0):
    """Always the same eight small networks, of very different cost; half of them with dropout."""
    base = Architecture(CELL, n_cells=1, C=8, fc_dim=16)
    targets = tuple(
        make_network(i, dataclasses.replace(base, n_cells=1 + i % 4, fc_layers=1 + i // 4), task) for i in range(8)
    )
    for step in itertools.count(1) if stop is None else (1,):
        yield MetaBatch(targets, 8 * step)


loop.meta_batches = memory.meta_batches = fixed_meta_batches
TrainConfig.hypernetwork = lambda self, task: HypernetConfig(
    max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8
)
parallel.connect(args.coordinator, args.processes, args.process)
loop.train(
    TrainConfig(
        dataset="digits", workdir=args.workdir, steps=2, batch_size=8, meta_batch=8, seed=args.seed, clip_norm=1e9,
        weight_decay=0.0, learning_rate=1e-3,
    )
)  # fmt: skip
