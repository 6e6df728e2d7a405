"""A cache of prepared crops: its index, how to read its crops, and how damage is found."""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.crops import crop_settings, decode_crop
from fluxseg.data.recording import Source
from fluxseg.data.splits import SplitItem
from fluxseg.errors import WorkdirError
from fluxseg.io.files import add_checksum, has_checksum, read_json, write_json
from fluxseg.io.names import is_plain_name
from fluxseg.io.schema import from_plain

INDEX_NAME = "index.json"
MAX_TILE = 2**14  # longest side of a crop that an index may tell, px


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One prepared recording."""

    key: str  # unique name within the source
    id: str  # name that the recording gives itself
    group: str  # recordings of one group show the same tissue
    shape: tuple[int, int]  # (H, W) of the image, px, at the magnification of its crops
    n_rois: int  # number of masks
    digest: str  # hash of image and merged mask
    fingerprint: str  # text from `encode_fingerprint`, to find near-duplicates
    remarks: tuple[str, ...]  # what was odd about it
    neuron_pixels: tuple[int, ...]  # per crop, valid pixels that are neuron
    valid_pixels: tuple[int, ...]  # per crop, pixels that count
    shard: str  # file name of its shard
    first: int  # number of its first crop within the shard
    um_per_px: float | None = None  # size of a pixel of the crops, um; None if unknown

    def __post_init__(self) -> None:
        _check_shard_name(self.shard)

    @property
    def split_item(self) -> SplitItem:
        """What `create_manifest` needs to know."""
        return SplitItem(self.key, self.group, self.digest, len(self.valid_pixels))


@dataclasses.dataclass(frozen=True)
class CacheIndex:
    """The content of a cache."""

    directory: Path  # the folder it lies in
    settings: Mapping[str, Any]  # what the crops depend on besides the recordings
    stamps: Mapping[str, str]  # key -> stamp of every recording of the source, used or not
    source: Mapping[str, Any]  # description of the source
    entries: tuple[CacheEntry, ...]  # the usable recordings, sorted by key
    left_out: tuple[tuple[str, str], ...]  # the others, as (key, reason)
    near_duplicates: tuple[tuple[str, str, float], ...]  # (key, key, similarity) of one field
    shards: Mapping[str, tuple[int, int]]  # file name -> (bytes, crops)

    def __post_init__(self) -> None:
        for name in self.shards:
            _check_shard_name(name)
        tile = self.settings.get("tile")
        if type(tile) is not int or not 0 < tile <= MAX_TILE:
            raise WorkdirError("settings.tile is out of range")

    @property
    def tile(self) -> int:
        """Side of a crop, px."""
        return int(self.settings["tile"])


def _check_shard_name(name: str) -> None:
    # It becomes part of a path, which must not lead out of the cache's folder.
    if not is_plain_name(name):
        raise WorkdirError(f"{name!r:.200} is no name of a shard")


def source_stamps(source: Source) -> dict[str, str]:
    """Return key -> stamp of all recordings, sorted by key."""
    return {key: source.stamp(key) for key in source.keys()}  # noqa: SIM118


def cache_difference(index: CacheIndex, stamps: Mapping[str, str], config: DataConfig) -> str:
    """Say in words why a cache does not fit a source and its settings; empty if it does."""
    wanted = crop_settings(config)
    changed = [
        f"{name}: {index.settings.get(name)} -> {wanted.get(name)}"
        for name in {**wanted, **index.settings}
        if index.settings.get(name) != wanted.get(name)
    ]
    if changed:
        return "settings changed: " + ", ".join(changed)
    new = sum(key not in index.stamps for key in stamps)
    gone = sum(key not in stamps for key in index.stamps)
    other = sum(index.stamps.get(key, stamp) != stamp for key, stamp in stamps.items())
    counts = ((new, "new"), (gone, "gone"), (other, "changed"))
    words = [f"{count} {word}" for count, word in counts if count]
    return f"recordings: {', '.join(words)}" if words else ""


def write_index(index: CacheIndex) -> None:
    """Write the index, with a checksum, which makes the cache complete, or raise `WorkdirError`.

    A shard needs none: its format has one for every block, which is compared whenever it is read.
    """
    values = dataclasses.asdict(index)
    del values["directory"]
    write_json(index.directory / INDEX_NAME, add_checksum(values))


def read_index(directory: str | Path) -> CacheIndex | None:
    """Read the index of a cache; None if the folder holds no finished cache.

    Raises `WorkdirError` if the index is damaged, or a shard is missing or truncated.
    """
    index = read_index_alone(directory)
    if index is None:
        return None
    for name in index.shards:
        if what := _wrong_size(index, name):
            raise damaged_shard(index, name, what)
    return index


def read_index_alone(directory: str | Path) -> CacheIndex | None:
    """Do as `read_index` does, without a look at the shards."""
    directory = Path(directory)
    path = directory / INDEX_NAME
    try:
        read = read_json(path)
    except WorkdirError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    advice = "delete it to have it made again from the crops beside it"
    values = from_plain(read, dict[str, Any], str(path), advice)
    index = from_plain({**values, "directory": directory}, CacheIndex, str(path), advice)
    if not has_checksum(values):
        raise WorkdirError(f"{path}: is damaged (its checksum is another); {advice}")
    return index


def _wrong_size(index: CacheIndex, name: str) -> str:
    """Say what is wrong with the size of a shard; empty if nothing is."""
    try:
        found, size = (index.directory / name).stat().st_size, index.shards[name][0]
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if found == size else f"has {found} bytes instead of {size}"


def damaged_shard(index: CacheIndex, name: str, what: str = "is damaged") -> WorkdirError:
    """Return the error that says what is wrong with a shard, and how to have it made again."""
    where = index.directory
    root = shlex.quote(str(index.source.get("root", "SOURCE")))
    return WorkdirError(
        f"{where / name}: {what}; `fluxseg prepare {root} --output {shlex.quote(str(where))} "
        f"--repair` makes it again, and so does the same command once more if you delete this "
        f"file and {where / INDEX_NAME}"
    )


def find_damage(index: CacheIndex, name: str) -> str:
    """Read a whole shard, and say what is wrong with it; empty if nothing is."""
    crops = index.shards[name][1]
    if what := _wrong_size(index, name):
        return what
    try:
        with _open_shard(index.directory / name) as reader:
            if reader.num_records() != crops:
                return f"holds {reader.num_records()} crops instead of {crops}"
            for number in range(crops):
                decode_crop(reader.read([number])[0], index.tile)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (RuntimeError, IndexError, ValueError) as error:
        return f"is damaged: {str(error).partition(';')[0]}"
    return ""


@contextlib.contextmanager
def _open_shard(path: Path) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    try:
        yield reader
    finally:
        # What a damaged file led to is raised here once more.
        with contextlib.suppress(RuntimeError):
            reader.close()


def common_pixel_size(entries: Iterable[CacheEntry]) -> float | None:
    """Return the pixel size that recordings have in common, um: the median.

    None if one of them does not state it, there are none, or they differ by more than 5 percent.
    """
    sizes = [entry.um_per_px for entry in entries]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes) or max(known) > 1.05 * min(known):
        return None
    return float(np.median(known))


def read_crops(index: CacheIndex, entry: CacheEntry) -> Iterator[tuple[np.ndarray, ...]]:
    """Read the crops of one recording in the order of `tile_positions` (see `decode_crop`)."""
    try:
        with _open_shard(index.directory / entry.shard) as reader:
            for number in range(len(entry.valid_pixels)):
                record = reader.read([entry.first + number])[0]
                yield decode_crop(record, index.tile)
    except (RuntimeError, OSError, IndexError, ValueError) as error:
        raise damaged_shard(index, entry.shard) from error
