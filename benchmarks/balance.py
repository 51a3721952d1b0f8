"""How evenly a meta-batch can be dealt out to devices, and what devices tell each other.

    python benchmarks/balance.py

Prints the largest cost of a device over the mean, by multiply-adds, averaged over meta-batches of the train
distribution: the others wait for that device.  Also the bytes that are summed over devices in a step.
"""

import itertools

import jax
import numpy as np

from ghn_jax.cli.common import make_parser
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.inputs import shares
from ghn_jax.training.meta_batches import meta_batches

META_BATCHES = 100


def imbalance(costs: list[int], devices: int, deal) -> float:
    """Largest sum of a device over the mean."""
    sums = [sum(costs[position] for position in share) for share in deal(costs, devices)]
    return max(sums) / np.mean(sums)


def in_order(costs: list[int], devices: int) -> list[list[int]]:
    """Shares without looking at costs, to compare with."""
    return np.arange(len(costs)).reshape(devices, -1).tolist()


def main():
    make_parser(__doc__ or "").parse_args()
    config = TrainConfig(meta_batch=1, fixed_width=32)
    stream = (drawn.targets[0].program.multiply_adds for drawn in meta_batches(config, CIFAR10))
    costs = list(itertools.islice(stream, 800))
    print(f"{'devices':>8}{'networks':>10}{'a device':>10}{'balanced':>10}{'in order':>10}")
    for devices in (2, 4, 8, 16):
        for per_device in (1, 2, 4, 8):
            size = devices * per_device
            rng = np.random.default_rng(0)
            drawn = [rng.choice(costs, size).tolist() for _ in range(META_BATCHES)]
            balanced, plain = (
                np.mean([imbalance(costs, devices, deal) for costs in drawn]) for deal in (shares, in_order)
            )
            print(f"{devices:8}{size:10}{per_device:10}{balanced:10.2f}{plain:10.2f}")
    ghn = jax.eval_shape(lambda: GHN.init(config.hypernetwork(CIFAR10), 0).params)
    count = sum(leaf.size for leaf in jax.tree.leaves(ghn))
    print(f"\nsummed over devices in a step: gradients of {count:,} weights, {4 * count / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
