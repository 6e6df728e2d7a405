"""Pickles of plain values and arrays, read as data: nothing that a file names is ever called.

The pickle module runs what a file asks for. Here a small interpreter of the same instructions
(https://docs.python.org/3/library/pickletools.html, protocols 2 to 5) builds inert values; a name
outside a short list is an error, and so are instructions that plain values do not need. Memory,
time, nesting and repetition are bounded by the size of the file. The file is long, so that all that
the bytes of a pickle can bring about is read in one place.
"""

import math
import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NoReturn

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.admitted import (
    CALLS,
    KEY_TYPES,
    ArrayNode,
    DtypeNode,
    Symbol,
    check_key,
    resolve_dtype,
    shorten,
    unsafe,
)
from fluxseg.io.arrays import check_shape, create_array

MAX_OPERATIONS = 2_000_000
"""Instructions in a pickle; one recording of the Allen Brain Observatory needs some hundreds."""
MAX_DEPTH = 64  # nesting of containers
MAX_KEYS = 10_000
"""Set members, and dict keys other than texts: a file could make their hashes collide."""
LARGE = 2**20
"""Content of an array from this size on, bytes, is read into memory that numpy gives: on Linux it
comes in large pages, which takes half the time of the bytes that Python would make of it."""

_PLAIN = KEY_TYPES | {bytearray}
_SIZED = (str, bytes, bytearray, list, tuple, set, dict, np.ndarray)
_OPCODES = {code.code.encode("latin-1"): code.name for code in pickletools.opcodes}
_DAMAGED = (
    AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error
)  # fmt: skip


def load_pickle(file: BinaryIO, size: int) -> Any:
    """Read the pickled value at the current position of a file without executing anything.

    Admitted are None, numbers, texts, bytes, lists, tuples, dicts, ordered dicts, sets, dates and
    times with their time zones, numpy scalars, arrays of numbers, texts and dates, and arrays of
    objects that are all this. The result has no cycle. Arrays may be read-only: they share the
    bytes that were read. What follows the pickle in the `size` bytes that are left is not read.
    Raises `UnsafeFileError` if the pickle asks for anything else, naming it, and `RecordingError`
    if it is damaged, too deep or too large.
    """
    machine = _Machine(file, size)
    try:
        return _Finisher(machine.charge).finish(machine.run())
    except RecordingError:
        raise
    except _DAMAGED as error:
        reason = f"the pickled content is damaged ({shorten(str(error))})"
        raise RecordingError("", reason) from error


