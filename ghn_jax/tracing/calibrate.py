"""Running statistics of batch normalisation for parameters that no training has accumulated any for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from ghn_jax.checks.fields import Batches, shown, taken
from ghn_jax.errors import GHNError
from ghn_jax.runtime import own_settings


class CalibrationError(GHNError):
    """A model whose running statistics cannot be computed.

    >>> from flax import linen as nn
    >>> ghn_jax.calibrate(nn.Dense(3), {}, [])
    Traceback (most recent call last):
        ...
    ghn_jax.tracing.calibrate.CalibrationError: calibrate needs at least one batch
    """


class _Pooled(NamedTuple):
    """Statistics of several batches together; leaves are NumPy arrays."""

    examples: int
    mean: dict[Any, np.ndarray]
    variance: dict[Any, np.ndarray]


@own_settings()
def calibrate(model: Any, params: Any, batches: Iterable[Any], **apply_kwargs: Any) -> Any:
    """Running statistics of every batch normalisation of `model` with `params`, the mean and variance over all batches.

    Every batch is normalised by its own statistics, as when predicted parameters are evaluated (of a layer that is
    called several times, those of the last call are kept); dropout is off in NNX
    modules, and in Linen modules as `apply_kwargs` say.  Layers have to be `nn.BatchNorm` or `nnx.BatchNorm`; what they
    say of running averages and momentum does not matter.

        stats = ghn_jax.calibrate(model, params, batches, train=False)
        logits = model.apply({"params": params, "batch_stats": stats}, x, train=False)

        nnx.update(module, params, ghn_jax.calibrate(module, params, batches))

    Args:
      model: a Linen or NNX module.
      params: its parameters, from `predict_params`.
      batches: inputs; a tuple holds several arguments.
      **apply_kwargs: further arguments of the call.

    Returns:
      For a Linen module its `batch_stats` collection; for an NNX module a state for `nnx.update`.

    Raises:
      CalibrationError: another kind of model, parameters of another model, no batches or what are none, no batch
        normalisation, statistics that are not finite, or a model that fails (its own error is the cause).

    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> model = nn.BatchNorm(use_running_average=False)
    >>> images = jnp.arange(12.0).reshape(4, 3)
    >>> stats = ghn_jax.calibrate(model, {'scale': jnp.ones(3), 'bias': jnp.zeros(3)}, [images])
    >>> stats['mean'].tolist()
    [4.5, 5.5, 6.5]
    """
    nnx = sys.modules.get("flax.nnx")
    if isinstance(model, nn.Module):
        step, finish = _linen(model, params, apply_kwargs)
    elif nnx is not None and isinstance(model, nnx.Module):
        step, finish = _nnx(nnx, model, params, apply_kwargs)
    else:
        raise CalibrationError(f"calibrate expected a Linen or NNX module, got {type(model).__name__}")
    pooled, name = None, type(model).__name__
    for batch in taken(batches, Batches(), CalibrationError, "batches"):
        args = batch if isinstance(batch, tuple) else (batch,)
        _check_batch(args)
        try:
            mean, variance = jax.device_get(step(*args))
        except CalibrationError:
            raise
        except Exception as error:  # the user's model may raise anything; it becomes the cause of ours
            raise CalibrationError(f"{name} fails: {type(error).__name__}: {str(error)[:300]}") from error
        if not mean:
            raise CalibrationError(f"{name} calls no BatchNorm, there is nothing to calibrate")
        for layer, values in [*mean.items(), *variance.items()]:
            if not np.isfinite(values).all():
                where = "/".join(layer) or name
                raise CalibrationError(
                    f"statistics of {where} are not finite: expected parameters and batches that are"
                )
        new = _Pooled(np.shape(args[0])[0], mean, variance)
        pooled = new if pooled is None else _pool(pooled, new)
    if pooled is None:
        raise CalibrationError("calibrate needs at least one batch")
    return finish(pooled)


def _check_batch(args: tuple[Any, ...]) -> None:
    """Raises CalibrationError for arguments of which the first is no batch of examples."""
    examples: Any = args[0] if args else None
    if isinstance(examples, np.ma.MaskedArray):
        raise CalibrationError("a batch is a masked array: expected numbers, nothing stands for what is masked")
    try:
        shape = np.shape(examples)
    except ValueError:  # a list of lists of several lengths
        shape = ()
    if not shape or shape[0] < 1:
        raise CalibrationError(f"a batch is {shown(examples)}: expected an array of at least one example")


def _check_names(found: Any, expected: Any, name: str) -> None:
    """Raises CalibrationError for parameters of another model."""
    given, own = (
        {_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(tree))}
        for tree in (found, expected)
    )
    for label, wrong in (("without", own - given), ("with a surplus", given - own)):
        if wrong:
            names = ", ".join(sorted("/".join(keys) for keys in wrong)[:6])[:300]
            raise CalibrationError(f"parameters {label} {names}: expected those of {name}")


def _pool(first: _Pooled, second: _Pooled) -> _Pooled:
    """The law of total variance, in double precision."""
    examples = first.examples + second.examples
    share = second.examples / examples
    mean, variance = {}, {}
    for key, old in first.mean.items():
        step = second.mean[key].astype(np.float64) - old
        mean[key] = old + share * step
        within = (1 - share) * first.variance[key] + share * second.variance[key].astype(np.float64)
        variance[key] = within + share * (1 - share) * np.square(step)
    return _Pooled(examples, mean, variance)


def _linen(module: nn.Module, params: Any, kwargs: dict[str, Any]) -> tuple[Callable, Callable]:
    if module.scope is not None:
        module, _ = module.unbind()
    kwargs = dict(kwargs)
    kwargs.pop("mutable", None)
    rngs = kwargs.pop("rngs", None)
    rngs = rngs if rngs is not None else {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def by_batch(next_call, args, call_kwargs, context):
        norm = context.module
        if isinstance(norm, nn.BatchNorm) and context.method_name == "__call__":
            # Without momentum the running statistics become those of the batch.
            object.__setattr__(norm, "momentum", 0.0)
            object.__setattr__(norm, "use_running_average", None)
            object.__setattr__(norm, "axis_name", None)  # the batch is on one device
            call_kwargs = {**call_kwargs, "use_running_average": False}
            args = args[:1]
        return next_call(*args, **call_kwargs)

    def init(*args):
        return module.init(rngs, *args, **kwargs)

    @jax.jit
    def step(params, states, *args):
        with nn.intercept_methods(by_batch):
            _, changed = module.apply({**states, "params": params}, *args, rngs=rngs, mutable=list(states), **kwargs)
        found, _ = jax.tree_util.tree_flatten_with_path(changed["batch_stats"])
        return _split({_keys(path): leaf for path, leaf in found})

    @functools.cache
    def states(shapes):
        abstract = jax.eval_shape(init, *(jax.ShapeDtypeStruct(*shape) for shape in shapes))
        if "batch_stats" not in abstract:
            raise CalibrationError(f"{type(module).__name__} has no batch_stats, there is nothing to calibrate")
        _check_names(params, abstract.get("params", {}), type(module).__name__)
        return {name: values for name, values in abstract.items() if name != "params"}

    template = {}

    def run(*args):
        args = [np.asarray(array) if not hasattr(array, "dtype") else array for array in args]
        template.update(states(tuple((array.shape, array.dtype) for array in args)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        return step(params, zeros, *args)

    def finish(pooled: _Pooled):
        return _fill(template["batch_stats"], pooled)

    return run, finish


def _nnx(nnx: Any, module: Any, params: Any, kwargs: dict[str, Any]) -> tuple[Callable, Callable]:
    module = nnx.clone(module)
    _check_names(params, nnx.state(module, nnx.Param), type(module).__name__)
    nnx.update(module, params)
    module.eval()
    norms = {path: part for path, part in nnx.iter_modules(module) if isinstance(part, nnx.BatchNorm)}
    for norm in norms.values():
        norm.use_running_average = False
        norm.momentum = 0.0
        norm.axis_name = None  # the batch is on one device
    graphdef, state = nnx.split(module)
    stats = nnx.split(module, nnx.BatchStat, ...)[1]

    @jax.jit
    def step(state, *args):
        merged = nnx.merge(graphdef, state)
        merged(*args, **kwargs)
        found, _ = jax.tree_util.tree_flatten_with_path(nnx.split(merged, nnx.BatchStat, ...)[1])
        norm_names = {tuple(map(str, path)) for path in norms}
        leaves = {_keys(path): leaf for path, leaf in found}
        return _split({key: leaf for key, leaf in leaves.items() if key[:-1] in norm_names})

    return functools.partial(step, state), lambda pooled: _fill(stats, pooled)


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Names on the path to an array; the last tells a mean from a variance."""
    names = tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return names[:-1] if names and names[-1] in ("value", ".value") else names


def _split(leaves: dict[tuple[str, ...], Any]) -> tuple[dict, dict]:
    by_kind = [{key[:-1]: leaf for key, leaf in leaves.items() if key[-1] == kind} for kind in ("mean", "var")]
    return by_kind[0], by_kind[1]


def _fill(like: Any, pooled: _Pooled) -> Any:
    """A tree like `like` with the pooled statistics; leaves that belong to no batch normalisation stay."""

    def leaf(path, old):
        *layer, kind = _keys(path)
        table = {"mean": pooled.mean, "var": pooled.variance}.get(kind, {})
        values = table.get(tuple(layer))
        return old if values is None else jax.numpy.asarray(values, old.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)
