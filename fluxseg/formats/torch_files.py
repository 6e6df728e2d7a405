"""Tensors from files of PyTorch, read without PyTorch and without executing anything in them.

Three forms are known by their first bytes: safetensors; the zip archive that `torch.save` writes
(https://docs.pytorch.org/docs/stable/notes/serialization.html), one pickle and one member for
each storage; and what it wrote before PyTorch 1.6, five pickles followed by the storages. The
pickles are read by `fluxseg.formats.pickled`, for which storages and tensors are inert data. What
is read never takes more memory than a small multiple of the file, whose size is limited.
"""

import dataclasses
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fluxseg.errors import RecordingError, UnsafeFileError
from fluxseg.formats.admitted import Dialect, Inert, Symbol, shorten, unsafe
from fluxseg.formats.npy import naming_file, open_regular
from fluxseg.formats.pickled import load_pickle

MAX_BYTES = 2**30
"""Bytes of a file; the largest of the known encoders takes a tenth of it."""
MAX_HEADER = 2**22
"""Bytes of what describes the tensors of a file: of the header, pickle or archive directory."""
MAX_TENSORS = 20_000
_MAGIC = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
_PROTOCOL = 1001
_BIG_ENDIAN = "was written on a big-endian machine; save it as safetensors"
_BFLOAT16 = "bfloat16"
_DTYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": _BFLOAT16, "Long": "<i8",
    "Int": "<i4", "Short": "<i2", "Char": "|i1", "Byte": "|u1", "Bool": "|u1",
}  # fmt: skip
_SAFETENSORS_DTYPES = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": _BFLOAT16, "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|u1",
}  # fmt: skip
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, IndexError, KeyError, OverflowError, TypeError, AttributeError,
)  # fmt: skip


def read_torch_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Read the tensors of a state dict; nothing in the file is executed.

    Args:
        path: a `.safetensors` file, or a `.pt` or `.pth` file of a state dict, bare or below the
            name "state_dict"; what else it holds is left out.

    Returns:
        Name -> array, read-only, of the tensor's dtype; float32 for bfloat16, uint8 for bool.
        Arrays may share memory, and may have any strides.

    Raises:
        UnsafeFileError: if the file asks for anything but tensors and plain values, naming it.
        RecordingError: naming the file, if it is damaged, too large, or of another form.
    """
    path = Path(path)
    with naming_file(path), open_regular(path) as (file, size):
        if size > MAX_BYTES:
            raise RecordingError("", f"has {size} bytes, the limit is {MAX_BYTES}")
        start = file.read(len(_MAGIC))
        file.seek(0)
        try:
            if start[:4] == b"PK\x03\x04":
                return _read_archive(file, size)
            if start == _MAGIC:
                return _read_legacy(file, size)
            if start[8:9] == b"{":
                return _read_safetensors(file, size)
        except UnsafeFileError as error:
            raise UnsafeFileError(
                "",
                f"{error.reason.partition('. ')[0]}. With PyTorch, save the state dict alone: "
                "torch.save(model.state_dict(), path), or better a safetensors file",
            ) from error
        except RecordingError:
            raise
        except _DAMAGED as error:
            raise RecordingError("", f"is damaged ({shorten(str(error))})") from error
        raise RecordingError(
            "", "is neither a safetensors file nor one of torch.save (or is truncated)"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage(Inert):
    key: str
    dtype: str
    count: int

    @property
    def n_bytes(self) -> int:
        return self.count * (2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize)


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor(Inert):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _refer(reference: Any) -> _Storage:
    kind, symbol, key, _, count = reference[:5]
    # The sixth, in the old form, is a view of another storage; no state dict of today has one.
    if kind != "storage" or type(symbol) is not Symbol or any(r is not None for r in reference[5:]):
        raise RecordingError("", "is damaged: it refers to what is not a storage")
    dtype = _DTYPES.get(symbol.name.removeprefix("torch.").removesuffix("Storage"))
    if dtype is None or type(key) is not str or not _is_count(count):
        raise RecordingError("", "is damaged: a storage without type, name or length")
    return _Storage(key, dtype, count)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    counts = (offset, *shape, *strides)
    if (
        type(storage) is not _Storage
        or type(shape) is not tuple
        or type(strides) is not tuple
        or len(shape) != len(strides)
        or len(shape) > 8
        or not all(map(_is_count, counts))
    ):
        raise RecordingError("", "is damaged: a tensor of what is not a storage, shape and strides")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise RecordingError("", f"is damaged: a tensor {list(shape)} reaches beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> _Tensor:
    if type(data) is not _Tensor:
        raise RecordingError("", "is damaged: a parameter of what is not a tensor")
    return data


def _storage_class(name: str) -> Callable[..., Any]:
    return lambda *_: unsafe(f"a call of {name}")


_DIALECT = Dialect(
    calls={
        "collections.OrderedDict": lambda: OrderedDict(),
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        **{f"torch.{kind}Storage": _storage_class(f"torch.{kind}Storage") for kind in _DTYPES},
    },
    refer=_refer,
    # Modules keep their version numbers there.
    drops_attributes=True,
)


class _FileInPieces:
    """A file of which no more than `MAX_HEADER` bytes are read at once.

    `zipfile` reads the directory of an archive in one piece, and makes an object of each entry.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.limited = True

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        if not self.limited or 0 <= count <= MAX_HEADER:
            return self._file.read(count)
        content = self._file.read(MAX_HEADER + 1)
        if len(content) > MAX_HEADER:
            raise RecordingError("", "is an archive of far too many members, or damaged")
        return content


