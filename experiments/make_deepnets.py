"""Writes splits of DeepNets-1M in the published format: an HDF5 file of graphs and a JSON file of architectures.

`python experiments/make_deepnets.py ...` is `ghn-jax deepnets make ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["deepnets", "make", *sys.argv[1:]])
