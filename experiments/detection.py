"""Trains detectors whose backbone has predicted parameters, beside the same ones with random parameters.

    python experiments/detection.py --data_dir=PennFudanPed --arch resnet50 --checkpoint=ghn2_imagenet.pt
    python experiments/detection.py --drawn=150 --arch test/15 --shorter=96 --longer=96 --anchor_sizes 16 32 64 \\
        --proposals=200 --test_proposals=100 --drawn_regions=64 --hidden=256 --epochs=4 --out=detection

Faster R-CNN as in the paper: one feature map, the network up to its global pooling, all of it trained; 10 epochs of
batches of 2, SGD, the last 50 pictures of a permutation test.  --data_dir is the folder of the Penn-Fudan pedestrians;
--drawn draws pictures of people instead.  Average precision is COCO's.  Results are added to `detection.jsonl` one by
one: the same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, INDEX, add_hypernetwork, load_hypernetwork, make_parser, refuse_foreign
from ghn_jax.deepnets import lookup
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies.detection import comparison, drawn, penn_fudan
from ghn_jax.studies.detection.comparison import BACKBONE_STARTS
from ghn_jax.studies.detection.detector import DetectorConfig
from ghn_jax.studies.detection.pictures import Scaling
from ghn_jax.studies.detection.training import DetectionProtocol


def add_fields(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Options for the fields of a dataclass, with their defaults."""
    group = parser.add_argument_group(f"{kind.__module__}.{kind.__name__}")
    for field in dataclasses.fields(kind):
        if field.name != "scaling":
            several = isinstance(field.default, tuple)
            of: dict[str, Any] = {"type": float, "nargs": "+"} if several else {"type": type(field.default)}
            group.add_argument(f"--{field.name}", default=field.default, help="(%(default)s)", **of)


def construct(kind: Any, args: argparse.Namespace, **more: Any) -> Any:
    """A dataclass from its options."""
    return kind(**{f.name: getattr(args, f.name) for f in dataclasses.fields(kind) if f.name not in more}, **more)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    add_hypernetwork(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data_dir", type=Path, help="folder of the Penn-Fudan pedestrians, usually PennFudanPed")
    where.add_argument("--drawn", type=COUNT, help="so many drawn pictures, squares of --shorter pixels")
    parser.add_argument("--arch", nargs="+", required=True, help=lookup.HELP)
    parser.add_argument("--starts", nargs="+", default=["predicted", "he"], choices=BACKBONE_STARTS)
    parser.add_argument("--seeds", type=INDEX, nargs="+", default=[0, 1, 2])
    parser.add_argument("--measure_at", type=INDEX, nargs="+", help="epochs; all without")
    for kind in (DetectorConfig, DetectionProtocol, Scaling):
        add_fields(parser, kind)
    parser.add_argument("--out", type=Path, default=Path("detection"), help="folder for results (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_foreign(args.out, "detection.jsonl", "detection.md")
    use_compilation_cache()
    protocol = construct(DetectionProtocol, args, scaling=construct(Scaling, args))
    config = construct(DetectorConfig, args)
    ghn, task = load_hypernetwork(args.checkpoint)
    found = [lookup.find_architecture(text, "test", task.large_images) for text in args.arch]
    networks = {one.name: make_network(one.number, one.architecture, task) for one in found}
    pictures = penn_fudan.read(args.data_dir) if args.data_dir else drawn.draw(args.drawn, args.shorter, seed=0)
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(networks) * len(args.seeds) * len(args.starts), unit="training") as bar:
        rows = comparison.measure(
            ghn, networks, pictures, args.out / "detection.jsonl", config=config, protocol=protocol, seeds=args.seeds,
            starts=args.starts, measure_at=args.measure_at, name="Penn-Fudan" if args.data_dir else "drawn",
            checkpoint=args.checkpoint, finished=bar.update,
        )  # fmt: skip
    text = comparison.table(rows)
    with replacing(args.out / "detection.md") as temporary:
        temporary.write_text(text)
    print(f"\nAverage precision in % at an overlap of 0.5 (mean over ten overlaps), {len(pictures)} pictures\n\n{text}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
