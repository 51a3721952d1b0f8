"""Random parameters of target networks, to compare predicted ones with."""

from __future__ import annotations

import zlib

import numpy as np

from ghn_jax.graphs.graph import Role
from ghn_jax.networks.program import Program


def he_init(program: Program, seed: int) -> dict[str, np.ndarray]:
    """Random parameters by name: weights N(0, 2 / fan-in) (He et al. 2015), position codes N(0, 0.02^2), norm weights
    one and biases zero.

    Every tensor depends on its name and the seed alone.
    """
    params = {}
    for tensor in program.tensors:
        rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(tensor.name.encode())]))
        match tensor.role:
            case Role.NORM_WEIGHT:
                values = np.ones(tensor.shape)
            case Role.BIAS | Role.CLASS_BIAS:
                values = np.zeros(tensor.shape)
            case Role.POSITION:
                values = 0.02 * rng.standard_normal(tensor.shape)
            case _:
                values = rng.standard_normal(tensor.shape) * np.sqrt(2 / np.prod(tensor.shape[:-1]))
        params[tensor.name] = values.astype(np.float32)
    return params
