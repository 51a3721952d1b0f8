"""Minutes or hours of mixed use in one process, with checks: memory flat, nothing compiled anew, every result right.

    python benchmarks/soak.py --minutes=60

Eight threads predict parameters of known networks; others trace random models, load weights of which every tenth file
is damaged, and start training runs that are killed at random and gone on with.  Every result is compared with the
first one, bit for bit; every error must be one of this package.  After a warm-up no program may be compiled, and memory
must be flat: what is allocated, as malloc counts it, every `--every` minutes; the mean of the last third of the
measurements may be at most 3% above that of the first third.  Resident memory is printed too: it grows until every
arena of malloc has had its share of the threads (two thirds again, where 12 threads work on 2 processors), and stays
there; MALLOC_ARENA_MAX=2 bounds it.  The exit status is 1 if anything else was seen.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

import ghn_jax
from ghn_jax.cli.common import make_parser
from ghn_jax.runtime import counted
from ghn_jax.weights import pretrained

ROOT = pathlib.Path(__file__).resolve().parent.parent
NETWORKS = 12
WIDTHS = (8, 16, 24, 32)
STEPS = 30
"""Of a training run."""
GROWTH = 1.03
"""Of what is allocated, from the first to the last third of a run."""


class Seen:
    """What was done and what went wrong, from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self.done: dict[str, int] = {}
        self.wrong: list[str] = []

    def did(self, what: str) -> None:
        with self._lock:
            self.done[what] = self.done.get(what, 0) + 1

    def fault(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)
        print(f"WRONG: {what}", flush=True)


class Memory(NamedTuple):
    """Of this process, in MiB: what is allocated, and what is resident when freed memory was handed back."""

    allocated: float
    resident: float


class _Counts(ctypes.Structure):
    """What `mallinfo2` of glibc returns, of all arenas together."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def memory() -> Memory:
    """Measures, after what can be freed was freed."""
    gc.collect()
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallinfo2.restype = _Counts
    counts = library.mallinfo2()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return Memory((counts.uordblks + counts.hblkhd) / 2**20, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def same(found: Any, expected: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))


class Predicting:
    """Predicts for a few networks again and again."""

    def __init__(self):
        self._graphs = [
            ghn_jax.build_graph(ghn_jax.find_architecture(f"test/{number}").architecture) for number in range(NETWORKS)
        ]
        self._expected = [ghn_jax.predict_params(graph) for graph in self._graphs]

    def __call__(self, rng: random.Random, seen: Seen) -> None:
        number = rng.randrange(NETWORKS)
        if not same(ghn_jax.predict_params(self._graphs[number]), self._expected[number]):
            seen.fault(f"another prediction for test/{number}")
        seen.did("predictions")


class Tracing:
    """Traces random models: a graph and its prediction depend on the model alone."""

    def __init__(self):
        self._expected: dict[tuple[int, ...], Any] = {}

    def __call__(self, rng: random.Random, seen: Seen) -> None:
        widths = tuple(rng.choice(WIDTHS) for _ in range(rng.randint(1, 3)))

        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                for width in widths:
                    x = nn.relu(nn.Conv(width, (3, 3))(x))
                return nn.Dense(10)(x.mean((1, 2)))

        graph = ghn_jax.trace(Model(), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
        params = ghn_jax.predict_params(graph)
        if not same(params, self._expected.setdefault(widths, params)):
            seen.fault(f"another prediction for a model of widths {widths}")
        seen.did("models traced")


class Loading:
    """Loads weights; every tenth file is damaged."""

    def __init__(self, folder: pathlib.Path):
        self._content = pretrained.DEFAULT.read_bytes()
        self._folder = folder
        self._expected = ghn_jax.load(str(pretrained.DEFAULT)).params

    def __call__(self, rng: random.Random, seen: Seen) -> None:
        path = self._folder / f"{threading.get_ident()}.npz"
        damaged = rng.random() < 0.1
        content = bytearray(self._content)
        if damaged:
            content = content[: rng.randrange(len(content))]
        path.write_bytes(content)
        try:
            loaded = ghn_jax.load(path)
        except ghn_jax.GHNError as error:
            if not damaged:
                seen.fault(f"a good file was refused: {error}")
            seen.did("damaged files refused")
            return
        if damaged or not same(loaded.params, self._expected):
            seen.fault("a damaged file was read, or a good one wrongly")
        seen.did("files loaded")


class Training:
    """Starts a small run, kills it after a while, and goes on with it until it is complete."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._runs = 0

    def __call__(self, rng: random.Random, seen: Seen) -> None:
        workdir = self._folder / f"run{self._runs}"
        worker = ROOT / "tests" / "support" / "resume_worker.py"
        words = [sys.executable, str(worker), f"--workdir={workdir}", f"--steps={STEPS}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        kill = threading.Timer(rng.uniform(5, 60), process.kill)
        kill.start()
        output = process.communicate()[0]
        kill.cancel()
        if process.returncode == -signal.SIGKILL:
            seen.did("training runs killed")
        elif process.returncode:
            seen.fault(f"a training run ended with {process.returncode}: {output[-500:]}")
        else:
            seen.did("training runs completed")
            shutil.rmtree(workdir)  # this program made it, in a folder of its own
            self._runs += 1


def repeat(task: Any, until: float, rng: random.Random, seen: Seen) -> None:
    """Runs a task again and again; an error ends nothing and is counted."""
    while time.monotonic() < until:
        try:
            task(rng, seen)
        except Exception as error:
            seen.fault(f"{type(task).__name__}: {type(error).__name__}: {error}")


def run(tasks: list[Any], seconds: float, seed: int, seen: Seen) -> None:
    """Runs tasks side by side for a while."""
    until = time.monotonic() + seconds
    with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
        for number, task in enumerate(tasks):
            pool.submit(repeat, task, until, random.Random(seed + number), seen)


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=5.0, help="after the warm-up")
    parser.add_argument("--warm_up", type=float, default=3.0, help="minutes before anything is counted")
    parser.add_argument("--every", type=float, default=2.0, help="minutes between measurements of memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.minutes < 3 * args.every:
        parser.error(f"--minutes={args.minutes}: expected at least three times --every={args.every}")
    seen, began = Seen(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        tasks = [*[Predicting()] * 8, Tracing(), Tracing(), Loading(place), Loading(place), Training(place)]
        ghn_jax.warm_up()
        run(tasks[:-1], 60 * args.warm_up, args.seed, seen)
        print(f"after the warm-up: {memory()}", flush=True)
        measured = []
        with counted() as compilations:
            for part in range(round(args.minutes / args.every)):
                run(tasks, 60 * args.every, args.seed + 1000 * (part + 1), seen)
                measured.append(now := memory())
                minutes = (time.monotonic() - began) / 60
                sizes = f"{now.allocated:,.1f} MiB allocated, {now.resident:,.0f} MiB resident"
                print(f"{minutes:.0f} minutes: {sizes}, {seen.done}", flush=True)
    third = len(measured) // 3
    first, last = (statistics.fmean(one.allocated for one in some) for some in (measured[:third], measured[-third:]))
    print(f"allocated in the first third {first:,.1f} MiB, in the last {last:,.1f} MiB: {last / first - 1:+.1%}")
    if last > GROWTH * first:
        seen.fault(f"memory grew from {first:,.1f} to {last:,.1f} MiB")
    if compilations:
        seen.fault(f"{len(compilations)} programs were compiled after the warm-up")
    print(f"{len(seen.wrong)} things went wrong")
    sys.exit(bool(seen.wrong))


if __name__ == "__main__":
    main()
