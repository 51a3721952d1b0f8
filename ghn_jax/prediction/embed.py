"""An architecture as a vector: the mean of the embeddings of its nodes."""

from __future__ import annotations

import numpy as np

from ghn_jax.ghn.model import GHN
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph
from ghn_jax.prediction.predict import chosen_ghn, embed_nodes


def embed(graph: Graph, ghn: GHN | None = None) -> np.ndarray:
    """The embedding of a network, `[hid]` float32: the mean over its nodes of their embeddings.

    It tells architectures apart and is what properties of networks are predicted from (`ghn_jax.studies.properties`).
    Padding of the graph does not change it.

    Args:
      graph: of the network, from `ghn_jax.trace` or `build_graph`.
      ghn: the hypernetwork; None takes the one shipped with the package.

    Raises:
      GraphError: something that is not a valid Graph, or a graph that is too large.
      ConfigError: weights of the hypernetwork that are not finite.
      ForkError: this process was forked from one that has used JAX.

    Source: paper, section 5.2.

    >>> ghn_jax.embed(ghn_jax.build_graph(ghn_jax.named('resnet50'))).shape
    (32,)
    """
    ghn = chosen_ghn(ghn, "embed")
    padding.check_graph(graph)
    return embed_nodes(graph, ghn).mean(0)
