"""Converts a checkpoint of the original PyTorch implementation into a file of this package.

`python experiments/import_checkpoint.py ...` is `ghn-jax import ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.import_checkpoint import main

if __name__ == "__main__":
    with clean_exit():
        main()
