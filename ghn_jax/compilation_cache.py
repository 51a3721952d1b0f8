"""Compiled programs kept on disk, so that a second process need not compile again."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Turns JAX's persistent cache on, unless the user has set one up: instructions compile in well under a second
    each, so even the quick ones are worth keeping."""
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "ghn_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
