"""Pickles of state dictionaries, read without running anything that they contain.

A pickle is a program for a small stack machine, some of whose instructions import and call whatever they name.  The
machine here knows only the instructions that dictionaries, lists, numbers, texts and tensors are written with.  What
it meets as the name of a function is a text: for those that a state dictionary needs it makes objects of its own, any
other ends the reading.

Source: Python's `pickletools` for the instructions, PyTorch's `torch/_utils.py` for what tensors are pickled as.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.weights.errors import CheckpointError

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": np.float32,  # NumPy has no type for it; float32 holds all its values
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""Types of storages that a tensor may have, and of the arrays made of them."""

_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_DICTIONARY = "collections OrderedDict"
_NAMESPACE = "argparse Namespace"
_STORAGE_NAMES = {f"torch {name}": name for name in STORAGES}

_INSTRUCTIONS = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}

_MOST_AXES = 16
_MOST_LINE_BYTES = 1 << 12  # of a name or number that a line break ends; the rest of a file need not have any
_MOST_BITS = 63

# The state dictionary of the largest GHN-3 takes 8,000.
_MOST_INSTRUCTIONS = 1 << 18


class Stored(NamedTuple):
    """A tensor whose numbers are elsewhere, in a storage.

    Attributes:
      storage: the key of the storage.
      kind: its type, one of `STORAGES`.
      elements: it has.
      offset: of the tensor's first element.
      shape: of the tensor.
      strides: in elements.
    """

    storage: str
    kind: str
    elements: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of the array that it becomes."""
        return np.dtype(STORAGES[self.kind])


def read(pickled: bytes) -> Any:
    """What was pickled: dictionaries, lists, tuples, texts, numbers, and a `Stored` for every tensor.

    An `argparse.Namespace`, in which training scripts keep their command line, is a dictionary too.

    Raises:
      CheckpointError: an instruction, a name or a tensor that no state dictionary needs, or damage.
    """
    return Machine().run(io.BytesIO(pickled))


class Name(str):
    """The name of a function or type, as "torch FloatStorage"."""


class _Dictionary(dict):
    """A dictionary that was pickled as an OrderedDict."""


class _Namespace(dict):
    """The attributes of an `argparse.Namespace`."""


class Storage(NamedTuple):
    """Numbers of a kind, which tensors are views of."""

    key: str
    kind: str
    elements: int


class _Mark:
    """Where the arguments of an instruction begin."""


_MARK = _Mark()


class Machine:
    """Runs the pickles of state dictionaries, and nothing else.

    Attributes:
      known: names that a pickle may mention.
    """

    known = frozenset((_TENSOR, _PARAMETER, _DICTIONARY, _NAMESPACE, *_STORAGE_NAMES))

    def __init__(self):
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, source: Any) -> Any:
        """The object that was pickled.

        Args:
          source: the pickle, with methods `read` and `readline`; it is read up to its end, not beyond.
        """
        for number, (method, argument) in enumerate(self._instructions(source)):
            if number == _MOST_INSTRUCTIONS:
                raise self._error(f"it has more than {_MOST_INSTRUCTIONS:,} instructions")
            method(argument)
        return self._pop(object)

    def _instructions(self, source: Any) -> Iterator[tuple[Any, Any]]:
        """Methods for the instructions up to STOP, and their arguments, one after the other.

        The argument of an instruction that is not known is not even read: reading some of them warns.
        """
        source, place = _Lines(source), 0
        while (code := source.read(1)) != b".":
            known = _INSTRUCTIONS.get(code)
            if known is None:
                number = f"at instruction {place}"
                raise self._error(f"{number}, {code!r}, is no instruction" if code else "it ends without a STOP")
            method = getattr(self, f"_op_{known.name.lower()}", None)
            if method is None:
                raise self._error(f"the instruction {known.name} is not one that a state dictionary needs")
            try:
                argument = None if known.arg is None else known.arg.reader(source)
            # Python warns of escapes that no string has; where warnings are errors, that is one of the file.
            except (ValueError, IndexError, OverflowError, MemoryError, DeprecationWarning) as error:
                raise self._error(str(error)[:200] or "an instruction with more bytes than there is memory") from error
            place += 1
            yield method, argument

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"refused the pickle: {what}")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, *expected: type) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._error("an instruction has no arguments")
        value = self._stack.pop()
        if object not in expected and type(value) not in expected:
            wanted = " or ".join(kind.__name__.strip("_") for kind in expected)
            raise self._error(f"{_short(value)} in the place of a {wanted}")
        return value

    def _pop_to_mark(self) -> list[Any]:
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                values = self._stack[start + 1 :]
                del self._stack[start:]
                return values
        raise self._error("an instruction has no arguments")

    # Values

    def _op_proto(self, version: int) -> None:
        pass

    def _op_frame(self, size: int) -> None:
        pass

    def _op_mark(self, _) -> None:
        self._push(_MARK)

    def _op_none(self, _) -> None:
        self._push(None)

    def _op_newtrue(self, _) -> None:
        self._push(True)

    def _op_newfalse(self, _) -> None:
        self._push(False)

    def _op_value(self, value: Any) -> None:
        self._push(value)

    _op_binint = _op_binint1 = _op_binint2 = _op_binfloat = _op_value
    _op_binunicode = _op_short_binunicode = _op_value

    def _op_long1(self, value: int) -> None:
        if value.bit_length() > _MOST_BITS:
            raise self._error("an integer of more than 64 bits")
        self._push(value)

    def _op_empty_dict(self, _) -> None:
        self._push({})

    def _op_empty_list(self, _) -> None:
        self._push([])

    def _op_empty_tuple(self, _) -> None:
        self._push(())

    def _op_tuple(self, _) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _op_tuple1(self, _) -> None:
        self._push((self._pop(object),))

    def _op_tuple2(self, _) -> None:
        second, first = self._pop(object), self._pop(object)
        self._push((first, second))

    def _op_tuple3(self, _) -> None:
        third, second, first = self._pop(object), self._pop(object), self._pop(object)
        self._push((first, second, third))

    def _op_append(self, _) -> None:
        self._extend([self._pop(object)])

    def _op_appends(self, _) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._pop(list)
        target.extend(values)
        self._push(target)

    def _op_setitem(self, _) -> None:
        value, key = self._pop(object), self._pop(object)
        self._update([key, value])

    def _op_setitems(self, _) -> None:
        self._update(self._pop_to_mark())

    def _update(self, keys_and_values: list[Any]) -> None:
        target = self._pop(dict, _Dictionary)
        if len(keys_and_values) % 2:
            raise self._error("a key without a value")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            if type(key) not in (str, int):
                raise self._error(f"{_short(key)} in the place of a key")
            if key in target:
                raise self._error(f"the key {_short(key)} twice")
            target[key] = value
        self._push(target)

    # What was seen before

    def _op_put(self, index: int) -> None:
        if not self._stack:
            raise self._error("nothing to remember")
        self._memo[index] = self._stack[-1]

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _) -> None:
        self._op_put(len(self._memo))

    def _op_get(self, index: int) -> None:
        if index not in self._memo:
            raise self._error(f"nothing was remembered as {index}")
        self._push(self._memo[index])

    _op_binget = _op_long_binget = _op_get

    # Names, and what is made with them

    def _op_global(self, name: str) -> None:
        if name not in self.known:
            raise self._error(f"it asks for {_short('.'.join(name.split(' ')))}, which no state dictionary needs")
        self._push(Name(name))

    def _op_stack_global(self, _) -> None:
        name, module = self._pop(str), self._pop(str)
        self._op_global(f"{module} {name}")

    def _op_reduce(self, _) -> None:
        arguments, name = self._pop(tuple), self._pop(Name)
        self._push(self._made(name, arguments))

    def _made(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """What stands for a call of something."""
        if name == _DICTIONARY:
            if arguments:
                raise self._error("an OrderedDict with arguments")
            return _Dictionary()
        if name == _TENSOR:
            return self._tensor(arguments)
        if name == _PARAMETER:
            if len(arguments) != 3 or type(arguments[0]) is not Stored:
                raise self._error("a parameter that is no tensor")
            return arguments[0]
        raise self._error(f"a call of {name.replace(' ', '.')}")

    def _op_newobj(self, _) -> None:
        arguments, name = self._pop(tuple), self._pop(Name)
        if name != _NAMESPACE or arguments:
            raise self._error(f"a new {name.replace(' ', '.')}")
        self._push(_Namespace())

    def _op_build(self, _) -> None:
        # PyTorch gives state dictionaries an attribute with versions of their modules, which nothing here needs.
        state, target = self._pop(dict, _Dictionary), self._pop(_Dictionary, _Namespace)
        if type(target) is _Namespace:
            target.update(state)
        self._push(target)

    def _op_binpersid(self, _) -> None:
        reference = self._pop(tuple)
        # Before version 1.6 there was a sixth item, which says of a part of a storage what it is a part of.
        types = tuple(type(item) for item in reference[: 5 if reference[5:] == (None,) else None])
        if types != (str, Name, str, str, int) or reference[0] != "storage" or reference[1] not in _STORAGE_NAMES:
            raise self._error("a reference to something else than a storage")
        _, name, key, _, elements = reference[:5]
        if not (key.isascii() and key.isalnum()) or elements < 0:
            raise self._error(f"a storage {_short(key)} of {elements} elements")
        self._push(Storage(key, _STORAGE_NAMES[name], elements))

    def _tensor(self, arguments: tuple[Any, ...]) -> Stored:
        """The tensor of these arguments of `_rebuild_tensor_v2`, checked to lie within its storage."""
        if not 6 <= len(arguments) <= 7 or type(arguments[0]) is not Storage:
            raise self._error("a tensor without a storage")
        storage, offset, shape, strides = arguments[:4]
        for sizes in ((offset,), shape, strides):
            if type(sizes) is not tuple or len(sizes) > _MOST_AXES or any(type(n) is not int or n < 0 for n in sizes):
                raise self._error(f"a tensor whose offset, shape or strides are {_short(sizes)}")
        if len(shape) != len(strides) or 0 in shape:
            raise self._error(f"a tensor of shape {shape} with strides {strides}")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= storage.elements or math.prod(shape) > storage.elements:
            raise self._error(
                f"a tensor of shape {shape}, strides {strides} and offset {offset} in a storage of "
                f"{storage.elements:,} elements"
            )
        return Stored(storage.key, storage.kind, storage.elements, offset, shape, strides)


class _Lines:
    """A pickle of which no line is read that is very long."""

    def __init__(self, source: Any):
        self._source = source
        self.read = source.read

    def readline(self) -> bytes:
        start = self._source.tell()
        line, end, _ = self.read(_MOST_LINE_BYTES).partition(b"\n")
        self._source.seek(start + len(line) + len(end))
        return line + end


def _short(value: Any) -> str:
    """A value for a message; what is nested is not shown."""
    if type(value) in (str, int, float, bool, type(None)):
        return repr(value)[:100]
    if type(value) is tuple and all(type(item) in (int, float, str) for item in value[:_MOST_AXES]):
        return repr(value[:_MOST_AXES])[:200]
    return f"a {type(value).__name__.strip('_')}"
