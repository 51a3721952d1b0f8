"""Lists the hypernetworks in the package: what they were trained on, for how long, and how accurate they are.

ghn-jax models
"""

from __future__ import annotations

from collections.abc import Sequence

from ghn_jax.cli.common import make_parser
from ghn_jax.weights.loading import load


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax models`."""
    make_parser(__doc__ or "", "models").parse_args(arguments)
    print(load())
