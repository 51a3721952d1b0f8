"""GHN-2 on a folder of your own images, DIR/train/CLASS/* and DIR/test/CLASS/*, from the weights for Fashion-MNIST.

Images are scaled to 32x32.  Layers for the classes are new, for as many as there are folders; all others are kept.

Command:  ghn-jax train --config=configs/small_images.py --config.data_dir=DIR
Hardware: 2 CPU cores
Time:     at most 10 minutes, of which compiling takes some
Score:    44.2% mean of 12 test networks after 250 steps on the twenty classes of examples/digits_and_fashion.py; 11.1%
          with --config.start=random
"""

from ml_collections import ConfigDict

from ghn_jax.training.config import config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return config_dict(
        dataset="small_images",
        workdir="runs/small_images",
        start="ghn2_fashion_mnist",
        steps=1200,
        batch_size=32,
        meta_batch=2,
        learning_rate=1e-3,
        decay_at=(0.7,),
        network_clip_norm=1.0,
        max_multiply_adds=12_000_000,
        fixed_width=32,
        max_minutes=10.0,
    )
