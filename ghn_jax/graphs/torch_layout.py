"""How PyTorch lays out the tensors of a network: convolutions `[out, in, kh, kw]`, linear layers `[out, in]`."""

from __future__ import annotations

import numpy as np

from ghn_jax.graphs.graph import Role, oihw


def torch_shape(role: Role, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in JAX layout as one in PyTorch layout."""
    return oihw(role, shape) if len(shape) == 4 else shape[::-1]


def to_torch(role: Role, values: np.ndarray) -> np.ndarray:
    """Values in JAX layout as an array in PyTorch layout."""
    if values.ndim == 4:
        return values.transpose(0, 3, 1, 2) if role is Role.POSITION else values.transpose(3, 2, 0, 1)
    return values.T


def from_torch(role: Role, values: np.ndarray) -> np.ndarray:
    """Values in PyTorch layout as an array in JAX layout."""
    if values.ndim == 4:
        return values.transpose(0, 2, 3, 1) if role is Role.POSITION else values.transpose(2, 3, 1, 0)
    return values.T
