"""A few steps, to see that everything works.

Command:  python experiments/train.py --config=configs/smoke.py
Hardware: any CPU
Time:     about a minute, most of it compilation
Score:    none, two steps teach nothing
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="digits",
        workdir="runs/smoke",
        steps=2,
        batch_size=16,
        meta_batch=2,
        learning_rate=1e-3,
        max_multiply_adds=20_000_000,
        fixed_width=32,
    )
