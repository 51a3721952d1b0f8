"""GHN-2 on Fashion-MNIST, within an hour on a small machine.

Command:  python experiments/train.py --config=configs/fashion_mnist.py
Hardware: 2 CPU cores
Time:     45 minutes
Score:    mean top-1 of 62% on the 500 test networks (64 test images each)
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="fashion_mnist",
        workdir="runs/fashion_mnist",
        steps=8000,
        batch_size=32,
        meta_batch=2,
        learning_rate=1e-3,
        network_clip_norm=1.0,
        max_multiply_adds=40_000_000,
        fixed_width=32,
        max_minutes=45.0,
        val_networks=20,
    )
