"""Predicts the parameters of a model and writes them to a file, without a line of Python.

`python experiments/predict.py ...` is `ghn-jax predict ...`.
"""

import sys

from ghn_jax.__main__ import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
