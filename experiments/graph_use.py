"""How much of what a hypernetwork predicts comes from a node's place in the graph.

    python experiments/graph_use.py --dataset=fashion_mnist GHN-2=ghn2_fashion_mnist MLP=runs/mlp --num=50

Every network is predicted three times: from its graph; with each tensor made from the embedding of another node of the
same operation and shape ("exchanged": right operations in wrong places); and from the graph without its edges ("no
edges": every node on its own).  A hypernetwork that ignores the graph loses nothing by either.  "variation" is the
share of the tensors' squared norm that differs from the mean over nodes of the same operation and shape: 0 if all of
them get the same parameters, near 1 if they have nothing in common.
"""

import argparse
import collections
import dataclasses
import sys
from collections.abc import Hashable, Iterable

import numpy as np
from tqdm import tqdm

from ghn_jax import images
from ghn_jax.deepnets.sampler import SPLITS, sample_architecture
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.graphs.graph import Graph
from ghn_jax.images import ImageError
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.weights.checkpoint import CheckpointError
from ghn_jax.weights.loading import load_titled

MODES = ("graph", "exchanged", "no edges")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypernetworks", nargs="+", metavar="TITLE=WHAT", help="a title and what ghn_jax.load takes")
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--split", default="test", choices=sorted(SPLITS), help="split of DeepNets-1M (%(default)s)")
    parser.add_argument("--num", type=int, default=50, help="number of networks")
    parser.add_argument("--num_images", type=int, default=128, help="test images for every network")
    return parser.parse_args()


def alike(graph: Graph) -> list[list[int]]:
    """Nodes with parameters, grouped by operation and shape."""
    groups: dict[Hashable, list[int]] = collections.defaultdict(list)
    for node in sorted({tensor.node for tensor in graph.tensors}):
        groups[int(graph.node_types[node]), tuple(map(int, graph.node_shapes[node]))].append(node)
    return list(groups.values())


def exchanged(graph: Graph, seed: int) -> Graph:
    """The graph with its tensors at other nodes of the same operation and shape, at random."""
    rng = np.random.default_rng(seed)
    moved = {}
    for nodes in alike(graph):
        # A cycle: no node stays where it is, unless it is alone.
        order = [nodes[index] for index in rng.permutation(len(nodes))]
        moved.update(zip(order, order[1:] + order[:1], strict=True))
    return dataclasses.replace(graph, tensors=tuple(dataclasses.replace(t, node=moved[t.node]) for t in graph.tensors))


def without_edges(graph: Graph) -> Graph:
    """The graph without its edges."""
    return dataclasses.replace(graph, distances=np.zeros_like(graph.distances))


def variation(graph: Graph, params: dict[str, np.ndarray]) -> float:
    """Share of the squared norm that differs from the mean over nodes alike, of all tensors with such company."""
    differing, whole = 0.0, 0.0
    for nodes in alike(graph):
        if len(nodes) < 2:
            continue
        tensors = collections.defaultdict(list)
        for tensor in graph.tensors:
            if tensor.node in nodes:
                tensors[tensor.role, tensor.shape].append(np.asarray(params[tensor.name], np.float64))
        for values in tensors.values():
            values = np.stack(values)
            differing += float(np.sum(np.square(values - values.mean(0))))
            whole += float(np.sum(np.square(values)))
    return differing / whole if whole else 0.0


def row(title: str, values: Iterable[list[float]]) -> str:
    """A line of the table: means and standard errors in percent."""
    cells = [f"{100 * s['mean']:.1f} +- {100 * s['standard_error']:.1f}" for s in map(summary, values)]
    return "| " + " | ".join([title, *cells]) + " |"


def main() -> None:
    args = parse_args()
    try:
        dataset = images.load(args.dataset, args.data_dir)
        ghns = load_titled(args.hypernetworks, dataset.num_classes)
    except (CheckpointError, ImageError) as error:
        sys.exit(str(error))
    architectures = [sample_architecture(args.split, n, dataset.task.large_images) for n in range(args.num)]
    targets = [make_network(number, architecture, dataset.task) for number, architecture in enumerate(architectures)]
    run_network = ByOperation(BATCH_SIZE)
    found = {title: collections.defaultdict(list) for title in ghns}
    for target in tqdm(targets, unit="network"):
        graphs = (target.graph, exchanged(target.graph, target.number), without_edges(target.graph))
        for title, ghn in ghns.items():
            for mode, graph in zip(MODES, graphs, strict=True):
                params = predict_params(graph, ghn)
                if mode == "graph":
                    found[title]["variation"].append(variation(graph, params))
                logits = run_network(target.program, params)
                found[title][mode].append(accuracy(logits, dataset.test, dataset, args.num_images))
    columns = [*MODES, "variation"]
    print(f"\nTop-1 accuracy in %, {args.num} networks of {args.split}, {args.num_images} test images each\n")
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for title in ghns:
        print(row(title, (found[title][column] for column in columns)))


if __name__ == "__main__":
    main()
