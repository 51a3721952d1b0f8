"""How fast DeepNets-1M is made on one core, architectures with graphs and shortest paths, and where the time goes.

    python benchmarks/generate.py

Prints seconds of CPU time by stage and architectures a second.  The PyTorch original makes 12 a second (architecture,
graph and paths up to 250, measured on two cores).
"""

import argparse
import gc
import time

import numpy as np

from ghn_jax.deepnets import sampler
from ghn_jax.deepnets.files.writing import stored_network
from ghn_jax.graphs.graph import shortest_paths
from ghn_jax.networks import program_graph
from ghn_jax.networks.lowering import lower

ORIGINAL = 12
ROUNDS = 5


def cpu_seconds(function, items) -> float:
    """CPU time of calling `function` with every item, the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for item in items:
            function(item)
        times.append(time.process_time() - begin)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=300, help="number of architectures, from index 0 of the split on")
    parser.add_argument("--split", default="train", choices=sorted(sampler.SPLITS))
    args = parser.parse_args()
    indices = range(args.num)

    def draw(index):
        return sampler.sample_program(args.split, index)

    def draw_and_graph(index):
        return program_graph.graph_of(draw(index)[1])

    def both_cutoffs(index):
        distances = draw_and_graph(index).distances
        return np.where(distances <= 50, distances, 0)

    drawn = [draw(index) for index in indices]
    edges = [
        (np.argwhere(graph.distances == 1).tolist(), graph.num_nodes)
        for graph in (program_graph.graph_of(program) for _, program in drawn)
    ]
    gc.collect()
    gc.freeze()

    total = cpu_seconds(draw_and_graph, indices)
    parts = {
        "lowering the accepted draw": cpu_seconds(lambda pair: lower(pair[0], sampler.SMALL_FORM), drawn),
        "graph without paths": 0.0,
        "shortest paths up to 250": cpu_seconds(lambda graph: shortest_paths(*graph, cutoff=250), edges),
    }
    graphs = cpu_seconds(lambda pair: program_graph.graph_of(pair[1]), drawn)
    parts["graph without paths"] = graphs - parts["shortest paths up to 250"]
    drawing = cpu_seconds(draw, indices)
    rejected = {"drawing, rejected draws, owners": drawing - parts["lowering the accepted draw"]}
    nodes = np.mean([count for _, count in edges])
    print(f"{args.num} architectures of {args.split!r}, {nodes:.0f} nodes on average\n")
    for name, seconds in {**rejected, **parts}.items():
        print(f"{name:42}{1e3 * seconds / args.num:8.3f} ms{seconds / total:8.0%}")
    print()
    for name, seconds in {
        "architectures with graphs and paths": total,
        "the same, paths up to 50 and up to 250": cpu_seconds(both_cutoffs, indices),
        "the same, as written to the published file": cpu_seconds(lambda i: stored_network(args.split, i), indices),
    }.items():
        rate = args.num / seconds
        print(f"{name:42}{rate:8.0f} a second a core,{rate / ORIGINAL:5.0f} times the original")


if __name__ == "__main__":
    main()
