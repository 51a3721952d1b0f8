"""GHN-2 on CIFAR-10 within an hour on a small machine, from the weights that come with the package (Fashion-MNIST).

Command:  python experiments/train.py --config=configs/cifar_cpu.py --config.data_dir=DIR
Hardware: 1 CPU core, 8 GiB of memory
Time:     45 minutes
Score:    mean top-1 of 37% on the 500 test networks (64 test images each)
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="cifar10",
        workdir="runs/cifar_cpu",
        start="ghn2_fashion_mnist",
        steps=6000,
        batch_size=32,
        meta_batch=2,
        learning_rate=1e-3,
        network_clip_norm=1.0,
        max_multiply_adds=40_000_000,
        fixed_width=32,
        val_networks=50,
        val_minutes=15.0,
    )
