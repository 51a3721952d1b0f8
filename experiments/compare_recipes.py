"""Compares recipes of training at equal cost: the same CPU-minutes of steps for each, judged by the same networks.

    python experiments/compare_recipes.py --config=configs/cifar_cpu.py --data_dir=DIR --cpu_minutes=6 --out=recipes \\
        today cosine:schedule=cosine,warm_up=0.02 muon:optimizer=muon,weight_decay=0.01 average:average=0.99

A recipe is a name and what it changes in the configuration.  What a step of each costs is measured first, in turns and
with all programs compiled; it should have a processor for itself.  The same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from ghn_jax import images
from ghn_jax.checks.fields import Real
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, INDEX, CommandError, make_parser, of, refuse_foreign
from ghn_jax.cli.train import read_config, set_up_process
from ghn_jax.training import equal_cost
from ghn_jax.training.config import from_fields


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("recipes", nargs="+", metavar="NAME[:FIELD=VALUE,...]")
    parser.add_argument("--config", required=True, help="what the recipes change, such as configs/cifar_cpu.py")
    parser.add_argument("--data_dir", help="where the images are")
    parser.add_argument("--cpu_minutes", type=of(Real(0, 1e6, with_low=False)), default=6, help="%(default)s a run")
    parser.add_argument("--seeds", type=INDEX, nargs="+", default=[0])
    parser.add_argument("--times", type=COUNT, default=4, help="how often a run is judged (%(default)s)")
    parser.add_argument("--val_networks", type=COUNT, default=50, help="that judge (%(default)s)")
    parser.add_argument("--val_images", type=COUNT, default=256, help="that each of them classifies (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("recipes"), help="folder for runs and results (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    if len(args.seeds) != len(set(args.seeds)):
        raise CommandError(f"--seeds {' '.join(map(str, args.seeds))}: expected every seed once")
    refuse_foreign(args.out, equal_cost.COSTS, "recipes.md", "recipes.png")
    set_up_process()
    fields = read_config(args.config, [])
    fields |= {"val_networks": args.val_networks, "val_images": args.val_images, "data_dir": args.data_dir}
    base = from_fields(fields)
    recipes = equal_cost.parse_recipes(base, args.recipes)
    found = equal_cost.compare(
        recipes, images.load(base.dataset, base.data_dir), args.out, cpu_minutes=args.cpu_minutes, seeds=args.seeds,
        times=args.times,
    )  # fmt: skip
    text = equal_cost.table(found)
    with replacing(args.out / "recipes.md") as temporary:
        temporary.write_text(text)
    with replacing(args.out / "recipes.png") as temporary:
        equal_cost.plot(temporary, found)
    print(f"\n{args.cpu_minutes:g} CPU-minutes each, top-1 in % on {args.val_networks} val networks\n\n{text}")
    print(f"written: {args.out}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
