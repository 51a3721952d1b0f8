"""Converts a checkpoint of the original PyTorch implementation into a file of this package.

`python experiments/import_checkpoint.py ...` is `ghn-jax import ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["import", *sys.argv[1:]])
