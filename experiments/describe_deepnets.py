"""Statistics of a split of DeepNets-1M: nodes, parameters, degrees, shortest paths and types of nodes.

`python experiments/describe_deepnets.py ...` is `ghn-jax deepnets describe ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["deepnets", "describe", *sys.argv[1:]])
