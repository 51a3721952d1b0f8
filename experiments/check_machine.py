"""Compares the compiled machine with networks run unrolled: logits, and gradients of every parameter tensor.

    python experiments/check_machine.py --num=200

Networks come from the splits train, deep, dense and bnfree with few channels, and from wide with more, so that all
kinds are among them: with and without attention, excitation, normalisation, global pooling and 1x1 convolutions at
cell inputs, both stems, both heads.  Exit status 1 if an error is above 1e-5.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ghn_jax import interpreter
from ghn_jax.architecture import CIFAR10
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import he_init
from ghn_jax.losses import cross_entropy
from ghn_jax.machine.assemble import assemble, memory_units, stack
from ghn_jax.machine.parameters import FlatVector
from ghn_jax.machine.run import new_memory, value_and_grad
from ghn_jax.machine.table import signatures_of, table_of
from ghn_jax.program import lower

SPLITS = ("train", "deep", "dense", "bnfree", "wide")
TOGETHER = 20
"""Networks that one machine is compiled for."""

ALLOWED = 1e-5
BATCH = 4


def architectures(num):
    """The same number of every split."""
    for index in range(num):
        split = SPLITS[index % len(SPLITS)]
        architecture = sample_architecture(split, index // len(SPLITS))
        yield split, dataclasses.replace(architecture, C=16 if split == "wide" else 8, fc_dim=32)


def kinds(architecture):
    """What is special about a network, to be counted."""
    genotype = architecture.genotype
    yield "msa" if architecture.has_attention else "CNN"
    if genotype.uses("cse"):
        yield "cse"
    yield "no norm" if architecture.norm is None else "norm"
    yield f"stem {architecture.stem_type}"
    yield "global pooling" if architecture.glob_avg else "flattened"
    yield "preproc" if architecture.preproc else "no preproc"


def unrolled(program, params, images, labels, key):
    """Logits and gradients, operation by operation in the order of the program."""

    def loss(params):
        logits = interpreter.run(program, params, images, dropout_key=key)
        return cross_entropy(logits, labels), logits

    (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return float(value), np.asarray(logits), gradients


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=200)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((BATCH, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, BATCH), jnp.int32)
    counts, losses, tensors, skipped = collections.Counter(), [], [], 0
    everything = list(architectures(args.num))
    bar = tqdm(total=args.num, unit="network")
    for first in range(0, args.num, TOGETHER):
        chosen = everything[first : first + TOGETHER]
        programs = [lower(architecture, CIFAR10) for _, architecture in chosen]
        table = table_of(itertools.chain.from_iterable(map(signatures_of, programs)))
        machine = jax.jit(functools.partial(value_and_grad, table, FlatVector()), donate_argnames="memory")
        memory = new_memory(max(memory_units(program, BATCH) for program in programs))
        size = max(program.num_params for program in programs)
        length = max(len(program.instructions) for program in programs)
        for (split, architecture), program in zip(chosen, programs, strict=True):
            params = jax.tree.map(jnp.asarray, he_init(program, 0))
            key = jax.random.key(first)
            code = stack([assemble(program, FlatVector.starts(program), table, BATCH).words], length)
            vector = FlatVector.flatten(program, params, size)
            outcome, memory = machine(code, vector, images, labels, memory=memory, dropout_keys=key[None])
            value, _, gradients = unrolled(program, params, images, labels, key)
            bar.update()
            if not np.isfinite(value):
                skipped += 1
                continue
            counts.update([split, *kinds(architecture)])
            losses.append(abs(float(outcome.losses[0]) - value) / value)
            mine = FlatVector.unflatten(program, np.asarray(outcome.bars))
            whole = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()))
            difference = np.sqrt(
                sum(np.sum(np.square(mine[name] - np.asarray(g), dtype=np.float64)) for name, g in gradients.items())
            )
            tensors.append(difference / whole)
        del machine
        jax.clear_caches()
    bar.close()
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print(f"{len(losses)} networks compared, {skipped} without a finite loss")
    for label, errors in (("loss", losses), ("gradient of all parameters", tensors)):
        print(f"{label:28} relative error: median {np.median(errors):.1e}, worst {max(errors):.1e}")
    if max(losses) > ALLOWED or max(tensors) > ALLOWED:
        sys.exit(f"above {ALLOWED:g}")


if __name__ == "__main__":
    main()
