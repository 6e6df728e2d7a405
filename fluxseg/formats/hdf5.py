"""HDF5 files of any origin: no other file is opened, and sizes are checked before reading."""

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import explain_damage, naming_file, open_regular

MAGIC = b"\x89HDF\r\n\x1a\n"  # how HDF5 files begin
MAX_BYTES = 2**31
"""Bytes that one dataset may take in memory; a few stored ones can declare any number."""
MAX_ITEMS = 100_000  # texts of a dataset, and members of a group
MAX_TEXT = 2**24  # bytes of an attribute, and characters of all the texts of a dataset
_MAX_LINKS = 16
# Filters that do not change how much there is: shuffle, checksum, n-bit and scale-offset.
_DEFLATE, _SAME_SIZE = 1, (2, 3, 5, 6)
# No deflated byte becomes more bytes.
_MAX_RATIO = 1032


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading and name it in every error that reading it raises."""
    with naming_file(path):
        with open_regular(path) as (file, _):
            start = file.read(512 + len(MAGIC))
            # MATLAB puts its own header before.
            if not start.startswith(MAGIC) and start[512:] != MAGIC:
                raise RecordingError("", "does not begin as an HDF5 file does")
        with explain_damage():
            try:
                with h5py.File(path, "r", locking=False) as opened:
                    yield opened
            except OSError as error:
                raise RecordingError("", f"cannot be read, or is damaged: {error}") from error


def _find(group: h5py.Group, path: str, left: list[int]) -> Any:
    found: Any = group.file["/"] if path.startswith("/") else group
    for part in PurePosixPath(path).parts:
        if part in ("/", "."):
            continue
        if not isinstance(found, h5py.Group):
            return None
        try:
            link = found.get(part, getlink=True)
        except TypeError as error:
            raise RecordingError(path, "is a link of an unknown kind, which is not read") from error
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            reason = f"is in another file ({str(link.filename)[:200]!a}), which is not opened"
            raise RecordingError(path, reason)
        if isinstance(link, h5py.SoftLink):
            left[0] -= 1
            if left[0] < 0:
                raise RecordingError(path, "is linked in a ring")
            found = _find(found, link.path, left)
        else:
            found = found.get(part)
    return found


def find_group(group: h5py.Group, path: str) -> h5py.Group | None:
    """Return the group at a path (`/`: from the file's root), or None if there is none.

    Links inside of the file are followed; one to another file, or a ring of them, is an error.
    """
    found = _find(group, path, [_MAX_LINKS])
    return found if isinstance(found, h5py.Group) else None


def find_dataset(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """Return the dataset at a path, as `find_group` does; None if there is none."""
    found = _find(group, path, [_MAX_LINKS])
    return found if isinstance(found, h5py.Dataset) else None


def list_groups(group: h5py.Group | None) -> list[tuple[str, h5py.Group]]:
    """Return the groups in a group with their names, sorted; none for None."""
    found = [(name, find_group(group, name)) for name in _names(group)] if group else []
    return [(name, inner) for name, inner in found if inner is not None]


def list_datasets(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    """Return the datasets in a group with their names, sorted."""
    found = [(name, find_dataset(group, name)) for name in _names(group)]
    return [(name, dataset) for name, dataset in found if dataset is not None]


def _names(group: h5py.Group) -> list[str]:
    if len(group) > MAX_ITEMS:
        raise RecordingError(str(group.name), f"has {len(group)} members")
    return sorted(name for name in group if "/" not in name)


def read_attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return an attribute as h5py gives it, or None if it is absent or too large to be one."""
    if name not in item.attrs:
        return None
    stored = item.attrs.get_id(name)
    if math.prod(stored.shape) > (1000 if is_text(stored.dtype) else MAX_TEXT // 8):
        return None
    return item.attrs[name]


def read_text_attribute(item: h5py.Group | h5py.Dataset, name: str) -> str:
    """Return an attribute as text, "" if it is absent."""
    value = read_attribute(item, name)
    return "" if value is None else _decode(value)


def _decode(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def is_text(dtype: np.dtype) -> bool:
    """Tell whether a dataset or an attribute of a dtype holds texts."""
    return h5py.check_string_dtype(dtype) is not None


def read_numbers(dataset: h5py.Dataset, limit: int = MAX_BYTES) -> np.ndarray:
    """Read a dataset of numbers, or of records of numbers, as a whole, of at most `limit` bytes."""
    check_dataset(dataset, limit)
    _check_size(dataset, dataset.shape, limit)
    return np.asarray(dataset[()])


def read_texts(dataset: h5py.Dataset) -> list[str]:
    """Read a dataset of texts, one by one, so that no more are held than `MAX_TEXT` characters."""
    check_dataset(dataset, MAX_TEXT, texts=True)
    count = math.prod(dataset.shape)
    if count > MAX_ITEMS or dataset.dtype.itemsize > MAX_TEXT or len(dataset.shape) > 1:
        raise RecordingError(str(dataset.name), f"holds {count} texts; too many")
    texts: list[str] = []
    left = MAX_TEXT
    for number in range(count):
        texts.append(_decode(dataset[number] if dataset.shape else dataset[()]))
        left -= len(texts[-1])
        if left < 0:
            raise RecordingError(str(dataset.name), f"holds more than {MAX_TEXT} characters")
    return texts


def read_plain(group: h5py.Group, path: str) -> Any:
    """Return what a dataset of one text or number holds; None if it is absent or larger."""
    dataset = find_dataset(group, path)
    if dataset is None or dataset.shape is None or math.prod(dataset.shape) != 1:
        return None
    if is_text(dataset.dtype):
        return read_texts(dataset)[0]
    if dataset.dtype.kind not in "biuf":
        return None
    return read_numbers(dataset, 1024).reshape(-1)[0].item()


def read_places(group: h5py.Group, places: Mapping[str, str]) -> dict[str, Any]:
    """Return what `read_plain` finds at several places, by their names; without what is absent."""
    found = {name: read_plain(group, place) for name, place in places.items()}
    return {name: value for name, value in found.items() if value is not None}


def check_dataset(dataset: h5py.Dataset, limit: int = MAX_BYTES, *, texts: bool = False) -> None:
    """Make sure that parts of a dataset of numbers or texts, however large, can be read safely.

    Raises `RecordingError` if it is no such dataset, lies in another file, or a stored chunk of it
    takes or unpacks to more than `limit` bytes.
    """
    name, dtype = str(dataset.name), dataset.dtype
    if dataset.shape is None:
        raise RecordingError(name, "is empty")
    if dataset.is_virtual or dataset.external:
        raise RecordingError(name, "lies in another file, which is not opened")
    kinds = [dtype[field] for field in dtype.names] if dtype.names else [dtype]
    if texts and not is_text(dtype):
        raise RecordingError(name, "must hold texts")
    if not texts and any(kind.kind not in "biuf" for kind in kinds):
        raise RecordingError(name, f"must hold numbers, got {dtype}")
    if dataset.chunks is not None:
        _check_chunks(dataset, limit)
    elif dataset.id.get_offset() is not None:
        end = dataset.id.get_offset() + dataset.id.get_storage_size()
        if end > dataset.file.id.get_filesize():
            raise RecordingError(name, "is truncated")


def _check_chunks(dataset: h5py.Dataset, limit: int) -> None:
    """Raise unless each chunk unpacks to what it declares, within the limit."""
    size = _check_size(dataset, dataset.chunks, limit)
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    packing = [number for number in filters if number not in _SAME_SIZE]
    missing = [number for number in filters if not h5py.h5z.filter_avail(number)]
    if len(packing) > 1 or missing:
        reason = f"has a compression that is not known (filters {filters}); save it with gzip"
        raise RecordingError(str(dataset.name), reason)
    doubtful: list[Any] = []

    def note(info: Any) -> None:
        if info.size * _MAX_RATIO > limit:
            doubtful.append(info)

    if packing:
        dataset.id.chunk_iter(note)
    for info in doubtful:
        larger = info.size > size + size // 8 + 2**16
        if packing == [_DEFLATE] and info.filter_mask == 0 and not larger:
            _, packed = dataset.id.read_direct_chunk(info.chunk_offset)
            larger = len(zlib.decompressobj().decompress(packed, size + 65)) > size + 64
        if larger:
            raise RecordingError(str(dataset.name), "is damaged: a chunk is larger than it says")


def _check_size(dataset: h5py.Dataset, shape: tuple[int, ...], limit: int) -> int:
    size = math.prod(shape) * dataset.dtype.itemsize
    if size > limit:
        what = f"would take {size / 2**30:.1f} GiB, the limit is {limit / 2**30:.1f} GiB"
        raise RecordingError(str(dataset.name), what)
    return size
