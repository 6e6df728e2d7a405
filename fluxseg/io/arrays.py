"""Arrays from the bytes of untrusted files, which may be damaged or made to harm."""

import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError

MAX_DIMENSIONS = 32
_CODE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|[?]|[mM]8?(\[\d{0,9}[A-Za-z]{0,7}\])?)")


def read_arrays(path: Path, names: Sequence[str], most: int) -> list[np.ndarray]:
    """Read the named arrays of an `.npz` file; nothing in it is executed.

    Raises `ValueError` if the arrays of the file would take more than `most` bytes in memory, since
    a small packed file can declare any number, and of a damaged file whatever zipfile, zlib and
    numpy come upon.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > most:
        raise ValueError(f"it would take {size} bytes, the limit is {most}")
    with np.load(path, allow_pickle=False) as file:
        return [np.asarray(file[name]) for name in names]


def create_dtype(code: str) -> np.dtype:
    """Create the dtype of numbers, texts or dates from its code, such as `"<f4"`.

    Raises `RecordingError` if it is structured, holds objects, or is not a dtype.
    """
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        what = f"an array of dtype {ascii(code)[:60]}"
        raise RecordingError("", f"holds {what}; only numbers, texts and dates are read")
    try:
        return np.dtype(code)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError("", f"is damaged: {code} is not a dtype") from error


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape; raises `RecordingError` unless it is a tuple of at most 32 lengths."""
    valid = type(shape) is tuple and len(shape) <= MAX_DIMENSIONS
    if not valid or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise RecordingError("", "is damaged: the shape of an array is not valid")
    return tuple(shape)


def byte_count(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the number of bytes that an array takes, exact however large it is."""
    return math.prod(shape) * dtype.itemsize


def create_array(
    data: Any, shape: tuple[int, ...], dtype: np.dtype, fortran: bool = False
) -> np.ndarray:
    """Create an array on the bytes that a file holds, without a copy where possible.

    `data` is a buffer of exactly the bytes that shape and dtype need, and the array is read-only if
    it is. With `fortran` the first axis varies fastest. Raises `RecordingError` if they do not fit
    together, or a text holds a character that does not exist.
    """
    shape = check_shape(shape)
    if not isinstance(data, bytes | bytearray | np.ndarray):
        raise RecordingError("", "is damaged: an array without content")
    needed = byte_count(shape, dtype)
    if len(data) != needed:
        what = f"an array {list(shape)} of {dtype}"
        raise RecordingError("", f"is damaged: {what} has {len(data)} of {needed} bytes")
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
    # A bool of another byte than 0 or 1 is undefined behaviour in what numpy was compiled from.
    if dtype.kind == "b" and array.view(np.uint8).max() > 1:
        return array.view(np.uint8) != 0
    if dtype.kind == "U":
        characters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max(initial=0) > 0x10FFFF:
            raise RecordingError("", "is damaged: a text holds characters that do not exist")
    return array
