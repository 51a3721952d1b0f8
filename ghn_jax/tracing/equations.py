"""A jaxpr as one flat list of equations.

Calls (jit, custom derivatives, remat, shard_map, and whatever else holds a jaxpr that fits its inputs) are inlined,
loops over stacked parameters are unrolled, other loops are entered once, and so are all branches of a conditional: but
for those that only raise an error, and those that are known not to be taken.  What does not reach the outputs is left
out.  Five names stand for what loops and conditionals do with values:

  loop_carry   init, and what else the carry comes from after the first round -> the carry in a round
  loop_slice   a stack of values -> the one of a round
  loop_stack   the value of every round (one, if the loop is entered once) -> their stack
  branches     what decides, then the value of every branch -> that of the one taken
  decided      a value, and what decides how often it was computed anew -> the value
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from ghn_jax.tracing import integers
from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.references import References, part_of

MAX_ROUNDS = 1024
"""Of a loop over stacked parameters, which all become nodes."""

MAX_STEPS = 64
"""Of a loop that reads activations or counts its way through parameters: one with more of them is over time, not
layers, and is entered once."""

MAX_EQUATIONS = 500_000

SAME_VALUES = frozenset(
    "all_gather convert_element_type copy copy_p device_put name optimization_barrier pbroadcast pmean psum pvary"
    " reduce_precision sharding_constraint stop_gradient tie".split()
)
"""Operations that leave values as they are; axes of several devices have size 1."""

SAME_ELEMENTS = SAME_VALUES | frozenset("reshape transpose squeeze expand_dims broadcast_in_dim slice".split())
"""Operations whose results are elements of their only operand."""

_ON_REFERENCES = frozenset(("get", "swap", "addupdate", "freeze"))

_WITH_COMBINERS = ("reduce", "reduce_window", "scatter", "select_and_scatter", "argm", "cum", "run_state", "pallas")
"""How the names of primitives begin whose jaxpr is applied to pairs of elements, or to references."""


@dataclasses.dataclass(frozen=True, slots=True)
class Equation:
    """`outputs = name(inputs)`; values are numbered.

    Attributes:
      name: of the primitive.
      params: of the primitive.
      inputs, outputs: numbers of values.
      scope: where it is in the model: names of modules and functions, joined by "/".
      primitive: of JAX; None for what stands for a loop or a conditional.
    """

    name: str
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: str
    primitive: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Equations:
    """A flat program.

    Attributes:
      equations: those that reach an output, in order.
      inputs, outputs: numbers of values.
      shapes, dtypes: of every value.
      of_params: parameters that every value depends on, as bits.
      of_inputs: whether it depends on inputs of the model.
      known: integers and truth values that are known without running anything, by number.
      constants: the values of arrays that the program closes over, and of literals, by number.
      unfollowed: operations on references that are not followed, with their place.
    """

    equations: list[Equation]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: list[tuple[int, ...]]
    dtypes: list[Any]
    of_params: list[int]
    of_inputs: list[bool]
    known: dict[int, int]
    constants: dict[int, Any]
    unfollowed: tuple[str, ...]

    def append(self, primitive: Any, params: Mapping[str, Any], number: int, scope: str) -> int:
        """A further equation, of one value and for one of the same shape; returns its number."""
        output = len(self.shapes)
        self.shapes.append(self.shapes[number])
        self.dtypes.append(self.dtypes[number])
        self.of_params.append(self.of_params[number])
        self.of_inputs.append(self.of_inputs[number])
        self.equations.append(Equation(primitive.name, params, (number,), (output,), scope, primitive))
        return output


def flatten(
    closed: core.ClosedJaxpr,
    num_params: int,
    given: Collection[int],
    outputs: Sequence[int] | None = None,
    closed_over: bool = False,
) -> Equations:
    """The equations of `closed`.

    Args:
      closed: the first of its inputs are parameters.
      num_params: how many of them.
      given: indices of those that are inputs of the model; others are states.
      outputs: indices of the outputs that count, in the order wanted; None for all.
      closed_over: arrays that the program closes over are inputs of the model.

    Raises:
      TraceError: a loop over more than `MAX_ROUNDS` stacked parameters, or too large a program.
    """
    flattener = _Flattener(closed_over)
    inputs = tuple(
        flattener.new(var.aval, 1 << index if index < num_params else 0, index in given)
        for index, var in enumerate(closed.jaxpr.invars)
    )
    results = flattener.inline(closed, inputs, scope="")
    chosen = tuple(results if outputs is None else [results[index] for index in outputs])
    return Equations(
        equations=_live(flattener.equations, chosen),
        inputs=inputs,
        outputs=chosen,
        shapes=flattener.shapes,
        dtypes=flattener.dtypes,
        of_params=flattener.of_params,
        of_inputs=flattener.of_inputs,
        known=flattener.known,
        constants=flattener.constants,
        unfollowed=tuple(flattener.unfollowed),
    )


def _live(equations: Sequence[Equation], outputs: Sequence[int]) -> list[Equation]:
    needed = set(outputs)
    kept = []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    return kept[::-1]


class _Mark(NamedTuple):
    """How many equations there are, what references hold, and what was not followed."""

    number: int
    contents: Mapping[int, int]
    unfollowed: Mapping[str, None]


class _Flattener:
    def __init__(self, closed_over: bool):
        self.closed_over = closed_over
        self.numbers: dict[int, int] = {}
        self.equations: list[Equation] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[Any] = []
        self.of_params: list[int] = []  # sets of parameters, as bits
        self.of_inputs: list[bool] = []
        self.known: dict[int, int] = {}
        self.constants: dict[int, Any] = {}
        self.unfollowed: dict[str, None] = {}
        self.references = References()
        self.ranges: dict[int, range] = {}  # of arrays that count from 0

    def new(self, aval: Any, of_params: int = 0, of_inputs: bool = False) -> int:
        self.shapes.append(tuple(getattr(aval, "shape", ())))
        self.dtypes.append(getattr(aval, "dtype", None))
        self.of_params.append(of_params)
        self.of_inputs.append(of_inputs)
        return len(self.shapes) - 1

    def constant(self, value: Any) -> int:
        if id(value) in self.numbers:  # kept alive by the jaxpr
            return self.numbers[id(value)]
        number = self.new(jax.typeof(value))
        if not isinstance(value, jax.core.Tracer):
            self.constants[number] = value
            if np.ndim(value):
                self.numbers[id(value)] = number
                self.of_inputs[number] = self.closed_over
        if np.shape(value) == () and not isinstance(value, jax.core.Tracer):
            dtype = jax.typeof(value).dtype
            if jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.bool_):
                self.known[number] = int(value)
        return number

    def mark(self) -> _Mark:
        """What has been read so far."""
        return _Mark(len(self.equations), dict(self.references.contents), dict(self.unfollowed))

    def undo(self, mark: _Mark) -> None:
        """Forgets what was read since."""
        del self.equations[mark.number :]
        self.references.contents = dict(mark.contents)
        self.unfollowed = dict(mark.unfollowed)

    def emit(
        self,
        name: str,
        params: Mapping[str, Any],
        inputs: Sequence[int],
        avals: Sequence[Any],
        scope: str,
        primitive: Any = None,
    ) -> tuple[int, ...]:
        of_params = 0
        for number in inputs:
            of_params |= self.of_params[number]
        of_inputs = any(self.of_inputs[number] for number in inputs)
        outputs = tuple(self.new(aval, of_params, of_inputs) for aval in avals)
        self.equations.append(Equation(name, params, tuple(inputs), outputs, scope, primitive))
        if len(self.equations) > MAX_EQUATIONS:
            raise TraceError(f"the model has more than {MAX_EQUATIONS} operations, counting those of unrolled loops")
        if outputs and name in integers.RULES and all(number in self.known for number in inputs):
            if self.shapes[outputs[0]] == ():
                self.known[outputs[0]] = int(integers.RULES[name](*(self.known[number] for number in inputs)))
        if name == "iota" and len(self.shapes[outputs[0]]) == 1 and self.is_integer(outputs[0]):
            self.ranges[outputs[0]] = range(self.shapes[outputs[0]][0])
        if name == "platform_index":  # the same graph wherever it is traced: what is for all platforms, if there is it
            platforms = list(params["platforms"])
            self.known[outputs[0]] = platforms.index(None) if None in platforms else 0
        return outputs

    def inline(self, closed: Any, arguments: Sequence[int], scope: str, consts: Sequence[int] = ()) -> list[int]:
        """Appends the equations of a jaxpr applied to `arguments`; returns the numbers of its outputs.

        `consts` are the values that an open jaxpr closes over.
        """
        jaxpr = _jaxpr(closed)
        consts = [*consts, *(self.constant(value) for value in getattr(closed, "consts", ()))]
        numbers: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))
        numbers |= dict(zip(jaxpr.constvars, consts, strict=True))

        def number(atom):
            return self.constant(atom.val) if isinstance(atom, core.Literal) else numbers[atom]

        for equation in jaxpr.eqns:
            inputs = [number(atom) for atom in equation.invars]
            inner = str(equation.source_info.name_stack)
            place = f"{scope}/{inner}" if scope and inner else scope or inner
            outputs = self.equation(equation, inputs, place)
            numbers |= dict(zip(equation.outvars, outputs, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[int], scope: str) -> Sequence[int]:
        name = equation.primitive.name
        if equation.primitive is primitives.scan_p:
            return self.scan(equation, inputs, scope)
        if equation.primitive is primitives.while_p:
            return self.while_loop(equation, inputs, scope)
        if equation.primitive is primitives.cond_p:
            return self.branches(equation.params["branches"], equation.outvars, inputs, scope)
        held = [] if name.startswith(_WITH_COMBINERS) else list(_held(equation.params))
        called = next((jaxpr for jaxpr in held if _fits(jaxpr, equation.outvars, equation.invars)), None)
        if called is not None:
            consts = inputs[: len(inputs) - len(_jaxpr(called).invars)]
            return self.inline(called, inputs[len(consts) :], scope, consts)
        branches = [jaxpr for jaxpr in held if _fits(jaxpr, equation.outvars, equation.invars[1:])]
        if len(branches) > 1 and self.shapes[inputs[0]] == () and self.is_integer(inputs[0]):
            return self.branches(branches, equation.outvars, inputs, scope)
        avals = [var.aval for var in equation.outvars]
        if name == "new_ref" and len(inputs) == len(avals) == 1:
            number = self.new(avals[0])
            self.references.make(number, inputs[0])
            return [number]
        if name in _ON_REFERENCES and inputs:
            followed = self.on_reference(equation, inputs, scope)
            if followed is not None:
                return followed
            self.unfollowed[f"{name!r} in {scope or 'the model'}"] = None
        return self.emit(name, equation.params, inputs, avals, scope, equation.primitive)

    def on_reference(self, equation: Any, inputs: list[int], scope: str) -> list[int] | None:
        """What is read from a reference, and nothing for a write; None for what is not followed."""
        name, (reference, *operands) = equation.primitive.name, inputs
        shape, dtype = self.shapes[reference], self.dtypes[reference]
        if not self.references.is_followed(name, reference):
            return None
        values = operands[:1] if name in ("swap", "addupdate") else []

        def emit(primitive: Any, params: Mapping[str, Any], numbers: Sequence[int], shape: tuple[int, ...]) -> int:
            aval = jax.ShapeDtypeStruct(shape, dtype)
            return self.emit(primitive.name, params, numbers, [aval], scope, primitive)[0]

        try:
            part = part_of(equation.params.get("tree", jax.tree.structure(())), operands[len(values) :], self.constant)
        except ValueError:
            return None
        content = self.references.read(reference, part, emit)
        if name == "addupdate":
            values = [emit(primitives.add_p, {}, [content, *values], self.shapes[content])]
        for value in values:
            self.references.write(reference, part, value, shape, emit)
        return [] if name == "addupdate" else [content]

    def branches(self, jaxprs: Sequence[Any], outvars: Sequence[Any], inputs: list[int], scope: str) -> list[int]:
        """Those of `jaxprs` that the first of `inputs` may choose."""
        if inputs[0] in self.known:
            chosen = min(max(self.known[inputs[0]], 0), len(jaxprs) - 1)
            return self.inline(jaxprs[chosen], inputs[1:], scope)
        branches = []
        checked = False
        for branch in jaxprs:
            before = self.mark()
            with self.references.inside():
                results = self.inline(branch, inputs[1:], scope)
            if self.only_raises(self.equations[before.number :], inputs[1:], results):
                self.undo(before)
                checked = True
            else:
                branches.append(results)
        if len(branches) == 1 and checked:
            return branches[0]
        return [
            self.emit("branches", {}, [inputs[0], *values], [var.aval], scope)[0]
            for var, values in zip(outvars, zip(*branches, strict=True), strict=True)
        ]

    def only_raises(self, equations: Sequence[Equation], operands: Sequence[int], results: Sequence[int]) -> bool:
        """Whether a branch is a check that failed: it calls back to Python, and returns nothing of what it was given.

        Integers are not followed: they say which check it was.
        """
        followed = {number for number in operands if self.shapes[number] or not self.is_integer(number)}
        for equation in equations:
            if not followed.isdisjoint(equation.inputs):
                followed.update(equation.outputs)
        return followed.isdisjoint(results) and any(equation.name.endswith("callback") for equation in equations)

    def is_integer(self, number: int) -> bool:
        """Whether a value is an integer or a truth value."""
        return getattr(self.dtypes[number], "kind", "-") in "iub"

    def while_loop(self, equation: Any, inputs: list[int], scope: str) -> list[int]:
        """A loop that is entered once; one that counts its way through parameters, and is known to end, is unrolled."""
        before = self.mark()
        outputs = self.while_once(equation, inputs, scope)
        if not any(self.picks_parameter(inner) for inner in self.equations[before.number :]):
            return outputs
        self.undo(before)
        unrolled = self.counted(equation, inputs, scope)
        if unrolled is not None:
            return unrolled
        self.undo(before)
        return self.while_once(equation, inputs, scope)

    def counted(self, equation: Any, inputs: list[int], scope: str) -> list[int] | None:
        """All rounds of a loop of at most `MAX_STEPS`; None if it is not known how many there are."""
        num_cond, num_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        consts, carry = inputs[num_cond : num_cond + num_body], inputs[num_cond + num_body :]
        for index in range(MAX_STEPS + 1):
            (again,) = self.inline(equation.params["cond_jaxpr"], [*inputs[:num_cond], *carry], scope)
            if not self.known.get(again):
                return carry if again in self.known else None
            carry = self.inline(equation.params["body_jaxpr"], [*consts, *carry], f"{scope}[{index}]")
        return None

    def while_once(self, equation: Any, inputs: list[int], scope: str) -> list[int]:
        """The body once, and the condition, which only says how often."""
        num_cond, num_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        consts, carry = inputs[num_cond : num_cond + num_body], inputs[num_cond + num_body :]
        body = equation.params["body_jaxpr"]
        avals = [var.aval for var in equation.outvars]
        ends = self.rolled(lambda carried: self.inline(body, [*consts, *carried], scope), consts, carry, avals, scope)
        (again,) = self.inline(equation.params["cond_jaxpr"], [*inputs[:num_cond], *ends], scope)
        return [self.emit("decided", {}, [end, again], [aval], scope)[0] for end, aval in zip(ends, avals, strict=True)]

    def scan(self, equation: Any, inputs: list[int], scope: str) -> list[int]:
        params = equation.params
        body, length = params["jaxpr"], params["length"]
        num_consts, num_carry = _sizes(params)
        consts, rest = inputs[:num_consts], inputs[num_consts:]
        carry, stacks = rest[:num_carry], rest[num_carry:]
        avals = [var.aval for var in equation.outvars]
        slice_avals = [var.aval for var in body.jaxpr.invars[len(inputs) - len(stacks) :]]
        if not self.over_layers(stacks, length):
            before = self.mark()
            outputs = self.rolled_scan(body, consts, carry, stacks, slice_avals, avals, scope)
            counts = any(self.picks_parameter(equation) for equation in self.equations[before.number :])
            if not counts or length > MAX_STEPS:
                return outputs
            self.undo(before)
        if length > MAX_ROUNDS:
            raise TraceError(
                f"{scope or 'the model'}: a loop over {length} stacked parameters; at most {MAX_ROUNDS} are unrolled"
            )
        order = range(length - 1, -1, -1) if params["reverse"] else range(length)
        stacked: list[list[int]] = [[] for _ in avals[num_carry:]]
        for index in order:
            slices = [
                self.emit("loop_slice", {"index": index}, [stack], [aval], scope)[0]
                for stack, aval in zip(stacks, slice_avals, strict=True)
            ]
            for stack, value in zip(stacks, slices, strict=True):
                self.pick(stack, index, value)
            results = self.inline(body, [*consts, *carry, *slices], f"{scope}[{index}]")
            carry = results[:num_carry]
            for values, value in zip(stacked, results[num_carry:], strict=True):
                values.append(value)
        stacks_out = [
            self.emit("loop_stack", {}, values[::-1] if params["reverse"] else values, [aval], scope)[0]
            for values, aval in zip(stacked, avals[num_carry:], strict=True)
        ]
        return [*carry, *stacks_out]

    def pick(self, stack: int, index: int, value: int) -> None:
        """Notes `value`, what a round of a loop picks of `stack`, if that is known: a counter, the kind of a layer."""
        counted = self.ranges.get(stack, self.constants.get(stack))
        if counted is not None and self.shapes[value] == () and self.is_integer(value):
            self.known[value] = int(np.asarray(counted)[index])

    def over_layers(self, stacks: Sequence[int], length: int) -> bool:
        """Whether every round has parameters of its own."""
        params = any(self.of_params[number] != 0 and not self.of_inputs[number] for number in stacks)
        activations = any(self.of_inputs[number] for number in stacks)
        return params and (length <= MAX_STEPS or not activations)

    def picks_parameter(self, equation: Equation) -> bool:
        """Whether a parameter is picked from a stack by an index that only the loop counter decides."""
        if equation.name not in ("dynamic_slice", "gather"):
            return False
        operand, *indices = equation.inputs
        from_params = self.of_params[operand] != 0 and not self.of_inputs[operand]
        unknown = any(number not in self.known for number in indices)
        counted = not any(self.of_inputs[number] for number in indices)
        scalar = equation.name == "dynamic_slice"
        return from_params and unknown and counted and scalar

    def rolled_scan(self, body, consts, carry, stacks, slice_avals, avals, scope) -> list[int]:
        num_carry = len(carry)
        slices = [
            self.emit("loop_slice", {"index": None}, [stack], [aval], scope)[0]
            for stack, aval in zip(stacks, slice_avals, strict=True)
        ]

        def run(carried: list[int]) -> list[int]:
            return self.inline(body, [*consts, *carried, *slices], scope)

        outputs = self.rolled(run, [*slices, *consts], carry, avals[:num_carry], scope)
        stacks_out = [
            self.emit("loop_stack", {}, [value], [aval], scope)[0]
            for value, aval in zip(outputs[num_carry:], avals[num_carry:], strict=True)
        ]
        return [*outputs[:num_carry], *stacks_out]

    def rolled(
        self, run: Callable[[list[int]], list[int]], others: list[int], carry: list[int], avals: list[Any], scope: str
    ) -> list[int]:
        """A loop's body, entered once.

        A carry that begins as a constant but depends on the inputs after a round is said to come from whatever else
        of the loop depends on them, as in all rounds but the first.
        """
        changing = [number for number in [*others, *carry] if self.of_inputs[number]][:1]
        drivers: list[list[int]] = [[] for _ in carry]
        while True:
            before = self.mark()
            carried = [
                self.emit("loop_carry", {}, [init, *more], [aval], scope)[0] if more else init
                for init, more, aval in zip(carry, drivers, avals, strict=True)
            ]
            with self.references.inside():
                outputs = run(carried)
            late = [
                index
                for index, (start, end) in enumerate(zip(carried, outputs[: len(carry)], strict=True))
                if self.of_inputs[end] and not self.of_inputs[start]
            ]
            # A counter changes from round to round.
            counters = [
                index
                for index, (start, end) in enumerate(zip(carried, outputs[: len(carry)], strict=True))
                if start in self.known and self.known.get(end) != self.known[start] and not drivers[index]
            ]
            if not late and not counters:
                with self.references.inside():
                    return self.another_round(run, outputs, len(carry))
            self.undo(before)
            for index in late:
                drivers[index] = changing
            for index in counters:
                drivers[index] = drivers[index] or [self.new(avals[index])]

    def another_round(self, run: Callable[[list[int]], list[int]], outputs: list[int], num_carry: int) -> list[int]:
        """Outputs after as many further rounds as bring further parameters: what one carry hands to another."""
        for _ in range(num_carry):
            before = self.mark()
            later = run(outputs[:num_carry])
            pairs = zip(later, outputs, strict=True)
            if all(self.of_params[new] | self.of_params[old] == self.of_params[old] for new, old in pairs):
                self.undo(before)
                break
            outputs = later
        return outputs


def _held(value: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation, and in what tuples, lists and dictionaries hold."""
    if isinstance(_jaxpr(value), core.Jaxpr):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _held(item)


def _fits(held: Any, outputs: Sequence[Any], inputs: Sequence[Any]) -> bool:
    """Whether a jaxpr may be what makes these outputs of these inputs.

    An open one may take what it closes over from the first of them.
    """
    jaxpr = _jaxpr(held)
    given = len(jaxpr.invars) + (0 if isinstance(held, core.ClosedJaxpr) else len(jaxpr.constvars))
    return len(jaxpr.outvars) == len(outputs) and given == len(inputs)


def _jaxpr(value: Any) -> Any:
    """The jaxpr of a closed one, or the value itself."""
    return value.jaxpr if isinstance(value, core.ClosedJaxpr) else value


def _sizes(scan: Mapping[str, Any]) -> tuple[int, int]:
    """How many constants a scan has, and how many values it carries."""
    if "num_carry" in scan:
        return scan["num_consts"], scan["num_carry"]
    consts, carry, _ = scan["ft_in"].unpack()  # from jax 0.12 on
    return len(list(consts)), len(list(carry))
