"""Seconds a network takes in training: forward, backward and its share of the update.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --unrolled=2     # also 2 networks compiled each as a program of its own
    python benchmarks/train_step.py --shares         # also the share of every kind of operation, each timed alone

64 architectures of the train distribution with 32 channels, meta-batches of 8, 64 images.  The PyTorch original takes
about 0.94 s a network on two CPU cores.  The last line is JSON: seconds and CPU-seconds a network (steps alone),
programs compiled, CPU-seconds that took, and the largest resident size.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.execution import whole
from ghn_jax.execution.recipes import signature_of
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.platforms import compiler_options
from ghn_jax.networks.primitives import Conv
from ghn_jax.runtime import keep_freed_memory, use_compilation_cache
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import init_state

META_BATCH = 8


def steps(config, meta_batch_list, images, labels):
    """Seconds and CPU-seconds for every network, once everything is compiled."""
    ghn, optimizer = config.hypernetwork(CIFAR10), make_optimizer(config)
    with contextlib.closing(Engine(config, ghn, optimizer)) as engine:
        state = parallel.replicate(init_state(GHN.init(ghn, seed=0).params, optimizer))
        began = time.perf_counter(), time.process_time()
        prepared = [engine.prepare(state, targets) for targets in meta_batch_list]
        for inputs in prepared:  # compiles
            state, metrics = engine.step(state, inputs, images, labels)
            parallel.first_copy(metrics)
        compiling = time.perf_counter() - began[0], engine.programs.compile_cpu_seconds
        seconds, cpu = [], time.process_time()
        for inputs in prepared:
            begin = time.perf_counter()
            state, metrics = engine.step(state, inputs, images, labels)
            assert parallel.first_copy(metrics).applied
            seconds.append((time.perf_counter() - begin) / META_BATCH)
        networks = META_BATCH * len(seconds)
        found = {
            "networks": networks,
            "seconds_a_network": round(float(np.mean(seconds)), 4),
            "cpu_seconds_a_network": round((time.process_time() - cpu) / networks, 4),
            "programs": engine.programs.distinct,
            "compile_cpu_s": round(compiling[1], 1),
            "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
    print(f"training: {np.mean(seconds):.3f} s a network (meta-batches {min(seconds):.3f} to {max(seconds):.3f})")
    print(f"  {found['programs']} programs; first round, compiling or loading them, {compiling[0]:.0f} s")
    return found


def unrolled(targets, images, labels):
    """The networks one by one, each compiled; without the hypernetwork."""

    def loss(program, params):
        return cross_entropy(whole.run(program, params, images, dropout_key=jax.random.key(0)), labels)

    compiling, running = [], []
    for target in targets:
        params = jax.tree.map(jnp.asarray, he_init(target.program, 0))
        begin = time.perf_counter()
        lowered = jax.jit(jax.value_and_grad(functools.partial(loss, target.program))).lower(params)
        step = lowered.compile(compiler_options(jax.default_backend()))
        compiling.append(time.perf_counter() - begin)
        jax.block_until_ready(step(params))
        begin = time.perf_counter()
        jax.block_until_ready(step(params))
        running.append(time.perf_counter() - begin)
    print(f"unrolled: {np.mean(running):.3f} s a network, and {np.mean(compiling):.1f} s to compile each")


def best_of(function, *args, repeats=3):
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def shares(targets, batch_size):
    """Time by kind of primitive."""
    counts = collections.Counter(
        signature_of(t.program, i, batch_size, training=False) for t in targets for i in t.program.instructions
    )
    kinds = collections.defaultdict(lambda: np.zeros(3))
    rng = np.random.default_rng(0)
    jit = functools.partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))

    def random(shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    for signature, count in counts.items():
        primitive = signature.primitive
        params = tuple(random(parameter.shape) for parameter in primitive.parameters)
        inputs = tuple(random((batch_size, *shape)) for shape in signature.inputs)
        bar = random((batch_size, *signature.output))
        forward = jit(lambda params, inputs, primitive=primitive: primitive(params, *inputs))

        def pull_back(params, inputs, bar, primitive=primitive):
            return jax.vjp(lambda params, inputs: primitive(params, *inputs), params, inputs)[1](bar)

        kind = type(primitive).__name__
        if isinstance(primitive, Conv):
            kind += " depthwise" if primitive.depthwise else " 1x1" if primitive.kernel == (1, 1) else " larger"
        backward = jit(pull_back)
        kinds[kind] += count * np.array([1, best_of(forward, params, inputs), best_of(backward, params, inputs, bar)])
    total = sum(times[1] + times[2] for times in kinds.values())
    print(f"operations alone: {total / len(targets):.3f} s a network")
    print(f"  {'':18}{'a network':>10}{'forward':>12}{'backward':>12}{'share':>8}")
    for kind, (count, forward, backward) in sorted(kinds.items(), key=lambda item: -item[1][1:].sum()):
        there, back = (1e3 * seconds / len(targets) for seconds in (forward, backward))
        share = (forward + backward) / total
        print(f"  {kind:18}{count / len(targets):10.1f}{there:9.2f} ms{back:9.2f} ms{share:8.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--shares", action="store_true", help="time every operation alone")
    parser.add_argument("--unrolled", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_multiply_adds", type=int, help="only networks that cost no more per image")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    keep_freed_memory()
    use_compilation_cache()
    config = TrainConfig(
        steps=args.networks // META_BATCH,
        batch_size=args.batch_size,
        max_multiply_adds=args.max_multiply_adds,
        fixed_width=32,
        network_clip_norm=1.0,
        compute_dtype=args.dtype,
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((config.batch_size, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, config.batch_size).astype(np.int32)
    meta_batch_list = [drawn.targets for drawn in itertools.islice(meta_batches(config, CIFAR10), config.steps)]
    targets = list(itertools.chain.from_iterable(meta_batch_list))
    print(f"{jax.default_backend()}, {jax.local_device_count()} device(s), {len(targets)} networks, {args.dtype}")
    found = steps(config, meta_batch_list, images, labels)
    print(f"  largest resident size {found['peak_rss_gb']:.1f} GiB")
    if args.unrolled:
        unrolled(targets[: args.unrolled], images, labels)
    if args.shares:
        shares(targets, config.batch_size)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
