"""Predicts the parameters of architectures that a hypernetwork has never seen, and reports their accuracy.

`python experiments/evaluate.py ...` is `ghn-jax evaluate ...`.
"""

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.evaluate import main

if __name__ == "__main__":
    with clean_exit():
        main()
