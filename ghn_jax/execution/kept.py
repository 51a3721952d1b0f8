"""Compiled programs kept on disk by recipe: a second process neither traces nor lowers nor compiles them.

They are entries of JAX's persistent cache where one is used, else of a folder of this package's own
(`runtime.own_entries`), unless the user turns keeping off (`JAX_ENABLE_COMPILATION_CACHE=false`); of two kinds: what a
recipe comes down to, which holds for this source code only, and the program itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import pickle
import platform
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import compilation_cache, compiler
from jax._src import config as jax_config
from jax._src.compilation_cache_interface import CacheInterface
from jax.experimental import serialize_executable

from ghn_jax.runtime import own_entries, say

_PACKAGE = Path(__file__).parent.parent


class Kept:
    """The programs of a platform.

    Args:
      entries: where they are kept.
      environment: all that programs depend on but their recipes: versions, options, the device, this source code.
    """

    def __init__(self, entries: CacheInterface, environment: str):
        self._entries = entries
        self._environment = environment
        self._said_damaged = False

    @classmethod
    def for_device(cls, device: Any, options: Mapping[str, Any], lower: Callable[..., Any]) -> Kept | None:
        """Those for a device of this process; None if nothing is to be kept, or nowhere can be.

        Args:
          device: that programs are compiled for.
          options: of XLA.
          lower: what lowers recipes.
        """
        if not compilation_cache.is_cache_used(device.client):
            return None
        entries = compilation_cache._get_cache(device.client)
        if entries is None:
            entries = own_entries()
        if entries is None:
            return None
        # JAX's own key of an empty program stands for its versions, XLA's flags and options, and the device.
        empty: Any = jax.jit(lambda: ()).lower().compiler_ir()
        compile_options = compiler.get_compile_options(1, 1, env_options_overrides=dict(options))
        settings = {name: value for name, value in jax.config.values.items() if "_cache" not in name}
        parts = (
            compilation_cache.get_cache_key(empty, np.array([device]), compile_options, device.client),
            sorted((name, repr(value)) for name, value in settings.items()),
            f"{lower.__module__}.{lower.__qualname__}",
            processor() if device.platform == "cpu" else "",
            [importlib.metadata.version(package) for package in ("jax", "jaxlib", "flax", "numpy")],
            source_digest(),
        )
        return cls(entries, _digest(repr(parts)))

    def find(self, recipe: Any) -> str | None:
        """The key of the program that the recipe comes down to, if it has been noted."""
        value = self._entries.get(self._name_of(recipe)) if _is_ours(recipe) else None
        if value is None:
            return None
        key, checksum = value[:64].decode(errors="replace"), value[64:].decode(errors="replace")
        return key if checksum == _digest(key) else None  # a damaged key might give the program of another recipe

    def note(self, recipe: Any, key: str) -> None:
        """Notes what a recipe comes down to."""
        if _is_ours(recipe):
            self._entries.put(self._name_of(recipe), f"{key}{_digest(key)}".encode())

    def get(self, key: str) -> Serialized | None:
        """The program of this key; None if there is none, or it is damaged, which is said once."""
        name = self._name_of_program(key)
        value = self._entries.get(name)
        if value is None:
            return None
        try:
            return Serialized(zlib.decompress(value))  # which has a checksum
        except zlib.error as error:
            if not self._said_damaged:
                self._said_damaged = True
                say(f"{name} is damaged ({error}): it is compiled again, and so are others like it")
            return None

    def put(self, key: str, program: Serialized) -> None:
        """Keeps a program."""
        self._entries.put(self._name_of_program(key), zlib.compress(program.data, 1))

    def _name_of_program(self, key: str) -> str:
        return f"ghn_jax-program-{key}-{self._environment}"

    def _name_of(self, recipe: Any) -> str:
        return f"ghn_jax-recipe-{_digest(f'{type(recipe).__qualname__} {recipe!r} {self._environment}')}"


class Serialized:
    """A compiled program as bytes, from which it can be loaded for every device of its kind.

    Attributes:
      data: a pickle; as JAX does, this trusts whoever may write to the cache.
    """

    def __init__(self, data: bytes):
        self.data = data

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> Serialized:
        """Of a program that this process compiled; XLA serializes wrongly what it has loaded, as of JAX's cache."""
        return cls(pickle.dumps(serialize_executable.serialize(compiled)))

    def load(self, device: Any) -> jax.stages.Compiled:
        """The program for a device, which need not be the one that it was compiled for."""
        payload, in_tree, out_tree = pickle.loads(self.data)
        unloaded, arguments, no_kwargs = _For(io.BytesIO(payload), device.client, [device]).load()
        return jax.stages.Compiled(unloaded.load(), [], in_tree.unflatten(arguments), out_tree, no_kwargs=no_kwargs)


class _For(serialize_executable._JaxPjrtUnpickler):
    """Reads a program for one device as one for another; `deserialize_and_load` only knows the device it is from."""

    def persistent_load(self, pid):
        device = self.execution_devices[0]
        if pid[0] == "device":
            return device
        if pid[0] == "exec":
            options = compiler.get_compile_options(1, 1, np.array([[device.id]]))
            return self.backend.deserialize_executable(pid[1], self.execution_devices, options)
        return super().persistent_load(pid)


def not_kept_by_jax():
    """A context in which JAX's cache takes in nothing: then it has nothing to load instead of compiling."""
    return jax_config.persistent_cache_min_compile_time_secs(float("inf"))


@functools.cache
def processor() -> str:
    """What this machine's processor can do: programs for another one, which shares the folder, may crash here."""
    features = ""
    with contextlib.suppress(OSError):  # there is no such file but on Linux
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"


@functools.cache
def source_digest() -> str:
    """Of the source code of this package."""
    found = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        found.update(f"{file.relative_to(_PACKAGE)} {file.stat().st_size} ".encode() + file.read_bytes())
    return found.hexdigest()


def _is_ours(recipe: Any) -> bool:
    """Whether the source code of a recipe is in this package; of others nobody knows when it changes."""
    return type(recipe).__module__.startswith("ghn_jax.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