def _read_archive(file: BinaryIO, left: int) -> dict[str, np.ndarray]:
    pieces = _FileInPieces(file)
    with zipfile.ZipFile(pieces) as archive:
        pieces.limited = False
        # Names are compared with those that are looked for, and never used as paths.
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise RecordingError("", "is damaged: a member of the archive occurs twice")
        found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise RecordingError("", "is a zip archive, but not one of torch.save (no data.pkl)")
        folder = found[0].removesuffix("data.pkl")
        if folder + "byteorder" in members:
            member, _ = _open_member(archive, members, folder + "byteorder")
            if member.read(16) != b"little":
                raise RecordingError("", _BIG_ENDIAN)
        member, size = _open_member(archive, members, found[0])
        _check_header(size)
        tensors = _state_dict(load_pickle(member, size, _DIALECT))
        contents: dict[str, np.ndarray] = {}
        for storage in {t.storage.key: t.storage for t in tensors.values()}.values():
            member, size = _open_member(archive, members, f"{folder}data/{storage.key}")
            # Members may lie upon each other, and then add up to any length.
            left -= size
            if size != storage.n_bytes or left < 0:
                raise RecordingError("", f"is damaged: the storage {shorten(storage.key)}")
            contents[storage.key] = _read_bytes(member, size)
    return _views(tensors, contents)


def _open_member(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str
) -> tuple[Any, int]:
    info = members.get(name)
    if info is None:
        raise RecordingError("", f"is damaged: the member {shorten(name)} is missing")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise RecordingError("", f"has a compressed member, {shorten(name)}")
    return archive.open(info), info.file_size


def _read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    def load(dialect: Dialect = _DIALECT) -> Any:
        # All of the pickles together are far smaller than that.
        return load_pickle(file, min(size - file.tell(), MAX_HEADER), dialect)

    load()  # the magic number
    if load() != _PROTOCOL:
        raise RecordingError("", "has an unknown version of the form before PyTorch 1.6")
    system = load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RecordingError("", _BIG_ENDIAN)
    tensors = _state_dict(load())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents: dict[str, np.ndarray] = {}
    keys = load()
    if type(keys) is not list or not set(storages) <= {key for key in keys if type(key) is str}:
        raise RecordingError("", "is damaged: it does not list the storages of its tensors")
    for key in keys:
        if key not in storages or key in contents:
            raise RecordingError("", "holds more tensors than a state dict; save that alone")
        storage = storages[key]
        if file.read(8) != storage.count.to_bytes(8, "little"):
            raise RecordingError("", f"is damaged: the storage {shorten(key)}")
        if storage.n_bytes > size - file.tell():
            raise RecordingError("", "is truncated")
        contents[key] = _read_bytes(file, storage.n_bytes)
    return _views(tensors, contents)


def _read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    length = int.from_bytes(file.read(8), "little")
    _check_header(length)
    if length > size - 8:
        raise RecordingError("", "is truncated")
    file.seek(0)
    try:
        entries = deserialize(file.read())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise RecordingError("", f"is damaged ({shorten(str(error))})") from error
    found: dict[str, np.ndarray] = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise RecordingError(shorten(name), f"has the type {entry['dtype']}; save as float32")
        array = _as_dtype(np.frombuffer(entry["data"], np.uint8), dtype).reshape(entry["shape"])
        array.flags.writeable = False
        found[name] = array
    return found


def _check_header(size: int) -> None:
    if size > MAX_HEADER:
        raise RecordingError("", f"describes itself in {size} bytes, the limit is {MAX_HEADER}")


def _state_dict(value: Any) -> dict[str, _Tensor]:
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping):
        raise RecordingError("", f"holds a {type(value).__name__} instead of a state dict")
    tensors = {name: item for name, item in value.items() if type(item) is _Tensor}
    if not tensors or not all(type(name) is str for name in tensors):
        raise RecordingError("", "holds no state dict (a dict of tensors by their names)")
    if len(tensors) > MAX_TENSORS:
        raise RecordingError("", f"holds more than {MAX_TENSORS} tensors")
    # One name with two lengths or types would be read as the one and used as the other.
    known: dict[str, _Storage] = {}
    for tensor in tensors.values():
        other = known.setdefault(tensor.storage.key, tensor.storage)
        if (other.dtype, other.count) != (tensor.storage.dtype, tensor.storage.count):
            raise RecordingError("", "is damaged: a storage has two lengths or types")
    return tensors


def _read_bytes(file: Any, count: int) -> np.ndarray:
    content = file.read(count)
    if len(content) != count:
        raise RecordingError("", "is truncated")
    return np.frombuffer(content, np.uint8)


def _views(
    tensors: Mapping[str, _Tensor], contents: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in flat:
            flat[storage.key] = _as_dtype(contents[storage.key], storage.dtype)
    return {name: _view(flat[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _as_dtype(content: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != _BFLOAT16:
        return content.view(dtype)
    # The upper half of a float32.
    return (content.view("<u2").astype("<u4") << 16).view("<f4")


def _view(flat: np.ndarray, tensor: _Tensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    # Its last element was found to lie within the storage.
    strides = tuple(step * flat.itemsize for step in tensor.strides)
    start = flat[tensor.offset :]
    return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False)
