"""Memory that evaluation keeps for a network: after the first ones almost nothing, since operations are shared.

    python benchmarks/evaluation_memory.py --networks=200

Test networks with predicted parameters classify 64 random images each, operation by operation, in one process.  Every
20 networks a line is printed: programs compiled so far, what is allocated, and resident memory (compiled code is
counted there only).  The exit status is 1 if the second half of the networks takes more than 1 MiB each.
"""

from __future__ import annotations

import sys

import numpy as np
from soak import Memory, memory

from ghn_jax.cli.common import make_parser
from ghn_jax.deepnets.sampler import sample_architecture, split_size
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation
from ghn_jax.execution.compiling import Programs
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.network import make_network
from ghn_jax.networks.platforms import default_device
from ghn_jax.prediction.predict import predict_params, warm_up
from ghn_jax.runtime import use_compilation_cache

EVERY = 20
MOST_MIB = 1.0
"""Resident memory that one more network may take."""


def main() -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--networks", type=int, default=200, help="of the split test")
    args = parser.parse_args()
    if not 2 * EVERY <= args.networks <= split_size("test"):
        parser.error(f"--networks={args.networks}: expected {2 * EVERY} to {split_size('test')}")
    use_compilation_cache()
    programs = Programs([default_device()])
    run = ByOperation(BATCH_SIZE, programs)
    images = np.random.default_rng(0).normal(size=(BATCH_SIZE, 32, 32, 3)).astype(np.float32)
    warm_up()
    measured: list[Memory] = []
    for number in range(args.networks):
        network = make_network(number, sample_architecture("test", number), CIFAR10)
        logits = run(network.program, predict_params(network.graph))(images)
        if not np.isfinite(logits).all():
            print(f"test/{number}: logits that are not finite")
            return 1
        if (number + 1) % EVERY == 0:
            measured.append(now := memory())
            print(
                f"{number + 1} networks: {programs.started} programs, {now.allocated:,.1f} MiB allocated, "
                f"{now.resident:,.1f} MiB resident",
                flush=True,
            )
    half = measured[len(measured) // 2 - 1 :]
    each = (half[-1].resident - half[0].resident) / (EVERY * (len(half) - 1))
    print(f"{each:.2f} MiB a network in the second half")
    return int(each > MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())
