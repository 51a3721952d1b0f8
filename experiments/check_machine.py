"""Compares the compiled machine with networks run unrolled: logits, loss and the gradient of every parameter tensor.

    python experiments/check_machine.py --num=200

Networks come from the splits train, deep, dense, bnfree and wide, with fewer channels, so that all kinds are among
them: with and without attention, excitation, normalisation, global pooling and 1x1 convolutions at cell inputs, both
stems, both heads.  Their parameters are random, norms and biases too.

The unrolled side is `whole.run` and JAX's own reverse mode through it, with every primitive compiled on its own.
The machine is compiled once for all networks of a width, with and without attention, and with the same libraries as the
primitives: without `convolution.compiler_options`.

A tensor's error is the norm of the difference over the norm of its gradient, or over a thousandth of that of all
gradients where this is more: some gradients are sums that cancel.  Where it is above 1e-5 the same network is run
unrolled in float64.  If the unrolled float32 gradients are as far from those as the machine's, then float32 ends there,
with one as with the other; networks for which this is not so make the exit status 1.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ghn_jax.machine.assemble import assemble, memory_units, stack
from ghn_jax.machine.parameters import FlatVector
from ghn_jax.machine.run import new_memory, run, value_and_grad
from ghn_jax.machine.table import Table, signatures_of, table_of
from tqdm import tqdm

from ghn_jax import parity
from ghn_jax.architecture import CIFAR10, Architecture
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.execution import whole
from ghn_jax.graph import Role
from ghn_jax.losses import cross_entropy
from ghn_jax.program import Program, lower

SPLITS = ("train", "deep", "dense", "bnfree", "wide")
ALLOWED = 1e-5
FLOOR = 1e-3
FACTOR = 2
"""What the machine may be farther from float64 than unrolled networks: two sequences of roundings are never alike."""

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
    """The values of a network run by the interpreter."""
    images = jnp.asarray(batch.images, dtype)

    def loss(params):
        logits = whole.run(network.program, params, images, dropout_key=network.dropout_key, jit_primitives=True)
        return cross_entropy(logits, batch.labels)

    params = {name: jnp.asarray(values, dtype) for name, values in network.params.items()}
    logits = whole.run(network.program, params, images, jit_primitives=True)
    value, gradients = jax.value_and_grad(loss)(params)
    return Values(np.asarray(logits), float(value), jax.tree.map(np.asarray, gradients))


class Machine:
    """One compiled program for all of some networks."""

    def __init__(self, networks: Sequence[Network]):
        programs = [network.program for network in networks]
        self.table: Table = table_of(itertools.chain.from_iterable(map(signatures_of, programs)))
        self._length = max(len(program.instructions) for program in programs)
        self._size = max(program.num_params for program in programs)
        self._units = max(memory_units(program, BATCH) for program in programs)

    def _code(self, program: Program, training: bool):
        words = assemble(program, FlatVector.starts(program), self.table, BATCH, training).words
        return stack([words], self._length)

    def logits(self, networks: Sequence[Network], batch: Batch) -> Iterator[np.ndarray]:
        """Without dropout."""
        forwards = jax.jit(functools.partial(run, self.table, FlatVector()), donate_argnames="memory")
        memory = new_memory(self._units)
        for program, params in ((network.program, network.params) for network in networks):
            vector = FlatVector.flatten(program, params, self._size)
            logits, memory = forwards(self._code(program, False), vector, batch.images, memory=memory)
            yield np.asarray(logits)[0]

    def gradients(self, networks: Sequence[Network], batch: Batch) -> Iterator[tuple[float, Mapping[str, np.ndarray]]]:
        """Loss and gradients with dropout."""
        step = jax.jit(functools.partial(value_and_grad, self.table, FlatVector()), donate_argnames="memory")
        memory = new_memory(self._units)
        for network in networks:
            program = network.program
            vector = FlatVector.flatten(program, network.params, self._size)
            outcome, memory = step(
                self._code(program, True), vector, *batch, memory=memory, dropout_keys=network.dropout_key[None]
            )
            yield float(outcome.losses[0]), FlatVector.unflatten(program, np.asarray(outcome.bars))


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
            f"  {name}: {everything[name].worst:.1e}; from float64: machine {mine.worst:.1e}, "
            f"unrolled {plain.worst:.1e}{'' if explained else ', TOO FAR'}"
        )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=200)
    args = parser.parse_args()
    batch = random_batch()
    groups = collections.defaultdict(list)
    for name, architecture in architectures(args.num):
        groups[architecture.C, architecture.has_attention].append((name, architecture))
    everything, inexact, counts = {}, {}, collections.Counter()
    began = time.monotonic()
    for (width, attention), members in sorted(groups.items()):
        label = f"{width} channels, {'msa' if attention else 'CNN'}"
        networks, expected = [], []
        for name, architecture in tqdm(members, desc=f"{label}: unrolled"):
            networks.append(make_network(name, architecture, batch))
            expected.append(unrolled(networks[-1], batch))
        jax.clear_caches()
        machine, count = Machine(networks), len(networks)
        logits = list(tqdm(machine.logits(networks, batch), f"{label}: machine, logits", count))
        outcomes = list(tqdm(machine.gradients(networks, batch), f"{label}: machine, gradients", count))
        jax.clear_caches()
        tqdm.write(f"{label}: {count} networks by {len(machine.table.signatures)} operations")
        results = [Values(mine, *outcome) for mine, outcome in zip(logits, outcomes, strict=True)]
        for network, mine, plain in zip(networks, results, expected, strict=True):
            everything[network.name] = found = errors(mine, plain)
            counts.update(kinds(network))
            if not found.worst <= ALLOWED:
                with jax.enable_x64(True):
                    exact = unrolled(network, batch, np.float64)
                inexact[network.name] = errors(mine, exact), errors(plain, exact)
        jax.clear_caches()
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    good = report(everything, inexact)
    print(f"{time.monotonic() - began:.0f} s")
    if not good:
        sys.exit(f"errors above {ALLOWED:g} that are the machine's")


if __name__ == "__main__":
    main()
