"""Small programs, compiled ahead of need: in parallel threads, once for all networks, and shared by the devices.

A `Recipe` says what a program computes and for which shapes; it is static and hashable.  `Programs` compiles recipes,
each when it is first met, and keeps what it compiled.  The same functions compile for a platform that is not there
(`benchmarks/accelerators.py`).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from ghn_jax.errors import GHNError
from ghn_jax.execution.kept import Kept, Serialized, not_kept_by_jax
from ghn_jax.networks.platforms import compiled_for, compiler_options, platform_of, processors
from ghn_jax.runtime import own_settings


class CompilationError(GHNError, RuntimeError):
    """An operation that XLA cannot compile for a device.

    >>> issubclass(ghn_jax.CompilationError, ghn_jax.GHNError)
    True
    """


class Recipe(Hashable, Protocol):
    """A program: a pure function of arrays, their shapes, and which of them it uses up."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """`jax.ShapeDtypeStruct` trees, one an argument."""
        ...

    @property
    def donated(self) -> tuple[int, ...]:
        """Numbers of the arguments whose memory the results take over."""
        ...

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the program computes; there are no options."""
        ...


Executable = Callable[..., Any]
"""A compiled recipe, for one device."""


def lower_recipe(recipe: Recipe, device: Any) -> jax.stages.Lowered:
    """The recipe traced and lowered for a device, which need not be there (`jax.experimental.topologies`)."""
    place = SingleDeviceSharding(device)

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    with compiled_for(platform_of(device)):
        return jax.jit(_plain(recipe), donate_argnums=recipe.donated).lower(*jax.tree.map(placed, recipe.arguments))


def lower_for_results(recipe: Recipe, device: Any) -> jax.stages.Lowered:
    """The recipe lowered for a device that is there, whose results do not insist on it.

    JAX refuses to spread an array over several devices that was computed for a given one; one that it happens to have
    put there, it moves.
    """
    with jax.default_device(device), compiled_for(platform_of(device)):
        return jax.jit(_plain(recipe), donate_argnums=recipe.donated).lower(*recipe.arguments)


def _plain(recipe: Recipe) -> Callable[..., Any]:
    """A function of one name, so that recipes that do the same come down to the same text."""

    def operation(*arguments):
        return recipe(*arguments)

    return operation


