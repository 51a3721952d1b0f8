"""The program `ghn-jax`, also as `python -m ghn_jax`: Ctrl-C is looked after before anything is imported."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax ARGUMENTS`, by default with those of this process, and owns the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # to the end of the process: not even its last steps raise
    from ghn_jax.cli.main import main as run

    run(arguments, program=True)


if __name__ == "__main__":
    main()
