"""Tries a built wheel as a new user would: in a fresh environment, in an empty folder, without the clone.

    python -m build --outdir dist . && python benchmarks/check_dist.py dist

The newest wheel of the folder is installed with the extra "all".  Then README's quick start runs, `ghn-jax models`,
a report, a prediction, and a short training run with a configuration that comes with the package.  The source archive
must have Makefile, configurations and requirements; the two commands of `make demo`, shortened, run where it is
unpacked.  Exit status 1 if anything fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

NEEDED = ("Makefile", "requirements.txt", "configs/digits.py", "experiments/train.py", "README.md", "setup.cfg")

QUICK_START = """
import ghn_jax
network = ghn_jax.named("resnet50")
params = ghn_jax.predict_params(ghn_jax.build_graph(network))
print(len(params), "arrays;", ghn_jax.measure_accuracy(ghn_jax.ResNet((1,), 8), ghn_jax.predict_params(
    ghn_jax.build_graph(ghn_jax.ResNet((1,), 8))), "digits", num_images=64))
"""

SHORT = ("--config.steps=2", "--config.val_networks=0", "--config.workdir=run", "--config.max_multiply_adds=12000000")
OF_THE_RUN = ("--checkpoint=run", "--split=val", "--num=1", "--num_images=64")


def newest(folder: Path, pattern: str) -> Path:
    """The file of this pattern that was made last."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"{folder} has no {pattern}: run python -m build --outdir {folder} .")
    return found[-1].resolve()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dist"), help="where the archives are")
    args = parser.parse_args()
    wheel, source = newest(args.folder, "*.whl"), newest(args.folder, "*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    if missing := [name for name in NEEDED if name not in inside]:
        print(f"{source.name} lacks {', '.join(missing)}")
        return 1
    with tempfile.TemporaryDirectory() as place:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        binaries = Path(place) / "venv" / "bin"
        empty = Path(place) / "empty"
        empty.mkdir()
        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        unpacked = Path(place) / source.name.removesuffix(".tar.gz")
        in_the_empty_folder = (
            [sys.executable, "-m", "venv", f"{place}/venv"],
            [f"{binaries}/pip", "install", "--quiet", f"{wheel}[all]"],
            [f"{binaries}/ghn-jax", "--version"],
            [f"{binaries}/ghn-jax", "models"],
            [f"{binaries}/python", "-c", QUICK_START],
            [f"{binaries}/ghn-jax", "report", "--arch=test/7"],
            [f"{binaries}/ghn-jax", "predict", "--arch=test/7", "--out=test7.safetensors"],
            [f"{binaries}/ghn-jax", "train", "--config=configs/digits.py", *SHORT],
            [f"{binaries}/ghn-jax", "evaluate", *OF_THE_RUN],
        )
        in_the_archive = (
            [f"{binaries}/python", "experiments/train.py", "--config=configs/digits.py", *SHORT],
            [f"{binaries}/python", "experiments/evaluate.py", *OF_THE_RUN],
        )
        commands = [(empty, one) for one in in_the_empty_folder] + [(unpacked, one) for one in in_the_archive]
        for where, command in commands:
            shown = " ".join(Path(command[0]).name if word == command[0] else word.strip() for word in command)
            print(f"$ {shown[:160]}", flush=True)
            began = time.monotonic()
            done = subprocess.run(command, cwd=where, env=environment)
            print(f"  exit status {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
            if done.returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
