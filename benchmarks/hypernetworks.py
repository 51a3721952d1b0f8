"""What kinds of hypernetworks cost in training: the embedder alone, and a whole step.

    python benchmarks/hypernetworks.py                              # on this CPU
    python benchmarks/hypernetworks.py --kinds ghn2 ghn3t --embedder_only
    pip install 'ghn_jax[tpu-check]'
    python benchmarks/hypernetworks.py --platform=tpu               # compiled for a TPU v5e that is not there

Meta-batches of 8 train networks with 32 channels, 64 images.  On a CPU all kinds are timed in turns, in CPU-seconds of
the process, and medians compared with GHN-2's.  For a TPU the two programs around the networks are compiled: the
embeddings, and their gradient with the update.  XLA counts what is in a loop once, and the walk of GHN-1 and GHN-2 from
node to node is one: its steps, one after the other, are given instead.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import accelerators
import jax
import numpy as np
import train_step

from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.rehearsal import facts_of
from ghn_jax.ghn.config import HYPERNETWORKS
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.network import Network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.inputs import graphs_of, padded_nodes
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.step import make_embed

REFERENCE = "ghn2"
META_BATCHES = 3
TURNS = 7


def config_of(kind: str) -> TrainConfig:
    return TrainConfig(ghn=kind, fixed_width=32, batch_size=64, meta_batch=8)


def embedder(kind: str, targets: Sequence[Network]) -> Callable[[], list[float]]:
    """A function that takes CPU-seconds of embeddings, and of embeddings with their gradient, for a meta-batch."""
    ghn = config_of(kind).hypernetwork(CIFAR10)
    params = GHN.init(ghn, seed=0).params
    graphs = [target.graph for target in targets]
    given = graphs_of(graphs, padded_nodes(max(graph.num_nodes for graph in graphs)), ghn)
    embed = make_embed(ghn)

    def gradient(params, given):
        nodes, pull_back = embed(params, given)
        return pull_back(nodes)

    functions = [jax.jit(lambda params, given: embed(params, given)[0]), jax.jit(gradient)]
    for function in functions:
        jax.block_until_ready(function(params, given))

    def once() -> list[float]:
        taken = []
        for function in functions:
            began = time.process_time()
            jax.block_until_ready(function(params, given))
            taken.append(time.process_time() - began)
        return taken

    return once


def on_cpu(kinds: list[str], embedder_only: bool) -> None:
    """Prints medians and their ratio to GHN-2's."""
    use_compilation_cache()
    drawn = [m.targets for m in itertools.islice(meta_batches(config_of(REFERENCE), CIFAR10), META_BATCHES)]
    once = {kind: [embedder(kind, targets) for targets in drawn] for kind in kinds}
    taken = {kind: [] for kind in kinds}
    for _ in range(TURNS):
        for kind in kinds:
            taken[kind].append(np.sum([run() for run in once[kind]], axis=0) / META_BATCHES)
    rows = {kind: [statistics.median(column) for column in zip(*taken[kind], strict=True)] for kind in kinds}
    if not embedder_only:
        rng = np.random.default_rng(0)
        images, labels = rng.standard_normal((64, 32, 32, 3)).astype(np.float32), rng.integers(0, 10, 64, np.int32)
        for kind in kinds:
            print(f"{kind}:", file=sys.stderr)
            with contextlib.redirect_stdout(sys.stderr):
                found = train_step.steps(config_of(kind), drawn, images, labels)
            rows[kind].append(8 * found["cpu_seconds_a_network"])
    names = ["embeddings", "and gradient", "whole step"][: len(rows[kinds[0]])]
    print("CPU-seconds of a meta-batch of 8 (times GHN-2's)")
    print_row("", "parameters", *names)
    for kind in kinds:
        params = GHN.init(config_of(kind).hypernetwork(CIFAR10), seed=0).params
        reference = rows.get(REFERENCE, rows[kinds[0]])
        cells = [f"{value:.3f} ({value / known:.2f})" for value, known in zip(rows[kind], reference, strict=True)]
        print_row(HYPERNETWORKS[kind].title, f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}", *cells)


def for_tpu(kinds: list[str]) -> None:
    """Prints what compiling takes, arithmetic and memory, of a TPU v5e."""
    device = accelerators.device_of("tpu")
    print("compiled for a TPU v5e: embeddings / their gradient and the update")
    print_row("", "CPU-s to compile", "GFLOP", "MB accessed", "MB meanwhile", "steps of the walk")
    for kind in kinds:
        config = config_of(kind)
        ghn, step = config.hypernetwork(CIFAR10), next(accelerators.steps(config, CIFAR10))
        figures = []
        with contextlib.closing(Programs([device], threads=1, keep=False)) as programs:
            for function in (step.embed, step.update):
                began = accelerators.cpu_seconds()
                facts = facts_of(programs.get(function), 0)
                seconds = accelerators.cpu_seconds() - began
                figures.append((seconds, facts.flops / 1e9, facts.accessed / 1e6, facts.temporaries / 1e6))
        walk = 2 * max(target.graph.num_nodes for target in step.targets) if ghn.hypernet == "gatedgnn" else 0
        cells = [f"{before:.2f} / {after:.2f}" for before, after in zip(*figures, strict=True)]
        print_row(HYPERNETWORKS[kind].title, *cells, str(walk))


def print_row(first: str, *cells: str) -> None:
    print(f"  {first:10}" + "".join(f"{cell:>22}" for cell in cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(HYPERNETWORKS), default=["mlp", "ghn1", "ghn2", "ghn3t"])
    parser.add_argument("--platform", choices=("cpu", "tpu"), default="cpu")
    parser.add_argument("--embedder_only", action="store_true", help="leave the whole step out")
    args = parser.parse_args()
    if args.platform == "tpu":
        for_tpu(args.kinds)
    else:
        on_cpu(args.kinds, args.embedder_only)


if __name__ == "__main__":
    main()
