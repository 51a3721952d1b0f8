"""A further stage of training for the hypernetwork of CIFAR-10 that comes with the package, on a small machine.

Muon with warm-up and a cosine down to zero, a moving average of the weights, and images of its own for every network of
a step: 128 different images a step for eight networks.  The weights in the package are those of 1,420 of these steps
and then 520 with `--config.steps=520 --config.learning_rate=5.5e-4 --config.average=0.98`.

Command:  python experiments/train.py --config=configs/cifar_cpu_more.py --config.data_dir=DIR
Hardware: 2 CPU cores, 8 GiB of memory
Time:     about 2 CPU-hours for 3,000 steps
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="cifar10",
        workdir="runs/cifar_cpu_more",
        start="ghn2_cifar10",
        steps=3000,
        batch_size=16,
        meta_batch=8,
        own_images=True,
        optimizer="muon",
        schedule="cosine",
        warm_up=0.03,
        learning_rate=1e-3,
        weight_decay=0.01,
        average=0.995,
        network_clip_norm=1.0,
        max_multiply_adds=40_000_000,
        fixed_width=32,
        val_networks=30,
        val_images=512,
        val_minutes=45.0,
    )
