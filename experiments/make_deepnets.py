"""Writes splits of DeepNets-1M in the published format: an HDF5 file of graphs and a JSON file of architectures.

`python experiments/make_deepnets.py ...` is `ghn-jax deepnets make ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.make_deepnets import main

if __name__ == "__main__":
    with clean_exit():
        main()