class _Machine:
    """The stack machine of the pickle format."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left = file, size
        self.budget = 4 * size + 2**20
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.keys = 0

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            handler = _HANDLERS.get(code)
            if handler is None:
                self.refuse(code)
            handler(self)
        raise RecordingError("", f"holds more than {MAX_OPERATIONS} pickle instructions")

    def refuse(self, code: bytes) -> NoReturn:
        name = _OPCODES.get(code)
        if name is None:
            raise RecordingError("", f"is damaged: {code!r} is not a pickle instruction")
        if name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
            owner = next((v.name for v in reversed(self.stack) if type(v) is Symbol), "a class")
            unsafe(f"{self.read_name() if name == 'INST' else owner} (instruction {name})")
        if name in ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"):
            unsafe(f"an object from outside of the file (instruction {name})")
        reason = f"has the pickle instruction {name}, which plain data of protocols 2 to 5 lack"
        raise RecordingError("", reason)

    def take(self, count: int) -> bytes:
        self.claim(count)
        content = self.file.read(count)
        if len(content) != count:
            raise RecordingError("", "is truncated")
        return content

    def claim(self, count: int) -> None:
        # Before any memory is asked for: a few bytes can declare any length.
        if count > self.left:
            raise RecordingError("", f"is truncated: {count} bytes declared, {self.left} left")
        self.left -= count

    def charge(self, amount: int) -> None:
        # Calls copy what the memo lets a file repeat for two bytes.
        self.budget -= amount
        if self.budget < 0:
            raise RecordingError("", "repeats its content too often to be plain data")

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def read_line(self) -> str:
        line = self.file.readline(min(self.left, 256))
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise RecordingError("", "is damaged: a name does not end")
        return line[:-1].decode()

    def read_name(self) -> str:
        return f"{self.read_line()}.{self.read_line()}"

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def push_symbol(self, name: str) -> None:
        name = re.sub(r"^numpy\._core\.", "numpy.core.", name)
        name = re.sub(r"^__builtin__\.", "builtins.", name)
        if name not in CALLS:
            unsafe(name)
        self.stack.append(Symbol(name))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise RecordingError("", "is damaged: a name that is not a text")
        self.push_symbol(f"{module}.{name}")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Symbol or type(arguments) is not tuple:
            raise RecordingError("", "is damaged: it calls what is not a function")
        self.charge(sum(len(a) for a in arguments if isinstance(a, _SIZED)))
        self.count_keys(sum(len(a) for a in arguments if type(a) is list))
        self.stack.append(CALLS[function.name](*arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Symbol:
            unsafe(f"a change of {target.name} (instruction BUILD)")
        if type(target) not in (ArrayNode, DtypeNode):
            unsafe(f"a change of {type(target).__name__} attributes (instruction BUILD)")
        target.state = state

    def extend(self, items: Iterable[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RecordingError("", "is damaged: it appends to what is not a list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise RecordingError("", "is damaged: it adds an item to what is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.count_keys(type(key) is not str)
            target[check_key(key)] = value

    def add_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise RecordingError("", "is damaged: it adds a member to what is not a set")
        self.count_keys(len(items))
        self.stack[-1].update(map(check_key, items))

    def push_set(self) -> None:
        self.charge(64)  # an empty set takes 216 bytes, and one in the file
        self.stack.append(set())

    def push_frozenset(self) -> None:
        items = self.pop_mark()
        self.count_keys(len(items))
        self.stack.append(frozenset(map(check_key, items)))

    def count_keys(self, count: int) -> None:
        self.keys += count
        if self.keys > MAX_KEYS:
            raise RecordingError("", f"holds more than {MAX_KEYS} set members or unusual dict keys")

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_text(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)).decode("utf-8", "surrogatepass"))

    def push_bytes(self, width: int) -> None:
        count = self.number(width)
        # What follows a dtype and an order is the content of an array (see `ArrayNode`).
        of_array = len(self.stack) > 1 and type(self.stack[-2]) is DtypeNode
        if count < LARGE or not of_array:
            self.stack.append(self.take(count))
            return
        content = self.read_array(count)
        content.flags.writeable = False
        self.stack.append(content)

    def push_bytearray(self) -> None:
        # An array, since a bytearray would be filled with zeros first; `_Finisher` knows.
        self.stack.append(self.read_array(self.number(8)))

    def read_array(self, count: int) -> np.ndarray:
        self.claim(count)
        content = np.empty(count, np.uint8)
        if self.file.readinto(content) != count:  # type: ignore[attr-defined]
            raise RecordingError("", "is truncated")
        return content

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise RecordingError("", "is damaged: a tuple of missing values")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def frame(self) -> None:
        count = self.number(8)
        if count > self.left:
            raise RecordingError("", f"is truncated: {count} bytes declared, {self.left} left")

    def protocol(self) -> None:
        protocol = self.number(1)
        if protocol > 5:
            raise RecordingError("", f"has pickle protocol {protocol}, only 2 to 5 are known")


def _push(create: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def handler(machine: _Machine) -> None:
        value = create(machine)  # which may replace the stack
        machine.stack.append(value)

    return handler


_HANDLERS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.pop_mark,
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"K": _push(lambda m: m.number(1)),
    b"M": _push(lambda m: m.number(2)),
    b"J": _push(lambda m: int.from_bytes(m.take(4), "little", signed=True)),
    b"\x8a": _push(lambda m: int.from_bytes(m.take(m.number(1)), "little", signed=True)),
    b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push_text(4),
    b"\x8c": lambda m: m.push_text(1),
    b"\x8d": lambda m: m.push_text(8),
    b"B": lambda m: m.push_bytes(4),
    b"C": lambda m: m.push_bytes(1),
    b"\x8e": lambda m: m.push_bytes(8),
    b"\x96": _Machine.push_bytearray,
    b")": _push(lambda m: ()),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"t": _push(lambda m: tuple(m.pop_mark())),
    b"]": _push(lambda m: []),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.pop_mark()),
    b"}": _push(lambda m: {}),
    b"s": lambda m: m.update([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.update(m.pop_mark()),
    b"\x8f": _Machine.push_set,
    b"\x90": lambda m: m.add_items(m.pop_mark()),
    b"\x91": _Machine.push_frozenset,
    b"\x94": lambda m: m.memoize(len(m.memo)),
    b"q": lambda m: m.memoize(m.number(1)),
    b"r": lambda m: m.memoize(m.number(4)),
    b"h": _push(lambda m: m.memo[m.number(1)]),
    b"j": _push(lambda m: m.memo[m.number(4)]),
    b"c": lambda m: m.push_symbol(m.read_name()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}


class _Finisher:
    """Turns what the machine built into plain values, and measures it."""

    def __init__(self, charge: Callable[[int], None]):
        self.charge = charge
        self.done: dict[int, tuple[Any, int, int]] = {}

    def finish(self, node: Any) -> Any:
        return self._visit(node, 0)[0]

    def _visit(self, node: Any, depth: int) -> tuple[Any, int, int]:
        """Return the value, the number of values in it, counting repetitions, and its height."""
        if type(node) in _PLAIN or isinstance(node, np.generic):
            return node, 1, 0
        result = self.done.get(id(node))
        if depth + (result[2] if result else 0) > MAX_DEPTH:
            raise RecordingError("", f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
        if result is None:
            result = self.done[id(node)] = self._convert(node, depth)
        return result

    def _convert(self, node: Any, depth: int) -> tuple[Any, int, int]:
        kind = type(node)
        if kind is np.ndarray:
            self.charge(node.size)
            return bytearray(node) if node.flags.writeable else node.tobytes(), 1, 0
        if kind is ArrayNode:
            return self._convert_array(node, depth)
        if kind in (dict, OrderedDict):
            values, count, height = self._visit_all(node.values(), depth)
            return kind(zip(node, values, strict=True)), count, height
        if kind in (list, tuple, set, frozenset):
            values, count, height = self._visit_all(node, depth)
            return kind(values), count, height
        if kind is Symbol:
            unsafe(f"{node.name} as a value")
        raise RecordingError("", "holds a numpy dtype as a value; save its name instead")

    def _visit_all(self, nodes: Iterable[Any], depth: int) -> tuple[list[Any], int, int]:
        values, count, height = [], 1, 0
        for node in nodes:
            value, its_count, its_height = self._visit(node, depth + 1)
            values.append(value)
            count += its_count
            height = max(height, its_height)
        if count > 2 * MAX_OPERATIONS:
            raise RecordingError("", "repeats its content too often to be plain data")
        return values, count, height + 1

    def _convert_array(self, node: ArrayNode, depth: int) -> tuple[Any, int, int]:
        if type(node.state) is not tuple or len(node.state) != 5:
            raise RecordingError("", "is damaged: an array without content")
        _, shape, dtype, fortran, data = node.state
        kind = resolve_dtype(dtype)
        if kind is not None:
            self.charge(len(data))
            return create_array(data, shape, kind, bool(fortran)), 1, 0
        if type(data) is not list or math.prod(check_shape(shape)) != len(data):
            raise RecordingError("", "is damaged: the shape of an object array does not fit")
        self.charge(8 * len(data))
        values, count, height = self._visit_all(data, depth)
        array = np.empty(len(data), object)
        for index, value in enumerate(values):
            array[index] = value
        return array.reshape(shape), count, height
