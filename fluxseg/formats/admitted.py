"""The names that pickled data may use; each stands for a function here, never for its own."""

import codecs
import dataclasses
import datetime
import re
import zoneinfo
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, NoReturn

import numpy as np

from fluxseg.errors import RecordingError, UnsafeFileError
from fluxseg.io.arrays import create_array, create_dtype

_TIMES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
KEY_TYPES = frozenset(
    {type(None), bool, int, float, complex, str, bytes, *_TIMES, zoneinfo.ZoneInfo}
)
"""Plain values that can be keys of a dict."""
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}")


@dataclasses.dataclass(slots=True, eq=False)
class Symbol:
    """A name of the list; it stands for nothing that could be called."""

    name: str


@dataclasses.dataclass(slots=True, eq=False)
class DtypeNode:
    """A numpy dtype: its code, and the state that follows it."""

    code: Any
    state: Any = None


@dataclasses.dataclass(slots=True, eq=False)
class ArrayNode:
    """An array: the tuple (version, shape, `DtypeNode`, Fortran order, content)."""

    state: Any = None


def shorten(text: str) -> str:
    """Return a text that a file may have chosen as at most 100 printable characters."""
    text = ascii(text)[1:-1]
    return text if len(text) <= 100 else text[:97] + "..."


def unsafe(name: str) -> NoReturn:
    """Raise `UnsafeFileError`, saying what the file asks for."""
    raise UnsafeFileError(
        "",
        f"asks for {shorten(name)}, which plain data do not need; nothing was executed. If you "
        "trust its origin, save it again with plain values and arrays only",
    )


def check_key(key: Any) -> Any:
    """Return a dict key or set member after making sure that its hash is cheap and fixed."""
    if isinstance(key, np.generic):
        key = key.item()
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    if not all(type(part) in KEY_TYPES for part in parts):
        raise RecordingError("", f"has a dict key or set member of type {type(key).__name__}")
    return key


def _not_callable(name: str) -> Callable[..., NoReturn]:
    return lambda *arguments: unsafe(f"a call of {name}")


def _describe(value: Any) -> str:
    # The text of a container that repeats itself could be endless.
    if type(value) is Symbol:
        return value.name
    return value if type(value) is str else type(value).__name__


def _create_empty_array(kind: Any, shape: Any, code: Any) -> ArrayNode:
    if type(kind) is not Symbol or kind.name != "numpy.ndarray":
        unsafe("an array of another class than numpy.ndarray")
    return ArrayNode()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> ArrayNode:
    return ArrayNode((1, shape, dtype, type(order) is str and order == "F", data))


def _create_scalar(dtype: DtypeNode, data: Any = b"") -> Any:
    kind = resolve_dtype(dtype)
    if kind is None:
        unsafe("a numpy scalar that is an object")
    return create_array(data, (), kind)[()]


def _encode(text: str, codec: str) -> bytes:
    # Protocol 2 has no bytes: they are stored as Latin-1 text.
    if type(text) is not str or type(codec) is not str or codec not in ("latin1", "latin-1"):
        unsafe(f"_codecs.encode with the codec {_describe(codec)}")
    return codecs.latin_1_encode(text)[0]


def _create_bytes(*arguments: Any) -> bytes:
    # A number would be a length, of memory that the file does not pay for.
    if arguments:
        unsafe("builtins.bytes with arguments")
    return b""


def _create_bytearray(content: Any = b"", codec: str = "latin-1") -> bytearray:
    if type(content) is str:
        content = _encode(content, codec)
    if type(content) is not bytes:
        unsafe("builtins.bytearray of something else than bytes")
    return bytearray(content)


def _create_set(kind: type) -> Callable[..., Any]:
    def create(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise RecordingError("", "is damaged: a set of what is not a list")
        return kind(map(check_key, items))

    return create


def _checked(create: Callable[..., Any], types: Collection[type], what: str) -> Callable[..., Any]:
    """Return a function that creates a value of arguments of just these types."""

    def call(*arguments: Any) -> Any:
        if not all(type(argument) in types for argument in arguments):
            raise RecordingError("", f"is damaged: {what}")
        return create(*arguments)

    return call


def _getattr(target: Any, name: Any) -> Symbol:
    # The one attribute that protocols 2 and 3 look up, since they cannot name it directly.
    if type(target) is Symbol and (target.name, name) == ("zoneinfo.ZoneInfo", "_unpickle"):
        return Symbol("zoneinfo.ZoneInfo._unpickle")
    unsafe(f"builtins.getattr of {_describe(target)}, {_describe(name)}")


def _create_zone(key: str, from_cache: Any = True) -> datetime.tzinfo:
    if type(key) is not str or len(key) > 64 or not _ZONE.fullmatch(key):
        raise RecordingError("", "is damaged: the name of a time zone is not valid")
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise RecordingError("", f"has the unknown time zone {key}: install tzdata") from error


_TIME = "a date or time of what are not plain values"
# A path is a text here: what a file names is nothing to be opened.
_join_path = _checked(
    lambda *parts: "/".join(parts).replace("//", "/"), {str}, "a path of what are not texts"
)
_PATHS, _SYSTEMS = ("pathlib", "pathlib._local"), ("Posix", "PurePosix", "Windows", "PureWindows")
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _not_callable("numpy.ndarray"),
    "numpy.dtype": lambda code, align=False, copy=False: DtypeNode(code),
    "numpy.core.multiarray._reconstruct": _create_empty_array,
    "numpy.core.multiarray.scalar": _create_scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    "builtins.bytes": _create_bytes,
    "builtins.bytearray": _create_bytearray,
    "builtins.complex": _checked(complex, {float}, "a complex number of what are not numbers"),
    "builtins.set": _create_set(set),
    "builtins.frozenset": _create_set(frozenset),
    "builtins.getattr": _getattr,
    "collections.OrderedDict": lambda: OrderedDict(),
    **{f"datetime.{kind.__name__}": _checked(kind, KEY_TYPES, _TIME) for kind in _TIMES},
    **{f"{module}.{kind}Path": _join_path for module in _PATHS for kind in _SYSTEMS},
    "zoneinfo.ZoneInfo": _not_callable("zoneinfo.ZoneInfo"),
    "zoneinfo.ZoneInfo._unpickle": _create_zone,
}
"""The names that a file may use, and what they do here."""


def resolve_dtype(dtype: Any) -> np.dtype | None:
    """Return the dtype that a `DtypeNode` stands for, or None for that of objects."""
    if type(dtype) is not DtypeNode or type(dtype.code) is not str:
        raise RecordingError("", "is damaged: an array without a dtype")
    if re.fullmatch(r"O\d*", dtype.code):
        return None
    order, unit = "|", ""
    if dtype.state is not None:
        _, order, subarray, names, fields, *rest = dtype.state
        if any(part is not None for part in (subarray, names, fields)):
            raise RecordingError("", "holds a structured array; save plain arrays instead")
        if len(rest) > 3 and dtype.code[:1] in "mM":
            name, count = rest[3][1][:2]
            if type(name) is bytes and type(count) is int and name != b"generic":
                unit = f"[{count}{name.decode()}]"
    if type(order) is not str or order not in ("<", ">", "|", "="):
        raise RecordingError("", "is damaged: the byte order of an array is not valid")
    return create_dtype(f"{order}{dtype.code}{unit}")
