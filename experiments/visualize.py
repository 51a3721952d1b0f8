"""Draws the computational graph of an architecture.

`python experiments/visualize.py ...` is `ghn-jax visualize ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["visualize", *sys.argv[1:]])
