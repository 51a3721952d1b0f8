"""From a model (Linen, NNX, or a function of its parameters) to its graph, through its jaxpr."""

from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.frontends import trace

__all__ = ["TraceError", "trace"]
