"""Compares networks run operation by operation with the whole: logits, loss and the gradient of every tensor.

    python benchmarks/check_execution.py --num=200

Networks come from the splits train, deep, dense, bnfree and wide, with fewer channels, so that all kinds are among
them: with and without attention, excitation, normalisation, global pooling and 1x1 convolutions at cell inputs, both
stems, both heads.  Their parameters are random, norms and biases too.

The other side is `execution.whole.run` and JAX's own reverse mode through it, with every primitive compiled on its own.

A tensor's error is the norm of the difference over the norm of its gradient, or over a thousandth of that of all
gradients where this is more: some gradients are sums that cancel.  Where it is above 1e-5 the same network is run
in float64.  If the float32 gradients of the whole are as far from those, then float32 ends there, with one as with the
other; networks for which this is not so make the exit status 1.
"""

import argparse
import collections
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.execution import whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import Given, Plan, logits, value_and_grad
from ghn_jax.graphs.graph import Role
from ghn_jax.networks.architecture import CIFAR10, Architecture
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Program
from ghn_jax.studies import parity

SPLITS = ("train", "deep", "dense", "bnfree", "wide")
ALLOWED = 1e-5
FLOOR = 1e-3
FACTOR = 2
"""How much farther from float64 than the whole a network may be: two sequences of roundings are never alike."""

BATCH = 4
LARGEST_LOGIT = 30.0
"""Weights of networks with larger logits are made smaller: without normalisation random ones often overflow."""


class Network(NamedTuple):
    """A network to compare, with its parameters."""

    name: str
    architecture: Architecture
    program: Program
    params: dict[str, np.ndarray]

    @property
    def dropout_key(self) -> jax.Array:
        return jax.random.key(int(self.name.partition("/")[2]))


class Values(NamedTuple):
    """What a network says about a batch: without dropout the logits, with it loss and gradients."""

    logits: np.ndarray
    loss: float
    gradients: Mapping[str, np.ndarray]


class Errors(NamedTuple):
    """Relative errors: of logits, loss, all gradients as one vector, and the gradient of every tensor."""

    logits: float
    loss: float
    gradient: float
    tensors: np.ndarray

    @property
    def worst(self) -> float:
        return max(self.logits, self.loss, self.gradient, *self.tensors)


class Batch(NamedTuple):
    """Images and labels."""

    images: np.ndarray
    labels: np.ndarray


def random_batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 32, 32, 3)).astype(np.float32)
    return Batch(images, rng.integers(0, 10, BATCH).astype(np.int32))


def architectures(num: int) -> Iterator[tuple[str, Architecture]]:
    """The same number of every split, with names."""
    for number in range(num):
        split, index = SPLITS[number % len(SPLITS)], number // len(SPLITS)
        architecture = sample_architecture(split, index)
        yield f"{split}/{index}", dataclasses.replace(architecture, C=16 if split == "wide" else 8, fc_dim=32)


def kinds(network: Network) -> Iterator[str]:
    """What is special about a network, to be counted."""
    architecture = network.architecture
    yield network.name.partition("/")[0]
    yield "msa" if architecture.has_attention else "CNN"
    if architecture.genotype.uses("cse"):
        yield "cse"
    yield "no norm" if architecture.norm is None else "norm"
    yield f"stem {architecture.stem_type}"
    yield "global pooling" if architecture.glob_avg else "flattened"
    yield f"{architecture.fc_layers} linear layers"
    yield "preproc" if architecture.preproc else "no preproc"


def make_network(name: str, architecture: Architecture, batch: Batch) -> Network:
    """A network with random parameters, whose logits are not too large."""
    program = lower(architecture, CIFAR10)
    params = {tensor.name: parity.parameter(tensor) for tensor in program.tensors}
    weights = [tensor.name for tensor in program.tensors if tensor.role in (Role.WEIGHT, Role.DEPTHWISE_WEIGHT)]
    while not np.abs(whole.run(program, params, batch.images, jit_primitives=True)).max() < LARGEST_LOGIT:
        params |= {name: params[name] * np.float32(0.9) for name in weights}
    return Network(name, architecture, program, params)


