"""Draws training runs into one picture: loss, accuracy on training images, accuracy on unseen networks.

`python experiments/plot_run.py ...` is `ghn-jax plot ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["plot", *sys.argv[1:]])
