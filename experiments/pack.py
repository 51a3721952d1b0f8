"""Packs a trained hypernetwork into one file with where it comes from, like those that come with the package.

`python experiments/pack.py ...` is `ghn-jax pack ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.pack import main

if __name__ == "__main__":
    with clean_exit():
        main()
