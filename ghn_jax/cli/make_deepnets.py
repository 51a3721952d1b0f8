"""Writes splits of DeepNets-1M in the published format: an HDF5 file of graphs and a JSON file of architectures.

    ghn-jax deepnets make --split=train --num=1000000 --out=data --workers=2
    ghn-jax deepnets make --split=eval --out=data

The original reads these files.  "eval" stands for val, test, wide, deep, dense and bnfree, which share a file.  A run
that was stopped goes on where it was when the same command is given again; a file that exists is never overwritten.
Training and evaluation need no files: they draw the same architectures when they need them.
"""

import argparse
import concurrent.futures.process
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ghn_jax.checks import files
from ghn_jax.cli.common import CommandError, make_parser
from ghn_jax.deepnets.files.parts import PARTS_LOCK, Part, assemble, part_folder, part_path, parts_of, write_part
from ghn_jax.deepnets.files.reading import EVAL_SPLITS, file_name
from ghn_jax.deepnets.files.writing import require_absent
from ghn_jax.deepnets.sampler import SPLITS


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "deepnets make")
    parser.add_argument("--split", required=True, choices=["eval", *SPLITS], help="split to write")
    parser.add_argument("--num", type=int, help="number of architectures, from index 0 on (all of the split)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the files")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (one for every core)")
    args = parser.parse_args(arguments)
    if args.workers < 1:
        parser.error(f"--workers={args.workers}: expected at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax deepnets make ARGUMENTS`."""
    args = parse_args(arguments)
    _collect_rarely()
    names = EVAL_SPLITS if args.split == "eval" else (args.split,)
    path = args.out / file_name(names[0])
    try:
        splits = {name: parts_of(name, SPLITS[name].size if args.num is None else args.num) for name in names}
    except ValueError as error:
        raise CommandError(f"--{error}") from error
    if path.exists() or not part_folder(path).exists():
        require_absent(path)
    parts = [part for group in splits.values() for part in group]
    part_folder(path).mkdir(parents=True, exist_ok=True)
    try:
        with files.locked(part_folder(path) / PARTS_LOCK):
            make_parts(path, parts, args.workers)
            with tqdm(total=sum(part.size for part in parts), desc="writing", unit="net", smoothing=0.05) as bar:

                def show(part: Part) -> None:
                    bar.update(part.size)

                assemble(path, splits, show)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    print(f"written: {path} ({path.stat().st_size / 2**20:,.1f} MiB) and its meta file")


def make_parts(path: Path, parts: list[Part], workers: int) -> None:
    """Makes the parts that are not there, in several processes."""
    folder = part_folder(path)
    missing = [part for part in parts if not part_path(folder, part).exists()]
    total = sum(part.size for part in parts)
    done = total - sum(part.size for part in missing)
    if done:
        print(f"{done:,} of {total:,} architectures are there from an earlier run")
    if not missing:
        return
    # A forked process would inherit the threads of JAX in an unknown state.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(missing)), context, _start_worker)
    try:
        futures = [pool.submit(write_part, folder, part) for part in missing]
        with tqdm(total=total, initial=done, desc="drawing", unit="net", smoothing=0.05) as bar:
            for future in concurrent.futures.as_completed(futures):
                bar.update(future.result().size)
    except concurrent.futures.process.BrokenProcessPool:
        raise CommandError(
            "a process was killed, perhaps for lack of memory: the same command goes on, best with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is for the parent, which lets a worker finish its part; a worker whose parent was killed ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _collect_rarely()


def _collect_rarely() -> None:
    """Networks are made of thousands of tuples without circles, which the collector would look through in vain."""
    gc.freeze()  # what was imported is never garbage
    gc.set_threshold(100_000)
