"""Compares two training runs network by network: which kinds of networks does one of them predict better?

    python experiments/compare_runs.py runs/ghn2 runs/mlp --from_step=1500

Runs of the same seed, meta-batch and limits meet the same networks with the same images at the same step.  Printed is
the loss of each such network in the first run minus that in the second: negative is better for the first.
`ghn_jax.studies.compare_runs` says more.
"""

import ghn_jax.cli.script

# isort: split
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.cli.common import COUNT, make_parser
from ghn_jax.studies import compare_runs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("first", type=Path, help="working directory of a run")
    parser.add_argument("second", type=Path, help="of another")
    parser.add_argument("--from_step", type=COUNT, default=1, help="steps before it do not count")
    args = parser.parse_args(arguments)
    found = compare_runs.compare(args.first, args.second, args.from_step)
    print(compare_runs.table(found, args.first.resolve().name, args.second.resolve().name))


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
