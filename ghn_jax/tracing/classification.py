"""One classification of all arrays of a model: parameters, states and inputs, each state with its reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax.tracing import states
from ghn_jax.tracing.equations import Equations, flatten
from ghn_jax.tracing.staging import Staged, named_outputs

NO_INPUT = "no input"
"""How the note begins on a model that is called without one."""

_MAIN = re.compile(r"(.*_)?(logits?|predictions?|class(es)?|scores?)|out|outputs?|y", re.IGNORECASE)

_ASIDE = re.compile(r"aux|loss|hidden|intermediate|attention|embed|feature|state|cache", re.IGNORECASE)


class Named(NamedTuple):
    """Arrays, their paths, and the tree (or trees by name) that they are from."""

    names: Sequence[str]
    arrays: Sequence[Any]
    tree: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Kinds:
    """What the arrays of a model are.

    Attributes:
      equations: the program, read with that knowledge.
      states: why a leaf of the parameters is none, by index.
      inputs: indices of the arguments that are inputs.
      given: numbers of all values that come from outside: inputs, activations that a state carries on.
      variances: numbers of running variances.
      notes: what the report says of the model.
    """

    equations: Equations
    states: Mapping[int, str]
    inputs: Sequence[int]
    given: Sequence[int]
    variances: set[int]
    notes: tuple[str, ...]


def classify(staged: Staged, params: Named, num_states: int, arguments: Named, patterns: Sequence[str]) -> Kinds:
    """What every array is; see `states` for the rules.

    Args:
      staged: the program; its inputs are parameters, states (such as Linen's other collections), and arguments.
      params: its parameters, some of which may be none.
      num_states: how many states.
      arguments: the trees of its arguments by position or name, which are inputs or states.
      patterns: names of further states, of the caller.
    """
    first = len(params.names) + num_states
    found = _states_by_name(params, patterns)
    parameters = [index for index in range(len(params.names)) if index not in found]
    aside, taken = _arguments_by_name(staged, arguments, patterns)
    aside |= _returned_collections(params.tree, staged.output)

    def read(outputs: Sequence[int], closed_over: bool = False, doubted: Collection[int] = ()):
        given = {first + index for index in range(len(arguments.names)) if index not in taken}
        equations = flatten(staged.jaxpr, len(params.names), given, outputs, closed_over)
        numbers = equations.inputs
        seeds = [numbers[index] for index in given if index - first not in doubted]
        seeds += [number for number in equations.constants if equations.of_inputs[number]]
        return equations, states.uses(equations, seeds, [numbers[index] for index in parameters])

    order = [index for index in range(len(staged.jaxpr.jaxpr.outvars)) if index not in aside]
    # What is in a container may be an input or a state.
    doubted = [index for index, name in enumerate(arguments.names) if "/" in name]
    equations, uses = read(order, doubted=doubted)
    by_use = _arguments_by_use(equations.inputs[first:], arguments, uses, taken)
    if by_use:
        taken |= by_use
        equations, uses = read(order)
    order = _main_first(order, named_outputs(staged.output), equations)
    inputs = [index for index in range(len(arguments.names)) if index not in taken]
    equations, uses = read(order, closed_over=not inputs)
    found = _states_by_use(params, equations, uses) | found
    numbers = equations.inputs[first:]
    closed = _closed_over(equations, uses) if not inputs else []
    carried = [numbers[index] for index in taken if numbers[index] in uses.carried and _is_float(arguments, index)]
    notes = _notes(arguments, taken, [equations.constants[number] for number in closed], inputs)
    given = [*(numbers[index] for index in inputs), *closed, *carried]
    return Kinds(equations, found, inputs, given, uses.variances, notes)


def _is_float(arguments: Named, index: int) -> bool:
    return states.by_type(arguments.arrays[index]) is None


def _states_by_name(params: Named, patterns: Sequence[str]) -> dict[int, str]:
    collections = states.collections_of(params.tree)
    variables = states.by_variable(params.tree)
    found = {}
    for index, (name, array) in enumerate(zip(params.names, params.arrays, strict=True)):
        reason = states.by_type(array) or states.by_name(name, patterns, collections) or variables[index]
        if reason is not None:
            found[index] = reason
    return found


def _returned_collections(tree: Any, output: Any) -> set[int]:
    """The outputs that are collections from beside the parameters, all of them or one."""
    collections = {key: tree[key] for key in sorted(states.collections_of(tree))}
    found = {index for part in (collections, *collections.values()) for index in states.returned(part, output)}
    return found if len(found) < len(jax.tree.leaves(output)) else set()


def _states_by_use(params: Named, equations: Equations, uses: states.Uses) -> dict[int, str]:
    """Leaves of the parameters that are running statistics, or reach the output under `stop_gradient` only."""
    numbers = equations.inputs[: len(params.names)]
    found = {}
    stopped = uses.stopped
    floats = {number for number, array in zip(numbers, params.arrays, strict=True) if states.by_type(array) is None}
    if not floats <= stopped:  # else the whole model is under it
        found |= {index: "under stop_gradient" for index, number in enumerate(numbers) if number in stopped}
    shapes = {params.arrays[index].shape for index, number in enumerate(numbers) if number in uses.variances}
    for index, number in enumerate(numbers):
        if number in uses.variances:
            found[index] = "activations are divided by its square root, as by that of a running variance"
        elif number in uses.means and params.arrays[index].shape in shapes:
            found[index] = "a running mean, it is subtracted before the division by a running variance"
    return found


def _arguments_by_name(staged: Staged, arguments: Named, patterns: Sequence[str]) -> tuple[set[int], dict[int, str]]:
    """The outputs that are states, and the arguments that are, with the reason."""
    aside: set[int] = set()
    taken: dict[int, str] = {}
    for key, tree in arguments.tree.items():
        members = _members(arguments, key)
        collections = states.collections_of(tree)
        for index, variable in zip(members, states.by_variable(tree), strict=True):
            path = arguments.names[index].partition("/")[2]
            array = arguments.arrays[index]
            reason = states.by_name(arguments.names[index], patterns, ())
            reason = reason or (states.by_name(path, (), collections) if path else None)
            reason = reason or variable
            if reason is None and jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
                reason = states.by_type(array)
            if reason is not None:
                taken[index] = reason
        if any(taken.get(index, "").startswith("named '") for index in members):
            taken |= {index: taken.get(index, "beside running statistics") for index in members}
    for key, tree in arguments.tree.items():
        members = _members(arguments, key)
        back = states.returned(tree, staged.output, known=all(index in taken for index in members))
        others = set(range(len(arguments.names))) - taken.keys() - set(members)
        if back and members and others and aside.isdisjoint(back):
            aside |= set(back)
            taken |= {index: taken.get(index, "returned beside the output") for index in members}
    return aside, taken


def _members(arguments: Named, key: str) -> list[int]:
    return [index for index, name in enumerate(arguments.names) if name.partition("/")[0] == key]


def _arguments_by_use(
    numbers: Sequence[int], arguments: Named, uses: states.Uses, taken: Mapping[int, str]
) -> dict[int, str]:
    """Arguments that only make random numbers, hold running variances, or are under `stop_gradient`."""
    found = {}
    followed = [index for index in range(len(numbers)) if index not in taken and numbers[index] not in uses.stopped]
    for index, (number, array) in enumerate(zip(numbers, arguments.arrays, strict=True)):
        if number in uses.keys and states.by_type(array) is not None:
            found[index] = "a random key" if array.shape[-1:] == (2,) else "it only makes random numbers"
        elif number in uses.stopped and "/" in arguments.names[index] and followed:
            found[index] = "under stop_gradient"
    for key in arguments.tree:
        members = _members(arguments, key)
        if any(numbers[index] in uses.variances for index in members if "/" in arguments.names[index]):
            found |= {index: "running statistics: activations are divided by the root of one" for index in members}
    return {index: reason for index, reason in found.items() if index not in taken}


def _main_first(order: Sequence[int], names: Sequence[str], equations: Equations) -> list[int]:
    """Outputs, the one first that is most likely the model's own: by its name, or what depends on most parameters."""

    def rank(position: int) -> tuple[int, int, int]:
        parts = names[order[position]].split("/")
        main, aside = any(map(_MAIN.fullmatch, parts)), any(map(_ASIDE.search, parts))
        number = equations.outputs[position]
        return (1 if main == aside else 0 if main else 2), -equations.of_params[number].bit_count(), position

    return [order[position] for position in sorted(range(len(order)), key=rank)]


def _closed_over(equations: Equations, uses: states.Uses) -> list[int]:
    """Arrays that a program without inputs closes over and may be meant to be its input."""
    used = {number for equation in equations.equations for number in equation.inputs}
    return [
        number
        for number, value in equations.constants.items()
        if number in used and np.ndim(value) >= (2 if states.by_type(value) is None else 1)
        if number not in uses.variances | uses.keys
    ]


def _notes(arguments: Named, taken: Mapping[int, str], closed: Sequence[Any], inputs: Sequence[int]) -> tuple[str, ...]:
    notes = []
    for key in arguments.tree:
        reasons = dict.fromkeys(taken[index] for index in _members(arguments, key) if index in taken)
        if reasons:
            called = f"argument {key}" if key.isdigit() else f"argument {key!r}"
            notes.append(f"{called} is a state: {'; '.join(reasons)}")
    if not inputs:
        shapes = ", ".join(f"{value.dtype.name}[{','.join(map(str, value.shape))}]" for value in closed)
        instead = f"arrays that the function closes over are taken for it: {shapes}" if closed else "none was given"
        notes.append(f"{NO_INPUT}: {instead}")
    return tuple(notes)
