"""Which split a network may belong to: splits share no structure, whatever the indices.

A split of a million networks cannot be searched whenever a network is drawn.  Instead every network has an owner that
follows from its structure alone, and a draw that another split owns is rejected.  The owner is a hash of the network's
inventory, the number of its layers of every kind and kernel size.  Networks with the same graph have the same
inventory, at any channels and any number of classes, and so the same owner: no structure is in two splits.

A hash knows nothing of what a structure is like, and no inventory is common (two train networks share theirs once in a
million pairs), so the rejections leave the distribution of every split as it is.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter

from ghn_jax.networks.architecture import NAMED_ARCHITECTURES, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Program

SHARES = {"train": 24, "search": 3, "val": 1, "test": 1, "deep": 1, "dense": 1, "bnfree": 1}
"""What part of all inventories a split owns, out of 32; "wide" has the structures of "test"."""

PREDEFINED_OWNER = "predefined"
"""Owner of the inventories of named architectures."""

_OWNERS = tuple(name for name, share in SHARES.items() for _ in range(share))

NodeKind = tuple[str, int, int]
"""A type of node with the height and width of its kernel."""

Inventory = tuple[tuple[NodeKind, int], ...]
"""How many nodes a graph has of every kind, sorted; inputs, sums and concatenations are left out."""

_LEFT_OUT = ("sum", "concat")


def owner(program: Program) -> str:
    """The split that a network belongs to, or `PREDEFINED_OWNER`; `program` is its form for small images."""
    found = inventory(program)
    return PREDEFINED_OWNER if found in _predefined() else _OWNERS[_hash(found) % len(_OWNERS)]


def inventory(program: Program) -> Inventory:
    """How many nodes of every kind the graph of a program has."""
    # Programs share their primitives; objects are counted faster than the equal tuples they stand for.
    primitives = [instruction.primitive for instruction in program.instructions]
    distinct = {id(primitive): primitive for primitive in primitives}
    counts: Counter[NodeKind] = Counter()
    for identity, count in Counter(map(id, primitives)).items():
        for kind in distinct[identity].node_kinds:
            if kind[0] not in _LEFT_OUT:
                counts[kind] += count
    return tuple(sorted(counts.items()))


def _hash(found: Inventory) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(found).encode(), digest_size=8).digest(), "big")


@functools.cache
def _predefined() -> frozenset[Inventory]:
    return frozenset(inventory(lower(architecture, Task())) for architecture in NAMED_ARCHITECTURES.values())
