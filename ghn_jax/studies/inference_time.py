"""How long networks take for an image: measured in turns, so that what else a machine does hits all of them alike.

Source: paper, section 5.2 (time of a forward pass).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from ghn_jax.evaluation.accuracy import ByOperation
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import Network


def measure(
    networks: Mapping[str, Network],
    batch_size: int = 64,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Seconds for an image, the least of several rounds in each of which every network has its turn.

    Parameters are random, which makes no difference.  The clock is that of this process's processors: keep the process
    on one (`os.sched_setaffinity` before JAX starts its threads), and the figure is the time on an idle core.

    Args:
      networks: by name.
      batch_size: images at once.
      rounds: how many.
      clock: seconds.
    """
    run_network = ByOperation(batch_size)
    device = jax.local_devices()[0]
    functions = {}
    for name, network in networks.items():
        params = jax.device_put(he_init(network.program, network.number), device)
        images = np.zeros((batch_size, *network.program.register_shape(0)), np.float32)
        functions[name] = (run_network(network.program, params), images)
    least = dict.fromkeys(networks, float("inf"))
    for turn in range(rounds + 1):
        for name, (function, images) in functions.items():
            began = clock()
            function(images)
            seconds = (clock() - began) / batch_size
            if turn > 0:  # the first one warms up
                least[name] = min(least[name], seconds)
    return least
