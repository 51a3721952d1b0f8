"""Says of every parameter of a model or architecture how it would be predicted, and what that is likely to be worth.

Nothing is predicted, and no image is needed.

ghn-jax report --model=examples.models.resnet:resnet50 --input=1,224,224,3
ghn-jax report --arch=resnet50
"""

from __future__ import annotations

from collections.abc import Sequence

from ghn_jax.cli.common import add_hypernetwork, load_hypernetwork, make_parser
from ghn_jax.cli.model import add_model, check_model, make_graph
from ghn_jax.prediction.report import report


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax report ARGUMENTS`."""
    parser = make_parser(__doc__ or "", "report")
    add_model(parser)
    add_hypernetwork(parser)
    args = parser.parse_args(arguments)
    check_model(parser, args)
    ghn, task = load_hypernetwork(args.checkpoint)
    found = report(make_graph(args, task), ghn)
    print(found, found.forecast, sep="\n")
