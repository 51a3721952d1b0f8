"""Embedders: from features of nodes to their embeddings, one module a kind."""

from __future__ import annotations

import importlib
from typing import Any

EMBEDDERS = {
    "gatedgnn": "ghn_jax.ghn.embedders.gated_gnn:GatedGNN",
    "graphormer": "ghn_jax.ghn.embedders.graphormer:Graphormer",
    "mlp": "ghn_jax.ghn.embedders.mlp:NodeMLP",
}
"""Modules of Flax by `HypernetConfig.hypernet`, as `file:class`; another one is a file of its own and a line here.

`Embedder(config)` takes features `[G, N, hid]` and the padded graphs that they are of (`padding.stack`), and returns
embeddings `[G, N, hid]`.
"""


def embedder(name: str) -> Any:
    """The class called `name` in `EMBEDDERS`."""
    file, _, kind = EMBEDDERS[name].partition(":")
    return getattr(importlib.import_module(file), kind)
