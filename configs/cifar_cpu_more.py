"""A further stage of training for the hypernetwork of CIFAR-10 that comes with the package, on a small machine.

Muon with warm-up and a cosine down to zero, a moving average of the weights, and images of its own for every network of
a step: 128 different images a step for eight networks.  Networks cost at most 40 million multiply-adds, which keeps the
cheaper quarter; those of the test splits that cost ten times as much are predicted as well as these.  Few of those are
wide, so two in five show the shapes of wider twins: the hypernetwork learns those shapes at no cost.

The weights in the package are those of six stages, each from the weights before: 1,420 and 520 steps with networks of
32 channels and up to 40 million multiply-adds, 1,700 and 1,500 of up to 30 million, then two that show wider shapes:
1,600 as this file says, with `--config.seed=7`, and 1,500 with `--config.seed=9 --config.steps=1500` and a teacher of
`experiments/train_teacher.py`, `--config.teacher=teacher.safetensors`.

Those for Fashion-MNIST have had such a stage too: `--config.dataset=fashion_mnist --config.start=ghn2_fashion_mnist
--config.seed=8 --config.steps=1200`.

Command:  python experiments/train.py --config=configs/cifar_cpu_more.py --config.data_dir=DIR
Hardware: a CPU core, 8 GiB of memory
Time:     about an hour and a half
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="cifar10",
        workdir="runs/cifar_cpu_more",
        start="ghn2_cifar10",
        steps=1600,
        batch_size=16,
        meta_batch=8,
        own_images=True,
        optimizer="muon",
        schedule="cosine",
        warm_up=0.02,
        learning_rate=1e-3,
        weight_decay=0.01,
        average=0.99,
        network_clip_norm=1.0,
        max_multiply_adds=40_000_000,
        wider_networks=True,
        wider_shapes=0.4,
        val_networks=30,
        val_images=512,
        val_minutes=40.0,
    )
