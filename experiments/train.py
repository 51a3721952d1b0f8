"""Trains a graph hypernetwork.

`python experiments/train.py ...` is `ghn-jax train ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
