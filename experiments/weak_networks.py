"""Where predictions are poor, and what goes with it.

    python experiments/weak_networks.py --dataset=cifar10 --networks=results/cifar10_cpu/networks.jsonl \\
        GHN-2=ghn2_cifar10

Prints mean accuracies of kinds of networks, from the accuracies that `evaluate_splits.py` wrote under the same title,
and those of transformers like the predefined ViT (128 channels, 12 cells) of other sizes.
"""

import ghn_jax.cli.script

# isort: split
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.cli.common import COUNT, add_several, load_several, make_parser
from ghn_jax.studies import evaluate_splits, weak_networks


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__ or "")
    add_several(parser)
    parser.add_argument("--networks", required=True, type=Path, help="accuracies of networks, by evaluate_splits.py")
    parser.add_argument("--splits", nargs="+", default=["test", "bnfree"], help="of these splits")
    parser.add_argument("--widths", nargs="+", type=COUNT, default=[32, 64, 128], help="channels of transformers")
    parser.add_argument("--cells", nargs="+", type=COUNT, default=[2, 4, 8, 12], help="cells of transformers")
    parser.add_argument("--num_images", type=COUNT, default=512, help="test images for every transformer")
    args = parser.parse_args(arguments)
    ghns, dataset = load_several(args.hypernetworks, args.dataset, args.data_dir)
    rows = list(evaluate_splits.rows(args.networks))
    for title, ghn in ghns.items():
        for split in args.splits:
            print(f"\n{title}, top-1 in % of networks of {split}\n\n| kind | networks | mean |\n|---|---|---|")
            for kind, found in weak_networks.by_kind(rows, split, title).items():
                mean, error = 100 * found["mean"], 100 * found["standard_error"]
                print(f"| {kind} | {found['number']:.0f} | {mean:.1f} +- {error:.1f} |")
        accuracies = weak_networks.transformers(ghn, dataset, args.widths, args.cells, args.num_images)
        columns = " | ".join(f"{count} cells" for count in args.cells)
        print(f"\n{title}, top-1 in % of transformers\n\n| channels | {columns} |\n|{'---|' * (len(args.cells) + 1)}")
        for width, values in zip(args.widths, accuracies, strict=True):
            print(f"| {width} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
