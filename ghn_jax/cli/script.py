"""How a script of `experiments/` begins and ends.

A script imports this module before anything else: until `run` takes over, nothing can be lost, and Ctrl-C ends the
process without a traceback out of the middle of an import.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.interrupts import ends_at_second

_PROGRAM = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve()

# A notebook, or a test, that imports a script keeps its own plans.
if _PROGRAM.parent.name == "experiments" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], object]) -> None:
    """Runs the function of a script and ends the process as `clean_exit` does; the second Ctrl-C ends it at once."""
    with clean_exit(at_once=True), ends_at_second():
        main()
