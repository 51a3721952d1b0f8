"""Draws training runs into one picture: loss, accuracy on training images, accuracy on unseen networks.

python experiments/plot_run.py runs/fashion_mnist
python experiments/plot_run.py runs/ghn1 runs/ghn2 --against=minutes --out=comparison.png
"""

import argparse
import sys
from pathlib import Path

from ghn_jax.training.plot import plot_runs
from ghn_jax.training.watch import METRICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run")
    parser.add_argument("--against", choices=("step", "minutes"), default="step", help="what goes to the right")
    parser.add_argument("--out", default="runs.png", help="the picture")
    args = parser.parse_args()
    for run in args.runs:
        if not (Path(run) / METRICS).is_file():
            sys.exit(f"{run} is not the workdir of a run: it has no {METRICS}")
    plot_runs(args.runs, args.out, args.against)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
