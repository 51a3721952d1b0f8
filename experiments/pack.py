"""Packs a trained hypernetwork into one file with where it comes from, like those that come with the package.

`python experiments/pack.py ...` is `ghn-jax pack ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["pack", *sys.argv[1:]])
