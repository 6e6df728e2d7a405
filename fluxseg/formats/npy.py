"""Reading `.npy` files of any origin: nothing in them is executed, and their sizes are checked."""

import ast
import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fluxseg.errors import FluxsegError, RecordingError
from fluxseg.formats.pickled import load_pickle
from fluxseg.io.arrays import byte_count, check_shape, create_array, create_dtype

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes of the text that describes an array; numpy has the same limit


@contextlib.contextmanager
def naming_file(path: Path | str) -> Iterator[None]:
    """Name a file, or a part of one (a text), in every error that reading it raises.

    Errors that name a file already stay as they are. Errors of the system and of the memory become
    `RecordingError` as well.
    """
    try:
        yield
    except RecordingError as error:
        if error.names_file:
            raise
        field = f"{path}: {error.field}" if error.field else str(path)
        named = type(error)(field, error.reason)
        named.names_file = isinstance(path, Path)
        raise named from error
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise file_error(path, "needs more memory than there is") from error


def file_error(path: Path | str, reason: str) -> RecordingError:
    """Return an error that names a file, to which no `naming_file` adds another name."""
    error = RecordingError(str(path), reason)
    error.names_file = isinstance(path, Path)
    return error


@contextlib.contextmanager
def explain_damage(what: str = "is damaged") -> Iterator[None]:
    """Turn what libraries raise of damaged files, which may be anything, into `RecordingError`."""
    try:
        yield
    except (FluxsegError, MemoryError):
        raise
    except Exception as error:
        # Errors of the system have a number, those of libraries have none.
        if isinstance(error, OSError) and error.errno:
            raise
        raise RecordingError("", f"{what} ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file for reading and give it with its size in bytes.

    Raises `RecordingError` if it is empty, or a folder, a pipe or a device, which could block for
    ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise RecordingError("", f"is {kind}")
    if not status.st_size:
        raise RecordingError("", "is empty")
    with path.open("rb") as file:
        yield file, status.st_size


def read_npy(path: Path) -> Any:
    """Read a `.npy` file of any dtype but structured ones without executing anything in it.

    Arrays of numbers, texts and dates may be read-only. Arrays of objects, which are pickled, are
    read by `fluxseg.formats.pickled.load_pickle`, and hold plain values and arrays only. Files of
    numpy 1 and 2 and pickle protocols 2 to 5 are known. No more memory is used than a small
    multiple of the file's size.
    """
    with naming_file(path), open_regular(path) as (file, size):
        return read_npy_stream(file, size)


def read_npy_stream(file: BinaryIO, size: int) -> np.ndarray:
    """Read an array as `read_npy` does from an opened file of which `size` bytes are left."""
    code, fortran, shape, used = _read_header(file, size)
    if code in ("O", "|O", "|O8"):
        value = load_pickle(file, size - used)
        if not isinstance(value, np.ndarray) or value.dtype != object or value.shape != shape:
            raise RecordingError("", "is damaged: its content is not the array it declares")
        return value
    dtype = create_dtype(code)
    needed = byte_count(shape, dtype)
    if needed > size - used:
        reason = f"is truncated: {list(shape)} of {dtype} need {needed} bytes, {size - used} follow"
        raise RecordingError("", reason)
    return create_array(file.read(needed), shape, dtype, fortran)


def open_npy(path: Path) -> np.ndarray:
    """Map an array of numbers in a `.npy` file into memory, of which only what is used is read."""
    with open_regular(path) as (file, size):
        code, fortran, shape, used = _read_header(file, size)
    dtype = create_dtype(code)
    needed = byte_count(shape, dtype)
    if not 0 < needed <= size - used or dtype.kind not in "iufc":
        raise RecordingError(
            "",
            f"must hold {needed} bytes of numbers {list(shape)}, {size - used} of {dtype} follow",
        )
    return np.memmap(path, dtype, "r", used, shape, "F" if fortran else "C")


def _read_header(file: BinaryIO, size: int) -> tuple[Any, bool, tuple[int, ...], int]:
    """Return dtype code, order, shape, and the number of bytes that were read."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise RecordingError("", "does not begin as a .npy file does")
    if start[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise RecordingError("", f"has the .npy version {start[6]}.{start[7]}; 1.0, 2.0 are known")
    width = 2 if start[6] == 1 else 4
    count = int.from_bytes(file.read(width), "little")
    if count > min(MAX_HEADER, size):
        raise RecordingError("", f"is damaged: it declares a header of {count} bytes")
    try:
        values = ast.literal_eval(file.read(count).decode("latin-1").strip())
        code, fortran, shape = values["descr"], values["fortran_order"], values["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise RecordingError("", "is damaged: its header is not that of an array") from error
    if type(fortran) is not bool:
        raise RecordingError("", "is damaged: the order of its array is neither C nor Fortran")
    return code, fortran, check_shape(shape), 8 + width + count


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read the dict that `np.save(path, dict)` wrote, of plain values and arrays."""
    array = read_npy(path)
    if array.dtype != object or array.size != 1:
        what = f"an array {list(array.shape)} of {array.dtype}"
        raise file_error(path, f"holds {what} instead of one dict")
    value = array.reshape(-1)[0]
    if not isinstance(value, dict):
        what = f"a value of type {type(value).__name__}"
        raise file_error(path, f"holds {what} instead of a dict")
    for key in value:
        if type(key) is not str:
            raise file_error(path, f"has the key {ascii(key)[:60]}, which is not a text")
    return value
