"""Kills a training run again and again and compares its end with that of an undisturbed run.

    python benchmarks/kill_and_resume.py --kills=20

Both are processes of experiments/train.py, on the same processors throughout: with another number of them XLA sums up
in another order.  Kills (SIGKILL) come at random moments, also while programs are compiled or checkpoints written,
which happens every other second here.  Exit status 1 unless all parameters, the state of the optimiser and every number
in the metrics but for times are the same, bit for bit.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ghn_jax.evaluation.json_lines import METRICS, read
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import init_state
from ghn_jax.weights import checkpoint

ROOT = Path(__file__).resolve().parent.parent
TIMES = {"minutes", "seconds", "waiting", "networks_per_second", "memory_mib", "programs"}


def start(workdir: Path, steps: int) -> subprocess.Popen:
    """A run, or its continuation."""
    fields = {
        "workdir": workdir, "steps": steps, "checkpoint_minutes": 0.03, "val_networks": 3, "val_images": 64,
        "val_minutes": 0.3,
    }  # fmt: skip
    command = [sys.executable, "experiments/train.py", "--config=configs/smoke.py"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(workdir: Path, steps: int) -> None:
    """Lets a run end."""
    process = start(workdir, steps)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors.decode()[-2000:])


def last_step(workdir: Path) -> int:
    """Steps that a run has reported."""
    path = workdir / METRICS
    return max((row["step"] for row in read(path)), default=0) if path.exists() else 0


def last_state(workdir: Path):
    """Arrays and metrics at the end of a run."""
    folder = workdir / checkpoint.FOLDER
    path = folder / str(checkpoint.saved_steps(folder)[-1])
    description = checkpoint.describe(path)
    params = checkpoint.load_ghn(path).params
    optimizer = make_optimizer(TrainConfig(**description.train_config))
    like = {"params": params, "opt_state": jax.tree.leaves(init_state(params, optimizer).opt_state)}
    return checkpoint.load_arrays(path, like), list(read(workdir / METRICS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder, "undisturbed"), Path(folder, "killed")
        finish(undisturbed, args.steps)  # compiles, too
        for number in range(1, args.kills + 1):
            process, before = start(killed, args.steps), last_step(killed)
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 10))  # while it starts
            else:
                enough = before + rng.randint(1, args.steps // args.kills)
                while last_step(killed) < enough and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.3))
            if process.poll() is not None:
                sys.exit(f"kill {number}: the run had ended; give it more --steps")
            process.kill()
            process.communicate()
            saved = checkpoint.saved_steps(killed / checkpoint.FOLDER)
            print(f"kill {number}: had made {before} steps, then {last_step(killed)}, saved {saved}", flush=True)
        finish(killed, args.steps)
        (mine, my_rows), (known, known_rows) = last_state(killed), last_state(undisturbed)
        same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (mine, known)), strict=True))
        rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in run] for run in (my_rows, known_rows)]
        print(f"{len(jax.tree.leaves(mine))} arrays {'the same' if same else 'DIFFERENT'}")
        print(f"{len(my_rows)} lines of metrics {'the same' if rows[0] == rows[1] else 'DIFFERENT'}")
        sys.exit(0 if same and rows[0] == rows[1] else 1)


if __name__ == "__main__":
    main()
