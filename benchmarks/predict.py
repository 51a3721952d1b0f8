"""How fast parameters are predicted: ResNet-50 again and again, then architectures this process has never seen.

    python benchmarks/predict.py

Prints seconds for the graph and for the parameters, first call and warm, parameters a second, and the number of XLA
compilations.  The PyTorch original takes 35-50 ms for the graph of ResNet-50 and 72-96 ms for its parameters on two
CPU cores.  Weights are random: they do not change the time.
"""

import statistics
import time

import jax

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


def main():
    make_parser(__doc__ or "").parse_args()
    with counted() as compilations:
        report(compilations)


def report(compilations):
    """Prints the table; `compilations` grows by itself."""
    ghn = GHN.init(ghn2(CIFAR10), seed=0)
    compilations.clear()
    print(f"{jax.default_backend()}, {jax.local_device_count()} device(s)\n")
    print(f"{'':34}{'graph':>10}{'parameters':>12}{'million/s':>11}{'compilations':>14}")

    def row(label, graph, params, count):
        rate = count / params / 1e6
        print(f"{label:34}{1e3 * graph:7.1f} ms{1e3 * params:9.1f} ms{rate:11.0f}{len(compilations):14}")
        compilations.clear()

    graph, params, count = measure(named("resnet50"), ghn)
    row(f"ResNet-50 ({count / 1e6:.1f}M), first call", graph, params, count)
    runs = [measure(named("resnet50"), ghn) for _ in range(REPEATS)]
    row("ResNet-50, warm, median", statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs), count)
    row("ResNet-50, warm, best", min(r[0] for r in runs), min(r[1] for r in runs), count)

    begin = time.perf_counter()
    warm_up(ghn)
    print(f"{'warm_up(ghn)':34}{'':10}{1e3 * (time.perf_counter() - begin):9.1f} ms{'':11}{len(compilations):14}")
    compilations.clear()
    runs = [measure(sample_architecture("test", index), ghn) for index in range(NEVER_SEEN)]
    graphs, params, counts = zip(*runs, strict=True)
    row(f"{NEVER_SEEN} never seen, median", *map(statistics.median, (graphs, params, counts)))
    slowest = max(runs, key=lambda run: run[0] + run[1])
    row(f"{NEVER_SEEN} never seen, slowest", *slowest)


if __name__ == "__main__":
    main()
