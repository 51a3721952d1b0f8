"""Trains one network by SGD, to teach the networks that a hypernetwork is trained on (`config.teacher`).

    python experiments/train_teacher.py --dataset=cifar10 --data_dir=DIR --steps=2000 --out=teacher.safetensors
    python experiments/train.py --config=configs/cifar_cpu.py --config.teacher=teacher.safetensors

It starts from predicted parameters, or with --start from what an earlier call wrote.  Ctrl-C writes it as it is then.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from ghn_jax import images
from ghn_jax.cli.common import (
    COUNT,
    INDEX,
    CommandError,
    add_hypernetwork,
    add_images,
    load_setting,
    make_parser,
    of,
    refuse_existing,
)
from ghn_jax.deepnets import lookup
from ghn_jax.evaluation.accuracy import measure_accuracy
from ghn_jax.evaluation.fine_tuning import RATE, Protocol, Trainer
from ghn_jax.images import Dataset
from ghn_jax.networks.architecture import AnyArchitecture, ResNet
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.training import teacher
from ghn_jax.training.signals import asked_to_stop

SMALL_RESNET = ResNet(depths=(1, 1, 1), width=16)
"""20 million multiply-adds for an image of 32 pixels: less than most of the networks that it teaches."""


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--arch", help=f"{lookup.HELP}; a ResNet of three small blocks without")
    parser.add_argument("--start", default="predicted", help="predicted, he, or an earlier file (%(default)s)")
    add_hypernetwork(parser)
    add_images(parser)
    parser.add_argument("--steps", type=COUNT, default=2000, help="%(default)s")
    parser.add_argument("--batch_size", type=COUNT, default=96, help="%(default)s")
    parser.add_argument("--learning_rate", type=of(RATE), default=0.05, help="it falls to 0 (%(default)s)")
    parser.add_argument("--seed", type=INDEX, default=0, help="of the order of images (%(default)s)")
    parser.add_argument("--test_images", type=COUNT, help="accuracy on the first so many test images")
    parser.add_argument("--out", type=Path, default=Path("teacher.safetensors"), help="%(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    return parser.parse_args(arguments)


def begin(args: argparse.Namespace) -> tuple[Dataset, AnyArchitecture, Mapping[str, Any]]:
    """The images, the network, and the parameters that it starts from."""
    if args.start == "predicted":
        setting = load_setting(args.checkpoint, args.dataset, args.data_dir)
        dataset = setting.dataset
    else:
        dataset = images.load(args.dataset or "fashion_mnist", args.data_dir)
    if args.start not in ("predicted", "he"):
        if args.arch is not None:
            raise CommandError(f"--arch={args.arch}: the file --start={args.start} says which network it is of")
        found = teacher.load(args.start, dataset.task)
        return dataset, found.architecture, found.params
    architecture = lookup.find_architecture(args.arch).architecture if args.arch else SMALL_RESNET
    if args.start == "he":
        return dataset, architecture, he_init(lower(architecture, dataset.task), args.seed)
    return dataset, architecture, predict_params(build_graph(architecture, task=dataset.task), setting.ghn)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    teacher.check_name(args.out)
    refuse_existing(args.out, args.overwrite)
    use_compilation_cache()
    dataset, architecture, params = begin(args)
    images.steps_per_epoch(dataset, args.batch_size)
    trainer = Trainer(Protocol(args.steps, args.batch_size, learning_rate=args.learning_rate))
    network = trainer.begin(lower(architecture, dataset.task), params)
    with asked_to_stop(tqdm.write) as stop:
        for step in (bar := tqdm(range(args.steps), unit="step")):
            batch = images.train_batch(dataset, args.batch_size, args.seed, step)
            loss = network.step(batch, jax.random.fold_in(jax.random.key(args.seed), step))
            bar.set_postfix(loss=f"{float(loss.loss):.3f}", accuracy=f"{int(loss.correct) / args.batch_size:.1%}")
            if stop:
                break
        teacher.save(args.out, architecture, network.params, overwrite=args.overwrite)
    print(f"written: {args.out}")
    if stop.signal is not None:
        sys.exit(128 + stop.signal)
    reached = measure_accuracy(architecture, network.params, dataset, args.test_images)
    print(f"top-1 on test images of {dataset.name}: {reached:.1%}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
