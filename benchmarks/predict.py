"""How fast parameters are predicted: ResNet-50 again and again, then architectures this process has never seen.

    python benchmarks/predict.py

Prints the time for the graph and for the parameters, first call and warm, parameters a second, and the number of XLA
compilations; what writing as many numbers to fresh memory takes, on one thread; the first call of a second process,
which finds the programs that the first has kept; and `warm_up` in a process that finds none.  The PyTorch original
takes 35-50 ms for the graph of ResNet-50 and 72-96 ms for its parameters on two CPU cores.  Weights are random: they do
not change the time.
"""

import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
import time

import jax
import numpy as np

from ghn_jax.cli.common import make_parser
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.ghn.config import ghn2
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, named
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.predict import predict_params, warm_up
from ghn_jax.runtime import counted

NEVER_SEEN = 20
REPEATS = 20


def measure(architecture, ghn):
    """Seconds for the graph and for the parameters, and the number of parameters."""
    begin = time.perf_counter()
    graph = build_graph(architecture)
    built = time.perf_counter()
    params = jax.block_until_ready(predict_params(graph, ghn))
    done = time.perf_counter()
    return built - begin, done - built, sum(values.size for values in params.values())


def seconds_to_write(count):
    """Seconds to write so many numbers to fresh memory, on one thread."""
    begin = time.perf_counter()
    np.empty(count, np.float32).fill(1)
    return time.perf_counter() - begin


def warm_up_afresh(kept):
    """Seconds and compilations of `warm_up`, in a process that keeps programs in the folder `kept`."""
    os.environ["XDG_CACHE_HOME"] = kept
    ghn = GHN.init(ghn2(CIFAR10), seed=0)
    with counted() as compilations:
        begin = time.perf_counter()
        warm_up(ghn)
        return time.perf_counter() - begin, len(compilations)


def first_call():
    """`measure` of a ResNet-50, and compilations, in a process that finds what others have kept."""
    ghn = GHN.init(ghn2(CIFAR10), seed=0)
    with counted() as compilations:
        return *measure(named("resnet50"), ghn), len(compilations)


def in_a_process(function, *arguments):
    """What a function returns in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def main():
    make_parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as kept, counted() as compilations:
        os.environ["XDG_CACHE_HOME"] = kept
        report(compilations)


def report(compilations):
    """Prints the table; `compilations` grows by itself."""
    ghn = GHN.init(ghn2(CIFAR10), seed=0)
    compilations.clear()
    print(f"{jax.default_backend()}, {jax.local_device_count()} device(s)\n")
    print(f"{'':34}{'graph':>10}{'parameters':>12}{'million/s':>11}{'compilations':>14}")

    def row(label, graph, params, count, compiled=None):
        rate, compiled = count / params / 1e6, len(compilations) if compiled is None else compiled
        print(f"{label:34}{1e3 * graph:7.1f} ms{1e3 * params:9.1f} ms{rate:11.0f}{compiled:14}")
        compilations.clear()

    graph, params, count = measure(named("resnet50"), ghn)
    row(f"ResNet-50 ({count / 1e6:.1f}M), first call", graph, params, count)
    row("that of a second process", *in_a_process(first_call))
    runs, writing = [], []
    for _ in range(REPEATS):  # in turns: how fast memory is changes with what else runs
        runs.append(measure(named("resnet50"), ghn))
        writing.append(seconds_to_write(count))
    row("ResNet-50, warm, median", statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs), count)
    row("ResNet-50, warm, best", min(r[0] for r in runs), min(r[1] for r in runs), count)
    median, best = 1e3 * statistics.median(writing), 1e3 * min(writing)
    print(f"{'writing as much, median and best':34}{median:7.1f} ms{best:9.1f} ms")

    with tempfile.TemporaryDirectory() as empty:
        seconds, number = in_a_process(warm_up_afresh, empty)
    print(f"{'warm_up(ghn), a fresh process':34}{'':10}{1e3 * seconds:9.1f} ms{'':11}{number:14}")
    warm_up(ghn)
    compilations.clear()
    runs = [measure(sample_architecture("test", index), ghn) for index in range(NEVER_SEEN)]
    graphs, params, counts = zip(*runs, strict=True)
    row(f"{NEVER_SEEN} never seen, median", *map(statistics.median, (graphs, params, counts)))
    slowest = max(runs, key=lambda run: run[0] + run[1])
    row(f"{NEVER_SEEN} never seen, slowest", *slowest)


if __name__ == "__main__":
    main()
