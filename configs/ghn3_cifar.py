"""GHN-3-T on CIFAR-10 with the published recipe: 300 epochs of 703 steps, meta-batch 8.

Differs from it in one point: warm-up and cosine go by steps instead of epochs.

Command:  python experiments/train.py --config=configs/ghn3_cifar.py --config.data_dir=DIR
Hardware: one GPU with 16 GB or more; a CPU needs weeks
Time:     days on one GPU; not yet run
Score:    not measured, and none is published
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="cifar10",
        workdir="runs/ghn3_cifar",
        steps=300 * 703,
        ghn="ghn3t",
        batch_size=64,
        meta_batch=8,
        optimizer="adamw",
        learning_rate=4e-4,
        weight_decay=1e-2,
        schedule="cosine",
        warm_up=5 / 300,
        norm_penalty=3e-5,
        wider_networks=True,
        val_networks=50,
        val_images=1024,
        val_minutes=60.0,
    )
