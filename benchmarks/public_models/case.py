"""A public model with what it takes to trace it, to initialise it and to run it."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

shapes_only: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes_only", default=False)
"""Models are made without values: they can be traced, but not run."""

Main = Callable[[Any], Any]
"""The main one of a model's outputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model.

    Attributes:
      name: of the model.
      package: name of the distribution that it is from.
      model, inputs, options: arguments of `ghn_jax.trace`.
      own: makes parameters with the model's own initialisers.
      run: the main output for parameters.
      reduced: what is smaller than in the published model.
    """

    name: str
    package: str
    model: Any
    inputs: tuple[Any, ...]
    own: Callable[[], Any]
    run: Callable[[Any], Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reduced: str = ""

    def output(self, params: Any) -> np.ndarray:
        """The main output, of one compiled program for all parameters of these shapes."""
        leaves, treedef = jax.tree.flatten(params)
        arrays = {index: leaf for index, leaf in enumerate(leaves) if hasattr(leaf, "shape")}

        def run(arrays):
            return self.run(jax.tree.unflatten(treedef, [arrays.get(index, leaf) for index, leaf in enumerate(leaves)]))

        return np.asarray(_compiled(self, run)(arrays), np.float32)


_programs: dict[int, Callable[[Any], Any]] = {}


def _compiled(case: Case, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The program of a case; that of one only is kept."""
    if id(case) not in _programs:
        _programs.clear()
        _programs[id(case)] = jax.jit(run)
    return _programs[id(case)]


def images(size: int, *, batch: int = 1, channels_first: bool = False) -> np.ndarray:
    """Random images, standardised."""
    shape = (batch, 3, size, size) if channels_first else (batch, size, size, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def tokens(length: int, vocabulary: int, batch: int = 1) -> np.ndarray:
    """Random tokens; none of the first few, which often have a meaning of their own."""
    return np.random.default_rng(0).integers(4, vocabulary, (batch, length), dtype=np.int32)


def itself(output: Any) -> Any:
    """Of a model with one output."""
    return output


def first(output: Any) -> Any:
    """Of a model with several outputs."""
    return output[0]


def made(build: Callable[..., Any], *args: Any) -> Any:
    """What `build` makes, in one compiled program; only its shapes while `shapes_only` is set."""
    import equinox as eqx

    return eqx.filter_eval_shape(build, *args) if shapes_only.get() else eqx.filter_jit(build)(*args)


def function(name: str, package: str, model: Callable[..., Any], params: Any, *inputs: Any, **more: Any) -> Case:
    """A function of parameters and inputs; `main` and `reduced` may be given."""
    main, reduced = more.pop("main", itself), more.pop("reduced", "")
    run = lambda params: main(model(params, *inputs, **more))  # noqa: E731
    return Case(name, package, model, (params, *inputs), lambda: params, run, more, reduced)


def pytree(name: str, package: str, build: Callable[[Any], Any], *inputs: Any, **more: Any) -> Case:
    """A model of Equinox, which `build` makes of a key."""
    main, reduced = more.pop("main", itself), more.pop("reduced", "")
    model = made(build, jax.random.key(0))
    return Case(name, package, model, inputs, lambda: model, lambda model: main(model(*inputs, **more)), more, reduced)


def linen(name: str, package: str, module: nn.Module, *inputs: Any, **more: Any) -> Case:
    """A Linen module."""
    main, reduced = more.pop("main", itself), more.pop("reduced", "")
    rngs = {stream: jax.random.key(index) for index, stream in enumerate(("params", "dropout", "default"))}
    variables = functools.cache(jax.jit(lambda: module.init(rngs, *inputs, **more)))

    def run(params: Any) -> Any:
        states = {key: value for key, value in variables().items() if key != "params"}
        output = module.apply({**states, "params": params}, *inputs, rngs=rngs, mutable=list(states) or False, **more)
        return main(output[0] if states else output)

    return Case(name, package, module, inputs, lambda: variables()["params"], run, more, reduced)


def nnx_module(name: str, package: str, module: Any, *inputs: Any, **more: Any) -> Case:
    """An NNX module."""
    from flax import nnx

    main, reduced = more.pop("main", itself), more.pop("reduced", "")
    graphdef, own, states = nnx.split(module, nnx.Param, ...)

    def run(params: Any) -> Any:
        return main(nnx.merge(graphdef, params, states)(*inputs, **more))

    return Case(name, package, module, inputs, lambda: own, run, more, reduced)


def stateful(name: str, package: str, model: Any, states: Any, *inputs: Any, **more: Any) -> Case:
    """An Equinox model of one image, with states, as `jax.vmap` over a batch named "batch" calls it."""
    main, reduced = more.pop("main", itself), more.pop("reduced", "")

    def run(model, states, images):
        return jax.vmap(lambda x: model(x, states), axis_name="batch", out_axes=(0, None))(images)

    return Case(
        name, package, run, (model, states, *inputs), lambda: model, lambda m: main(run(m, states, *inputs)[0]), more,
        reduced,
    )  # fmt: skip


Cases = Mapping[str, Callable[[], Case]]
"""How to make every case of a package, by the name of the model."""
