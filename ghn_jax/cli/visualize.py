"""Draws the computational graph of an architecture.

    ghn-jax visualize --arch=resnet50
    ghn-jax visualize --arch=test/7 --labels --out=test_7.pdf
    ghn-jax visualize --arch=mine.json

The JSON file holds what `ghn_jax.networks.architecture.to_json` makes, or an entry of a published meta file.
"""

from collections.abc import Sequence
from pathlib import Path

from ghn_jax import build_graph, visualize
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import make_parser, picture_path, refuse_existing
from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.sampler import ALL_SPLITS
from ghn_jax.networks.architecture import CIFAR10, IMAGENET


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax visualize ARGUMENTS`."""
    parser = make_parser(__doc__ or "", "visualize")
    parser.add_argument("--arch", required=True, help=lookup.HELP)
    parser.add_argument("--split", default="val", choices=sorted(ALL_SPLITS), help="split of DeepNets-1M")
    parser.add_argument("--imagenet", action="store_true", help="its form for 224x224 images and 1,000 classes")
    parser.add_argument("--labels", action="store_true", help="write type and kernel size into every node")
    parser.add_argument("--out", type=picture_path, help="picture: png, pdf or svg (NAME.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    found = lookup.find_architecture(args.arch, args.split, args.imagenet)
    out = args.out or Path(f"{found.name.replace('/', '_')}.png")
    refuse_existing(out, args.overwrite)
    graph = build_graph(found.architecture, IMAGENET if args.imagenet else CIFAR10)
    title = f"{found.name}: {graph.num_nodes} nodes, {graph.num_params / 1e6:.2f} million parameters"
    with replacing(out) as temporary:
        visualize(graph, temporary, labels=args.labels, title=title)
    print(f"written: {out} ({title})")
