"""The platform that a program is compiled for: it decides how some operations are written, and XLA's options."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax

compiled_for = jax.make_user_context(None)
"""`with compiled_for("tpu"):` programs are traced for that platform; None is the one that they run on here."""


def platform() -> str:
    """The platform that the program at hand is traced for: "cpu", "tpu" or "gpu"."""
    return compiled_for.value or jax.default_backend()


def default_device() -> Any:
    """The device where JAX puts arrays that nobody has put anywhere (`jax.default_device`)."""
    device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]  (made when JAX starts)
    if device is None or isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    return device


def accelerator() -> Any:
    """`default_device()`; None if that is a CPU."""
    device = default_device()
    return None if platform_of(device) == "cpu" else device


def platform_of(device: Any) -> str:
    """ "cpu", "tpu" or "gpu"."""
    return "gpu" if device.platform in ("cuda", "rocm") else device.platform


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_OPTIONS = {
    # YNNPACK computes matrix products and sums, as by default, but not convolutions, for which Eigen takes about two
    # thirds of the time.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    # cuBLAS multiplies matrices: for Triton a kernel would be compiled for every product, and several be tried.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "tpu": {},
}


def compiler_options(platform: str) -> dict[str, Any]:
    """Options of XLA with which small programs are to be compiled; none where this release of XLA does not know them.

    Args:
      platform: "cpu", "tpu" or "gpu".
    """
    return known_options(tuple(_OPTIONS[platform].items()))


@functools.cache
def known_options(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """These options of XLA; none where this release does not know them."""
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(options)
