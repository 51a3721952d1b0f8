"""Draws training runs into one picture: loss, accuracy on training images, accuracy on unseen networks.

ghn-jax plot runs/fashion_mnist
ghn-jax plot runs/ghn1 runs/ghn2 --against=minutes --out=comparison.png
"""

from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import CommandError, make_parser, picture_path, refuse_existing
from ghn_jax.training.plot import plot_runs
from ghn_jax.training.watch import METRICS


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax plot ARGUMENTS`."""
    parser = make_parser(__doc__ or "", "plot")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run")
    parser.add_argument("--against", choices=("step", "minutes"), default="step", help="what goes to the right")
    parser.add_argument("--out", type=picture_path, default=Path("runs.png"), help="the picture (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    refuse_existing(args.out, args.overwrite)
    for run in args.runs:
        if not (Path(run) / METRICS).is_file():
            raise CommandError(f"{run} is not the workdir of a run: it has no {METRICS}")
    with replacing(args.out) as temporary:
        plot_runs(args.runs, temporary, args.against)
    print(f"written: {args.out}")
