"""GHN-2 on the 8x8 digits of scikit-learn: the demo.

Command:  python experiments/train.py --config=configs/digits.py
Hardware: 2 CPU cores
Time:     about 5 minutes, the first two mostly compilation
Score:    see the README
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The run; fields are explained in `ghn_jax.training.config.TrainConfig`."""
    return ConfigDict(
        {
            "dataset": "digits",
            "data_dir": config_dict.placeholder(str),
            "workdir": "runs/digits",
            "seed": 0,
            "ghn": "ghn2",
            "steps": 450,
            "batch_size": 32,
            "meta_batch": 2,
            "learning_rate": 2e-3,
            "max_multiply_adds": 20_000_000,
            "fixed_width": 32,
            "max_minutes": 5.0,
        }
    )
