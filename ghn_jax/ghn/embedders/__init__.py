"""Embedders: from features of nodes to their embeddings, one module a kind."""

from __future__ import annotations

import importlib
from typing import Any

from ghn_jax.graphs.padding import NODE_BUCKETS

EMBEDDERS = {
    "gatedgnn": "ghn_jax.ghn.embedders.gated_gnn:GatedGNN",
    "graphormer": "ghn_jax.ghn.embedders.graphormer:Graphormer",
    "mlp": "ghn_jax.ghn.embedders.mlp:NodeMLP",
}
"""Modules of Flax by `HypernetConfig.hypernet`, as `file:class`; another one is a file of its own and a line here.

`Embedder(config)` takes features `[G, N, hid]` and the padded graphs that they are of (`padding.stack`), and returns
embeddings `[G, N, hid]`.  It may also have a method `without_gradient`, which does the same for real nodes at a cost
that hardly depends on padding, and then says in `padded_to` which few sizes are enough for predictions on CPUs.
"""


def embedder(name: str) -> Any:
    """The class called `name` in `EMBEDDERS`."""
    file, _, kind = EMBEDDERS[name].partition(":")
    return getattr(importlib.import_module(file), kind)


def sizes_to_predict(name: str) -> tuple[int, ...]:
    """Numbers of nodes that graphs are padded to for predictions on CPUs, where every one is a program to compile."""
    return getattr(embedder(name), "padded_to", NODE_BUCKETS)
