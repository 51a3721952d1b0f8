"""Statistics of a split of DeepNets-1M: nodes, parameters, degrees, shortest paths and types of nodes.

`python experiments/describe_deepnets.py ...` is `ghn-jax deepnets describe ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.describe_deepnets import main

if __name__ == "__main__":
    with clean_exit():
        main()
