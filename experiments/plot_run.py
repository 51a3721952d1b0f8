"""Draws training runs into one picture: loss, accuracy on training images, accuracy on unseen networks.

`python experiments/plot_run.py ...` is `ghn-jax plot ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.plot import main

if __name__ == "__main__":
    with clean_exit():
        main()
