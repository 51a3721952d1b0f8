"""Predicts the parameters of architectures that a hypernetwork has never seen, and reports their accuracy.

`python experiments/evaluate.py ...` is `ghn-jax evaluate ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
