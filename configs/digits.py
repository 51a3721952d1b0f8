"""GHN-2 on the 8x8 digits of scikit-learn, from the weights that come with the package (Fashion-MNIST): the demo.

With --config.start=random it starts from random weights, and learns more slowly.

Command:  python experiments/train.py --config=configs/digits.py
Hardware: 2 CPU cores
Time:     at most 6 minutes, of which compiling takes up to two
Score:    mean top-1 of 70% on 20 unseen networks (first 256 test images); 57% when busy cores left time for 471 steps
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="digits",
        workdir="runs/digits",
        start="ghn2_fashion_mnist",
        steps=1200,
        batch_size=32,
        meta_batch=2,
        learning_rate=1e-3,
        decay_at=(0.7,),
        network_clip_norm=1.0,
        max_multiply_adds=12_000_000,
        fixed_width=32,
        max_minutes=6.0,
    )
