"""What tests compare with, compiled as one program: otherwise JAX compiles every operation by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function for arguments like these; it runs once or twice, so LLVM need not try hard."""
    return jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})


def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value."""
    return compiled(function, *arguments)(*arguments)
