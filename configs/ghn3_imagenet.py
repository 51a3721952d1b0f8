"""GHN-3-T on ImageNet with the published recipe: 75 epochs of 9,618 steps, meta-batch 8.

Differs from it in three points: no network has a stem of stride 2 (some small ones have it there), warm-up and cosine
go by steps instead of epochs, and activations are bfloat16 instead of float16.

Command:  python experiments/train.py --config=configs/ghn3_imagenet.py --config.data_dir=DIR
Hardware: several GPUs (their number must divide 8), and a processor core for every 250 images a second
Time:     weeks; not yet run
Score:    not measured here
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="imagenet",
        workdir="runs/ghn3_imagenet",
        steps=75 * 9618,
        ghn="ghn3t",
        batch_size=128,
        meta_batch=8,
        optimizer="adamw",
        learning_rate=4e-4,
        weight_decay=1e-2,
        schedule="cosine",
        warm_up=5 / 75,
        norm_penalty=3e-5,
        wider_networks=True,
        label_smoothing=0.1,
        compute_dtype="bfloat16",
        val_networks=50,
        val_images=1024,
        val_minutes=120.0,
    )
