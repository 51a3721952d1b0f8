"""Small programs, compiled ahead of need: in parallel threads, once for all networks, and shared by the devices.

A `Recipe` says what a program computes and for which shapes; it is static and hashable.  `Programs` compiles recipes,
each when it is first met, and keeps what it compiled.  The same functions compile for a platform that is not there
(`benchmarks/accelerators.py`).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax._src import compiler
from jax.experimental import serialize_executable
from jax.sharding import SingleDeviceSharding

from ghn_jax.platforms import compiled_for, compiler_options, platform_of, processors


class CompilationError(RuntimeError):
    """An operation that XLA cannot compile for a device."""


class Recipe(Hashable, Protocol):
    """A program: a pure function of arrays, their shapes, and which of them it uses up."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """`jax.ShapeDtypeStruct` trees, one an argument."""

    @property
    def donated(self) -> tuple[int, ...]:
        """Numbers of the arguments whose memory the results take over."""

    def __call__(self, *arguments: Any) -> Any:
        """What the program computes."""


Program = Callable[..., Any]
"""A compiled recipe, for one device."""


def lower(recipe: Recipe, device: Any) -> jax.stages.Lowered:
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
    """A function of one name, so that recipes that do the same share an entry of the persistent cache."""

    def program(*arguments):
        return recipe(*arguments)

    return program


class Programs:
    """The compiled programs of a host.

    Recipes that come down to the same program (a mean over pixels is a global pooling) share one.

    Args:
      devices: of this process; a recipe is compiled for the first and loaded on the others.
      threads: that compile at once; None for as many as there are processors.
      options: of XLA; None for those of the platform.
      lower: what lowers a recipe for a device.
      progress: called with the number of finished recipes, that of those begun, and the one that was finished last.
    """

    def __init__(
        self,
        devices: Sequence[Any] | None = None,
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        lower: Callable[[Recipe, Any], jax.stages.Lowered] = lower,
        progress: Callable[[int, int, Recipe], None] = lambda finished, started, recipe: None,
    ):
        self.devices = tuple(jax.local_devices() if devices is None else devices)
        self._options = compiler_options(platform_of(self.devices[0])) if options is None else dict(options)
        self._lower = lower
        self._progress = progress
        self._pool = concurrent.futures.ThreadPoolExecutor(
            threads or processors(), thread_name_prefix="ghn_jax_compile"
        )
        self._lock = threading.Lock()
        self._found: dict[Recipe, concurrent.futures.Future[tuple[Program, ...]]] = {}
        self._compiled: dict[str, concurrent.futures.Future[tuple[Program, ...]]] = {}
        self._numbers: dict[tuple[int, int], jax.Array] = {}
        self.finished = 0
        self.compile_cpu_seconds = 0.0

    def begin(self, recipes: Iterable[Recipe]) -> None:
        """Begins to compile recipes, in this order, unless that has begun before."""
        for recipe in recipes:
            self._future(recipe)

    def get(self, recipe: Recipe, device: int = 0) -> Program:
        """The program, compiled now if need be, for the device of this number.

        Raises:
          CompilationError: XLA cannot compile it, naming the recipe.
        """
        return self._future(recipe).result()[device]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
        """Compiles something else that belongs to the run, in the same threads."""
        return self._pool.submit(function, *arguments)

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

    def _future(self, recipe: Recipe) -> concurrent.futures.Future[tuple[Program, ...]]:
        future = self._found.get(recipe)
        if future is None:
            with self._lock:
                future = self._found.get(recipe)
                if future is None:
                    future = self._found[recipe] = self._pool.submit(self._make, recipe)
        return future

    def _make(self, recipe: Recipe) -> tuple[Program, ...]:
        began = time.thread_time()
        try:
            lowered = self._lower(recipe, self.devices[0])
            text = f"{recipe.donated} {lowered.in_tree} {lowered.out_tree} {lowered.as_text()}"
            key = hashlib.sha256(text.encode()).hexdigest()
            with self._lock:
                same = self._compiled.get(key)
                mine = self._compiled.setdefault(key, concurrent.futures.Future()) if same is None else None
            if same is not None:
                return same.result()
            try:
                compiled = compile_lowered(lowered, self._options)
                programs = (compiled, *(self._elsewhere(recipe, compiled, device) for device in self.devices[1:]))
            except BaseException as error:
                mine.set_exception(error)
                raise
            mine.set_result(programs)
            return programs
        except jax.errors.JaxRuntimeError as error:
            raise CompilationError(f"{recipe} cannot be compiled for {self.devices[0].device_kind}: {error}") from error
        finally:
            with self._lock:
                self.finished += 1
                self.compile_cpu_seconds += time.thread_time() - began
            self._progress(self.finished, self.started, recipe)

    def _elsewhere(self, recipe: Recipe, compiled: jax.stages.Compiled, device: Any) -> Program:
        """The program for another device of the host."""
        if platform_of(device) == "cpu":
            # Several CPU devices are for tests; XLA cannot copy a CPU program that came from the persistent cache.
            return compile_lowered(self._lower(recipe, device), self._options)
        return copy_to(compiled, device)


def compile_lowered(lowered: jax.stages.Lowered, options: Mapping[str, str]) -> jax.stages.Compiled:
    """What `lower` gave, compiled with these options of XLA."""
    return lowered.compile(dict(options))


def copy_to(compiled: jax.stages.Compiled, device: Any) -> Program:
    """The same program on another device of the host, without compiling it again."""
    payload, in_tree, out_tree = serialize_executable.serialize(compiled)
    unloaded, arguments, no_kwargs = _Elsewhere(io.BytesIO(payload), device.client, [device]).load()
    return jax.stages.Compiled(unloaded.load(), [], in_tree.unflatten(arguments), out_tree, no_kwargs=no_kwargs)


class _Elsewhere(serialize_executable._JaxPjrtUnpickler):
    """Reads a program for one device as one for another; `deserialize_and_load` only knows the device it is from."""

    def persistent_load(self, pid):
        device = self.execution_devices[0]
        if pid[0] == "device":
            return device
        if pid[0] == "exec":
            options = compiler.get_compile_options(1, 1, np.array([[device.id]]))
            return self.backend.deserialize_executable(pid[1], self.execution_devices, options)
        return super().persistent_load(pid)