class Programs:
    """The compiled programs of a host.

    Recipes that come down to the same program (a mean over pixels is a global pooling) share one.

    Args:
      devices: of this process; a recipe is compiled for the first and loaded on the others.
      threads: that compile at once; None for as many as there are processors.
      options: of XLA; None for those of the platform.
      lower: what lowers a recipe for a device.
      keep: whether programs are kept on disk where JAX's persistent cache is used; not those for a device that is not
        there.
      progress: called with the number of finished recipes, that of those begun, and the one that was finished last.
    """

    def __init__(
        self,
        devices: Sequence[Any] | None = None,
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
        lower: Callable[[Recipe, Any], jax.stages.Lowered] = lower_recipe,
        keep: bool = True,
        progress: Callable[[int, int, Recipe], None] = lambda finished, started, recipe: None,
    ):
        self.devices = tuple(jax.local_devices() if devices is None else devices)
        self._options = compiler_options(platform_of(self.devices[0])) if options is None else dict(options)
        self._lower = lower
        self._kept = Kept.for_device(self.devices[0], self._options, lower) if keep else None
        self._progress = progress
        self._pool = concurrent.futures.ThreadPoolExecutor(
            threads or processors(), thread_name_prefix="ghn_jax_compile"
        )
        self._lock = threading.Lock()
        self._found: dict[Recipe, concurrent.futures.Future[tuple[Executable, ...]]] = {}
        self._compiled: dict[str, concurrent.futures.Future[tuple[Executable, ...]]] = {}
        self._numbers: dict[tuple[int, int], jax.Array] = {}
        self.finished = 0
        self.compile_cpu_seconds = 0.0

    def begin(self, recipes: Iterable[Recipe]) -> None:
        """Begins to compile recipes, in this order, unless that has begun before."""
        for recipe in recipes:
            self._future(recipe)

    def get(self, recipe: Recipe, device: int = 0) -> Executable:
        """The program, compiled now if need be, for the device of this number.

        Raises:
          CompilationError: XLA cannot compile it, naming the recipe.
        """
        future = self._future(recipe)
        try:
            return future.result()[device]
        except BaseException:
            if future.done() and future.exception() is not None:  # next time there may be enough memory
                with self._lock:
                    if self._found.get(recipe) is future:
                        del self._found[recipe]
            raise

    def submit(self, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
        """Compiles something else that belongs to the run, in the same threads."""
        return self._pool.submit(own_settings()(function), *arguments)

    def number(self, value: int, device: int = 0) -> jax.Array:
        """An int32 scalar on a device, put there once."""
        if (value, device) not in self._numbers:
            self._numbers[value, device] = jax.device_put(np.int32(value), self.devices[device])
        return self._numbers[value, device]

    @property
    def started(self) -> int:
        """Recipes met so far."""
        return len(self._found)

    @property
    def distinct(self) -> int:
        """Programs compiled or being compiled."""
        return len(self._compiled)

    def close(self) -> None:
        """Drops what has not begun to be compiled."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _future(self, recipe: Recipe) -> concurrent.futures.Future[tuple[Executable, ...]]:
        future = self._found.get(recipe)
        if future is None:
            with self._lock:
                future = self._found.get(recipe)
                if future is None:
                    future = self._found[recipe] = self.submit(self._make, recipe)
        return future

    def _make(self, recipe: Recipe) -> tuple[Executable, ...]:
        began = time.thread_time()
        try:
            lowered, key = None, self._kept and self._kept.find(recipe)
            if key is None:
                lowered, key = self._lowered(recipe)
            with self._lock:
                found = self._compiled.get(key)
                mine = found is None
                if found is None:
                    found = self._compiled[key] = concurrent.futures.Future()
            if mine:
                try:
                    found.set_result(self._load(key) or self._compile(key, lowered or self._lowered(recipe)[0]))
                except BaseException as error:
                    with self._lock:
                        del self._compiled[key]
                    found.set_exception(error)
                    raise
            programs = found.result()
            if self._kept and lowered is not None:
                self._kept.note(recipe, key)
            return programs
        except jax.errors.JaxRuntimeError as error:
            raise CompilationError(f"{recipe} cannot be compiled for {self.devices[0].device_kind}: {error}") from error
        finally:
            with self._lock:
                self.finished += 1
                self.compile_cpu_seconds += time.thread_time() - began
            self._progress(self.finished, self.started, recipe)

    def _lowered(self, recipe: Recipe) -> tuple[jax.stages.Lowered, str]:
        """The recipe lowered for the first device, and a key of what it does."""
        lowered = self._lower(recipe, self.devices[0])
        # The text says nothing of arguments that are not used, but a program takes only those that it was compiled for.
        text = f"{lowered.args_info} {lowered.in_tree} {lowered.out_tree} {lowered.as_text()}"
        return lowered, hashlib.sha256(text.encode()).hexdigest()

    def _load(self, key: str) -> tuple[Executable, ...] | None:
        """The program of this key for every device, if it has been kept."""
        serialized = self._kept.get(key) if self._kept else None
        return serialized and tuple(serialized.load(device) for device in self.devices)

    def _compile(self, key: str, lowered: jax.stages.Lowered) -> tuple[Executable, ...]:
        """The program for every device, compiled once."""
        compiled = compile_lowered(lowered, self._options)
        if self._kept is None and len(self.devices) == 1:
            return (compiled,)
        serialized = Serialized.of(compiled)
        if self._kept:
            self._kept.put(key, serialized)
        return (compiled, *(serialized.load(device) for device in self.devices[1:]))


def compile_lowered(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> jax.stages.Compiled:
    """What lowering gave, compiled with these options of XLA; JAX's cache is left alone (see `Serialized.of`)."""
    with not_kept_by_jax():
        return lowered.compile(dict(options))
