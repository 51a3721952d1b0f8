"""GHN-2 on ImageNet as in the paper: 300 epochs of 4,809 steps, all architectures, meta-batch 8.

Command:  python experiments/train.py --config=configs/imagenet.py --config.data_dir=DIR
Hardware: several GPUs (their number must divide 8), and a processor core for every 250 images a second
Time:     weeks; not yet run in full
Score:    mean top-5 of 27.2% on unseen test architectures (published for the original; not yet measured here)
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="imagenet",
        workdir="runs/imagenet",
        steps=300 * 4809,
        batch_size=256,
        meta_batch=8,
        learning_rate=1e-3,
        val_networks=50,
        val_images=1024,
        val_minutes=120.0,
        label_smoothing=0.1,
        compute_dtype="float32",
    )
