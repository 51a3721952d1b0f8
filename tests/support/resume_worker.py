"""A run over small networks of two widths, to be killed by test_resume.py; prints a line after every step."""

import argparse
import dataclasses
import os
import resource
import signal

parser = argparse.ArgumentParser()
parser.add_argument("--workdir", required=True)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--largest_file", type=int, help="in bytes, as a disk that is nearly full")
args = parser.parse_args()
if args.largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (args.largest_file, args.largest_file))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.environ["JAX_PLATFORMS"] = "cpu"

from ghn_jax.ghn.config import HypernetConfig  # noqa: E402
from ghn_jax.networks.architecture import Architecture, Genotype  # noqa: E402
from ghn_jax.runtime import use_compilation_cache  # noqa: E402
from ghn_jax.training import (  # noqa: E402
    loop,
    meta_batches,  # noqa: E402
    validation,
)
from ghn_jax.training.config import TrainConfig  # noqa: E402
from ghn_jax.training.watch import Watch  # noqa: E402

CELL = Genotype(
    normal=(("conv_1x1", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)


def small_architecture(seed, position, large_images, rules=None):
    """Networks of two widths and several depths, one in two with dropout."""
    base = Architecture(CELL, n_cells=1, C=8, fc_dim=16)
    return dataclasses.replace(
        base, n_cells=1 + position % 2, C=12 if position % 5 < 2 else 8, fc_layers=1 + position % 2
    )


real_report = Watch.report


def report_and_print(self, name, fields):
    real_report(self, name, fields)
    print(name, fields["step"], flush=True)


Watch.report = report_and_print
meta_batches.train_architecture = small_architecture
validation.sample_architecture = lambda split, number, large_images: small_architecture(0, number, large_images)
TrainConfig.hypernetwork = lambda self, task: HypernetConfig(
    max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8
)
use_compilation_cache()
outcome = loop.train(
    TrainConfig(
        dataset="digits", workdir=args.workdir, steps=args.steps, batch_size=8, meta_batch=3, seed=args.seed,
        checkpoint_minutes=0.002, keep_checkpoints=2, val_networks=2, val_images=16, val_minutes=0.02,
    )
)  # fmt: skip
print("ended", outcome.step, outcome.signal, flush=True)
