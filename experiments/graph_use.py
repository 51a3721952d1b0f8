"""How much of a hypernetwork's predictions comes from a node's place in the graph.

    python experiments/graph_use.py --dataset=fashion_mnist GHN-2=ghn2_fashion_mnist MLP=runs/mlp --num=50

Every network is predicted from its graph; with each tensor made from the embedding of another node of the same
operation and shape ("exchanged"); and from the graph without its edges ("no edges").  "variation" is the share of the
tensors' squared norm that differs from the mean over nodes of the same operation and shape.
`ghn_jax.studies.graph_use` says more.
"""

import ghn_jax.cli.script

# isort: split
from tqdm import tqdm

from ghn_jax.cli.common import COUNT, add_several, load_several, make_parser
from ghn_jax.deepnets.lookup import find_architecture
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.networks.network import make_network
from ghn_jax.studies import graph_use


def main() -> None:
    parser = make_parser(__doc__ or "")
    add_several(parser)
    parser.add_argument("--split", default="test", choices=sorted(SPLITS), help="split of DeepNets-1M (%(default)s)")
    parser.add_argument("--num", type=COUNT, default=50, help="number of networks")
    parser.add_argument("--num_images", type=COUNT, default=128, help="test images for every network")
    args = parser.parse_args()
    ghns, dataset = load_several(args.hypernetworks, args.dataset, args.data_dir)
    task = dataset.task
    found = [find_architecture(str(number), args.split, task.large_images) for number in range(args.num)]
    networks = [make_network(one.number, one.architecture, task) for one in found]
    figures = graph_use.measure(ghns, tqdm(networks, unit="network"), dataset, args.num_images)
    print(f"\nTop-1 accuracy in %, {args.num} networks of {args.split}, {args.num_images} test images each\n")
    print(graph_use.table(figures))


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
