"""Arrays from the bytes of untrusted files, which may be damaged or made to harm."""

import contextlib
import contextvars
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError

MAX_DIMENSIONS = 32
_CODE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|[?]|[mM]8?(\[\d{0,9}[A-Za-z]{0,7}\])?)")


class ReadMemory:
    """Memory for the large arrays of one file after the other.

    What the system hands out it clears first, page by page, which takes nearly as long as reading.
    """

    def __init__(self) -> None:
        self._lent: list[np.ndarray] = []
        self._free: list[np.ndarray] = []

    def allocate(self, count: int) -> np.ndarray:
        """Return `[count]` uint8 of any content, valid until `release`."""
        fits = [number for number, block in enumerate(self._free) if len(block) >= count]
        if fits:
            block = self._free.pop(min(fits, key=lambda number: len(self._free[number])))
        else:
            # The next file may be a little larger; what is not touched costs nothing.
            block = np.empty(count + count // 8, np.uint8)
        self._lent.append(block)
        return block[:count]

    def release(self) -> None:
        """Take the memory back: nothing may use the arrays any more."""
        # Of more than one file's memory nothing is kept.
        self._lent, self._free = [], self._lent


_memory: contextvars.ContextVar[ReadMemory | None] = contextvars.ContextVar("memory", default=None)


@contextlib.contextmanager
def reusing_memory() -> Iterator[ReadMemory]:
    """Let the large arrays that pickles in the block hold share memory from file to file.

    The caller must call `release` when it is done with all that it has read, and keep nothing of
    it, nor a view of it.
    """
    memory = ReadMemory()
    token = _memory.set(memory)
    try:
        yield memory
    finally:
        _memory.reset(token)


def allocate_bytes(count: int) -> np.ndarray:
    """Return `[count]` uint8 of any content, within `reusing_memory` valid for one file only."""
    memory = _memory.get()
    return np.empty(count, np.uint8) if memory is None else memory.allocate(count)


def create_dtype(code: str) -> np.dtype:
    """Create the dtype of numbers, texts or dates from its code, such as `"<f4"`.

    Raises:
        RecordingError: if it is structured, holds objects, or is not a dtype.
    """
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise RecordingError(
            "",
            f"holds an array of dtype {ascii(code)[:60]}; only numbers, texts and dates are read",
        )
    try:
        return np.dtype(code)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError("", f"is damaged: {code} is not a dtype") from error


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of an array after making sure that it is one.

    Raises:
        RecordingError: if it is anything else than a tuple of at most 32 lengths.
    """
    if (
        type(shape) is not tuple
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and 0 <= side < 2**63 for side in shape)
    ):
        raise RecordingError("", "is damaged: the shape of an array is not valid")
    return shape


def byte_count(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the number of bytes that an array takes, exact however large it is."""
    return math.prod(shape) * dtype.itemsize


def create_array(
    data: Any, shape: tuple[int, ...], dtype: np.dtype, fortran: bool = False
) -> np.ndarray:
    """Create an array on the bytes that a file holds, without a copy where possible.

    Args:
        data: a buffer of exactly the bytes that shape and dtype need.
        shape: sides of the array.
        dtype: from `create_dtype`.
        fortran: whether the first axis varies fastest.

    Returns:
        The array; read-only if `data` is.

    Raises:
        RecordingError: if shape, dtype and data do not fit together, or a text holds a character
            that does not exist.
    """
    shape = check_shape(shape)
    if not isinstance(data, bytes | bytearray | np.ndarray):
        raise RecordingError("", "is damaged: an array without content")
    needed = byte_count(shape, dtype)
    if len(data) != needed:
        raise RecordingError(
            "", f"is damaged: an array {list(shape)} of {dtype} has {len(data)} of {needed} bytes"
        )
    try:
        if needed == 0:
            # Without bytes to pay for it, a shape can have any number of (empty) texts.
            if math.prod(shape) > 10_000:
                raise RecordingError("", f"is damaged: {list(shape)} texts without a character")
            return np.zeros(shape, dtype, order="F" if fortran else "C")
        array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    except ValueError as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError("", f"is damaged: {list(shape)} is too large a shape") from error
    if dtype.kind == "b":
        array = _check_bool(array)
    elif dtype.kind == "U":
        _check_text(np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder)))
    return array


def _check_bool(array: np.ndarray) -> np.ndarray:
    # A bool of another byte than 0 or 1 is undefined behaviour in what numpy was compiled from.
    numbers = array.view(np.uint8)
    return array if numbers.max() <= 1 else numbers != 0


def _check_text(characters: np.ndarray) -> None:
    if characters.size and characters.max() > 0x10FFFF:
        raise RecordingError("", "is damaged: a text holds characters that do not exist")
