"""Settings of JAX for the tests, made before any test or other conftest imports it."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one run compiled, the next run (and the other worker) loads.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs of tests run once or twice: compiled with little effort they cost half as many CPU-seconds in all.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)


def pytest_collection_finish(session):
    """Rarer garbage collection, and none of what stays for the whole run: a fifth of the time of tests that trace."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
