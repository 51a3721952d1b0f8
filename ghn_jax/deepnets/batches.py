"""Meta-batches within a node budget, shared out among processes, from a position that can be saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ghn_jax.deepnets.sampler import MAX_NODES_BATCH
from ghn_jax.errors import GHNError

Network = TypeVar("Network")

PATIENCE = 1000
"""So many networks or meta-batches in a row that do not qualify are an error."""


class BatchError(GHNError):
    """A budget that nothing fits into, or a saved position of another run."""


class MetaBatches(Generic[Network], Iterator[tuple[Network, ...]]):
    """Meta-batches without end, over the positions of a stream of networks.

    Process `shard` of `num_shards` sees every `num_shards`-th position of the stream, so no two processes ever see the
    same.  A meta-batch of more than `max_nodes` nodes is skipped whole, as in the original, so its networks are not
    seen.  What comes next depends on the arguments and the position alone: `state` after any number of meta-batches,
    given to `restore` of a new iterator, goes on with exactly the next one.

    Args:
      make: the network at a position of the stream, a pure function of it; None for one that is passed over.
      num_nodes: number of nodes of a network.
      meta_batch: networks in a meta-batch.
      max_nodes: most nodes in a meta-batch.
      shard, num_shards: which process this is, of how many.

    Raises:
      BatchError: arguments out of range; and, when asked for a meta-batch, `PATIENCE` networks passed over in a row or
        `PATIENCE` meta-batches in a row over the budget.
    """

    def __init__(
        self,
        make: Callable[[int], Network | None],
        num_nodes: Callable[[Network], int],
        meta_batch: int,
        max_nodes: int = MAX_NODES_BATCH,
        shard: int = 0,
        num_shards: int = 1,
    ):
        if meta_batch < 1 or max_nodes < 1:
            raise BatchError(f"meta_batch={meta_batch} and max_nodes={max_nodes}: expected at least 1")
        if not 0 <= shard < num_shards:
            raise BatchError(f"shard={shard} of num_shards={num_shards}: expected 0 to {num_shards - 1}")
        self._make, self._num_nodes = make, num_nodes
        self._meta_batch, self._max_nodes = meta_batch, max_nodes
        self._shard, self._num_shards = shard, num_shards
        self._next = shard

    def __iter__(self) -> MetaBatches[Network]:
        return self

    def __next__(self) -> tuple[Network, ...]:
        # The position moves when a meta-batch is complete: a failure on the way loses nothing.
        position = self._next
        for _ in range(PATIENCE):
            networks, position = self._collect(position)
            if sum(map(self._num_nodes, networks)) <= self._max_nodes:
                self._next = position
                return networks
        raise BatchError(
            f"meta_batch={self._meta_batch}: {PATIENCE} meta-batches in a row have more than {self._max_nodes} nodes"
        )

    def _collect(self, position: int) -> tuple[tuple[Network, ...], int]:
        networks, passed_over = [], 0
        while len(networks) < self._meta_batch:
            network = self._make(position)
            position += self._num_shards
            if network is not None:
                networks.append(network)
                passed_over = 0
            elif (passed_over := passed_over + 1) == PATIENCE:
                raise BatchError(f"{PATIENCE} networks in a row, up to position {position}, were passed over")
        return tuple(networks), position

    def state(self) -> dict[str, int]:
        """The position, as plain values for JSON or a checkpoint."""
        return {
            "next": self._next,
            "shard": self._shard,
            "num_shards": self._num_shards,
            "meta_batch": self._meta_batch,
            "max_nodes": self._max_nodes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a position that `state` gave.

        Raises:
          BatchError: it is of another process, or of a run with other meta-batches.
        """
        expected = self.state()
        if set(state) != set(expected):
            raise BatchError(f"a saved position has {sorted(state)}: expected {sorted(expected)}")
        for name, value in expected.items():
            if name != "next" and state[name] != value:
                raise BatchError(f"the saved position has {name}={state[name]}, this run {value}")
        position = int(state["next"])
        if position < self._shard or (position - self._shard) % self._num_shards:
            raise BatchError(f"the saved position next={position} is not one of shard {self._shard}")
        self._next = position
