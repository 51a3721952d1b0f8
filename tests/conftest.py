"""Settings of JAX for the tests, made before any test imports it."""

import os


def pytest_configure(config):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # What one run compiled, the next run (and the other worker) loads.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
