"""Predicts the parameters of a model and writes them to a file, without a line of Python.

`python experiments/predict.py ...` is `ghn-jax predict ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.predict import main

if __name__ == "__main__":
    with clean_exit():
        main()
