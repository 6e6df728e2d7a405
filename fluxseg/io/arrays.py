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
    """Read arrays of an `.npz` file; nothing in it is executed.

    Args:
        path: the file.
        names: of the arrays.
        most: bytes that all arrays of the file may take in memory; a small packed file can
            declare any number.

    Raises:
        ValueError: if it declares more.
        Exception: of a damaged file, whatever zipfile, zlib and numpy come upon.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > most:
        raise ValueError(f"it would take {size} bytes, the limit is {most}")
    with np.load(path, allow_pickle=False) as file:
        return [np.asarray(file[name]) for name in names]


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
