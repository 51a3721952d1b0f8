"""Trains a graph hypernetwork.

`python experiments/train.py ...` is `ghn-jax train ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.train import main

if __name__ == "__main__":
    with clean_exit():
        main()