def unrolled(network: Network, batch: Batch, dtype=np.float32) -> Values:
    """The values of a network run as a whole."""
    images = jnp.asarray(batch.images, dtype)

    def loss(params):
        logits = whole.run(network.program, params, images, dropout_key=network.dropout_key, jit_primitives=True)
        return cross_entropy(logits, batch.labels)

    params = {name: jnp.asarray(values, dtype) for name, values in network.params.items()}
    logits = whole.run(network.program, params, images, jit_primitives=True)
    value, gradients = jax.value_and_grad(loss)(params)
    return Values(np.asarray(logits), float(value), jax.tree.map(np.asarray, gradients))


class ByOperation:
    """The same networks run operation by operation."""

    def __init__(self):
        self.programs = Programs(jax.local_devices()[:1], options={})  # those of the other side

    def values(self, network: Network, batch: Batch) -> Values:
        """Logits without dropout, loss and gradients with it."""
        program, tensors = network.program, jax.tree.map(jnp.asarray, network.params)
        images, labels = jnp.asarray(batch.images), jnp.asarray(batch.labels)
        answers = logits(Plan(program, BATCH).prepare(self.programs), Given(program, tensors), images)
        given = Given(program, tensors)
        plan = Plan(program, BATCH, label_smoothing=0.0)
        loss = value_and_grad(plan.prepare(self.programs), given, images, labels, network.dropout_key).loss
        return Values(np.asarray(answers), float(loss), jax.tree.map(np.asarray, given.gradients))


def errors(values: Values, expected: Values) -> Errors:
    """How far values are from those expected."""

    def norm(tensors) -> float:
        return float(np.sqrt(sum(np.sum(np.square(tensor, dtype=np.float64)) for tensor in tensors)))

    differences = {name: values.gradients[name] - gradient for name, gradient in expected.gradients.items()}
    whole = norm(expected.gradients.values())
    tensors = [
        norm([differences[name]]) / max(norm([gradient]), FLOOR * whole)
        for name, gradient in expected.gradients.items()
    ]
    return Errors(
        logits=norm([values.logits - expected.logits]) / norm([expected.logits]),
        loss=abs(values.loss - expected.loss) / expected.loss,
        gradient=norm(differences.values()) / whole,
        tensors=np.array(tensors),
    )


def report(everything: Mapping[str, Errors], inexact: Mapping[str, tuple[Errors, Errors]]) -> bool:
    """Prints the errors, and says whether they are as small as they can be."""
    print(f"{len(everything)} networks, {sum(len(found.tensors) for found in everything.values())} parameter tensors")
    columns = {
        "logits": [found.logits for found in everything.values()],
        "loss": [found.loss for found in everything.values()],
        "all gradients of a network": [found.gradient for found in everything.values()],
        "gradient of a tensor": np.concatenate([found.tensors for found in everything.values()]),
    }
    for label, values in columns.items():
        print(f"{label:28} relative error: median {np.median(values):.1e}, worst {np.max(values):.1e}")
    print(f"{len(inexact)} networks above {ALLOWED:g}")
    good = True
    for name, (mine, plain) in inexact.items():
        explained = mine.worst <= FACTOR * plain.worst and mine.gradient <= FACTOR * plain.gradient
        good &= explained
        print(
            f"  {name}: {everything[name].worst:.1e}; from float64: by operation {mine.worst:.1e}, "
            f"whole {plain.worst:.1e}{'' if explained else ', TOO FAR'}"
        )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=200)
    args = parser.parse_args()
    batch = random_batch()
    by_operation = ByOperation()
    everything, inexact, counts = {}, {}, collections.Counter()
    began = time.monotonic()
    for name, architecture in tqdm(list(architectures(args.num)), unit="network"):
        network = make_network(name, architecture, batch)
        plain, mine = unrolled(network, batch), by_operation.values(network, batch)
        everything[name] = found = errors(mine, plain)
        counts.update(kinds(network))
        if not found.worst <= ALLOWED:
            with jax.enable_x64(True):
                exact = unrolled(network, batch, np.float64)
            inexact[name] = errors(mine, exact), errors(plain, exact)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    good = report(everything, inexact)
    print(f"{by_operation.programs.distinct} programs, {time.monotonic() - began:.0f} s")
    if not good:
        sys.exit(f"errors above {ALLOWED:g} that are not those of float32")


if __name__ == "__main__":
    main()
