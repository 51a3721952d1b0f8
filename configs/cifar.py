"""GHN-2 on CIFAR-10 as in the paper: 300 epochs of 703 steps, all architectures, meta-batch 8.

Command:  python experiments/train.py --config=configs/cifar.py --config.data_dir=DIR
Hardware: one GPU with 16 GB or more; a CPU needs weeks
Time:     days on one GPU
Score:    mean top-1 of 66.9% on unseen test architectures (published for the original; not yet measured here)
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="cifar10",
        workdir="runs/cifar",
        steps=300 * 703,
        batch_size=64,
        meta_batch=8,
        learning_rate=1e-3,
        val_networks=50,
        val_images=1024,
        val_minutes=60.0,
    )
