"""Draws the computational graph of an architecture.

`python experiments/visualize.py ...` is `ghn-jax visualize ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.visualize import main

if __name__ == "__main__":
    with clean_exit():
        main()
