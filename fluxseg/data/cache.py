"""Prepared crops on disk: ArrayRecord shards, and an index that knows what they were made from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.checks import check_recording
from fluxseg.data.duplicates import Entry, resolve_duplicates
from fluxseg.data.fingerprint import Fingerprint, decode_fingerprint, encode_fingerprint
from fluxseg.data.parallel import map_in_processes
from fluxseg.data.recording import Source
from fluxseg.data.splits import SplitItem
from fluxseg.data.tiles import crop_grid, grid_ownership
from fluxseg.data.transforms import dequantize, normalize_image, quantize
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.files import TEMPORARY, atomic_path, read_json, write_json

CACHE_VERSION = 1
RECORDINGS_PER_SHARD = 8
INDEX_NAME = "index.json"
# Uncompressed, since reading a crop then costs a third of the time; the crops of a recording
# take about a hundredth of its masks.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One prepared recording.

    Attributes:
        key: unique name within the source.
        id: name that the recording gives itself.
        group: recordings of one group show the same tissue.
        shape: (H, W) of the image, px.
        n_rois: number of masks.
        digest: hash of image and merged mask.
        fingerprint: text from `encode_fingerprint`, to find near-duplicates.
        remarks: what was odd about it.
        neuron_pixels: per crop, valid pixels that are neuron.
        valid_pixels: per crop, pixels that count.
        shard: file name of its shard.
        first: number of its first crop within the shard.
    """

    key: str
    id: str
    group: str
    shape: tuple[int, int]
    n_rois: int
    digest: str
    fingerprint: str
    remarks: tuple[str, ...]
    neuron_pixels: tuple[int, ...]
    valid_pixels: tuple[int, ...]
    shard: str
    first: int

    @property
    def split_item(self) -> SplitItem:
        """What `create_manifest` needs to know."""
        return SplitItem(self.key, self.group, self.digest, len(self.valid_pixels))


@dataclasses.dataclass(frozen=True)
class CacheIndex:
    """The content of a cache.

    Attributes:
        directory: the folder it lies in.
        settings: what the crops depend on besides the recordings.
        stamps: key -> stamp of every recording of the source, used or not.
        source: description of the source.
        entries: the usable recordings, sorted by key.
        left_out: the others, as (key, reason).
        near_duplicates: (key, key, similarity) of recordings that show the same field of view.
        shards: file name -> (bytes, crops).
    """

    directory: Path
    settings: Mapping[str, Any]
    stamps: Mapping[str, str]
    source: Mapping[str, Any]
    entries: tuple[CacheEntry, ...]
    left_out: tuple[tuple[str, str], ...]
    near_duplicates: tuple[tuple[str, str, float], ...]
    shards: Mapping[str, tuple[int, int]]

    @property
    def tile(self) -> int:
        """Side of a crop, px."""
        return int(self.settings["tile"])


def cache_settings(config: DataConfig) -> dict[str, Any]:
    """Return everything in the config that the content of the crops depends on."""
    return {
        "version": CACHE_VERSION,
        "tile": config.tile,
        "low_percentile": config.low_percentile,
        "high_percentile": config.high_percentile,
    }


def create_crops(
    image: np.ndarray, label: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut an image and its semantic mask into normalised crops.

    Args:
        image: `[H, W]`, any real dtype.
        label: `[H, W]` bool, see `merge_masks`.
        settings: from `cache_settings`.

    Returns:
        image `[T, t, t]` uint16 (see `quantize`), label `[T, t, t]` bool, valid `[T, t, t]` bool:
        the pixels that this crop owns (see `grid_ownership`) and that are finite.
    """
    tile = settings["tile"]
    valid = grid_ownership((image.shape[0], image.shape[1]), tile)
    if image.dtype.kind == "f":
        valid &= crop_grid(np.isfinite(image), tile, "constant")
    normalized = normalize_image(image, settings["low_percentile"], settings["high_percentile"])
    return (
        crop_grid(quantize(normalized), tile),
        crop_grid(label, tile, "constant"),
        valid,
    )


def encode_crop(image: np.ndarray, label: np.ndarray, valid: np.ndarray) -> bytes:
    """Pack one crop `[t, t]` (uint16, bool, bool) into 2.25 bytes a pixel."""
    little = image.astype("<u2", copy=False)
    return little.tobytes() + np.packbits(label).tobytes() + np.packbits(valid).tobytes()


def decode_crop(record: bytes, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack what `encode_crop` packed.

    Returns:
        image `[t, t]` float32 (normalised), label `[t, t]` uint8, valid `[t, t]` uint8.
    """
    pixels = tile * tile
    packed = -(-pixels // 8)
    image = np.frombuffer(record, "<u2", pixels).reshape(tile, tile)
    bits = np.frombuffer(record, np.uint8, 2 * packed, 2 * pixels).reshape(2, packed)
    label, valid = np.unpackbits(bits, axis=1, count=pixels).reshape(2, tile, tile)
    return dequantize(image), label, valid


@dataclasses.dataclass(frozen=True)
class _ShardTask:
    source: Source
    directory: str
    settings: Mapping[str, Any]
    stamps: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        # The name is a hash of all that the content depends on: a shard that exists is right.
        described = json.dumps([self.settings, self.stamps], sort_keys=True)
        return f"crops-{hashlib.blake2b(described.encode(), digest_size=12).hexdigest()}"


def _write_shard(task: _ShardTask) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    sidecar = Path(task.directory, f"{task.name}.json")
    shard = Path(task.directory, f"{task.name}.array_record")
    if sidecar.exists() and shard.exists():
        content: dict[str, Any] = read_json(sidecar)
        if shard.stat().st_size == content["size"]:
            return content
    entries: list[dict[str, Any]] = []
    left_out: list[list[str]] = []
    written = 0
    with atomic_path(shard) as temporary:
        writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for key, _ in task.stamps:
            checked = check_recording(task.source, key)
            recording = checked.recording
            if checked.row.status == "unusable" or recording is None:
                left_out.append([key, "; ".join(checked.row.reasons)])
                continue
            if recording.masks is None or checked.label is None:
                left_out.append([key, "not annotated: it has no masks to learn from"])
                continue
            image, label, valid = create_crops(recording.image, checked.label, task.settings)
            for crop in zip(image, label, valid, strict=True):
                writer.write(encode_crop(*crop))
            entry = CacheEntry(
                key=key,
                id=recording.id,
                group=recording.group,
                shape=(int(recording.image.shape[0]), int(recording.image.shape[1])),
                n_rois=len(recording.masks),
                digest=checked.digest,
                fingerprint=encode_fingerprint(checked.fingerprint),
                remarks=checked.row.reasons,
                neuron_pixels=tuple(int(n) for n in (label & valid).sum((1, 2))),
                valid_pixels=tuple(int(n) for n in valid.sum((1, 2))),
                shard=shard.name,
                first=written,
            )
            entries.append(dataclasses.asdict(entry))
            written += len(image)
        writer.close()
    content = {
        "size": shard.stat().st_size,
        "crops": written,
        "entries": entries,
        "left_out": left_out,
    }
    write_json(sidecar, content)
    return content


def prepare_cache(
    source: Source,
    directory: str | Path,
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> CacheIndex:
    """Prepare the crops of all recordings, in parallel processes with one recording in each.

    A shard that an earlier, interrupted call has finished is not made again. The index is
    written last, so a folder with an index is complete.

    Args:
        source: where the recordings come from.
        directory: folder of the cache; it is created.
        config: crop size, normalisation and number of processes.
        progress: called with (recordings done, recordings in all).

    Returns:
        The index of the finished cache.

    Raises:
        WorkdirError: if the folder cannot be written.
        FluxsegError: if no recording is usable.
    """
    directory = Path(directory)
    stamps = source_stamps(source)
    settings = cache_settings(config)
    items = list(stamps.items())
    tasks = [
        _ShardTask(source, str(directory), settings, tuple(items[i : i + RECORDINGS_PER_SHARD]))
        for i in range(0, len(items), RECORDINGS_PER_SHARD)
    ]
    _make_directory(directory)
    entries: list[CacheEntry] = []
    left_out: list[tuple[str, str]] = []
    shards: dict[str, tuple[int, int]] = {}
    done = 0
    for task, content in map_in_processes(_write_shard, tasks, config.workers):
        entries += [_entry_from_json(values) for values in content["entries"]]
        left_out += [(key, reason) for key, reason in content["left_out"]]
        shards[f"{task.name}.array_record"] = (content["size"], content["crops"])
        done += len(task.stamps)
        if progress:
            progress(done, len(items))
    index = _create_index(directory, settings, stamps, source, entries, left_out, shards)
    write_json(directory / INDEX_NAME, index_to_json(index))
    _remove_stale(directory, {task.name for task in tasks})
    if not index.entries:
        raise FluxsegError(_nothing_usable(index))
    return index


def _create_index(
    directory: Path,
    settings: Mapping[str, Any],
    stamps: Mapping[str, str],
    source: Source,
    entries: Sequence[CacheEntry],
    left_out: Sequence[tuple[str, str]],
    shards: Mapping[str, tuple[int, int]],
) -> CacheIndex:
    resolved = resolve_duplicates(
        [Entry(e.key, e.id, e.group, e.digest, _fingerprint_of(e)) for e in entries]
    )
    kept = [entry for entry in entries if entry.key not in resolved.left_out]
    return CacheIndex(
        directory=directory,
        settings=settings,
        stamps=stamps,
        source=source.describe(),
        entries=tuple(
            dataclasses.replace(e, remarks=(*e.remarks, *resolved.remarks.get(e.key, ())))
            for e in kept
        ),
        left_out=tuple(sorted([*left_out, *resolved.left_out.items()])),
        near_duplicates=tuple(
            (pair.first, pair.second, pair.similarity) for pair in resolved.near_duplicates
        ),
        shards=shards,
    )


def _fingerprint_of(entry: CacheEntry) -> Fingerprint:
    return decode_fingerprint(entry.fingerprint)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"{directory}: cannot be made: {error.strerror or error}") from error


def _remove_stale(directory: Path, names: set[str]) -> None:
    for path in sorted(directory.iterdir()):
        ours = path.name.startswith(("crops-", f"{TEMPORARY}")) and path.name != INDEX_NAME
        if ours and path.name.split(".")[0] not in names:
            path.unlink(missing_ok=True)


def _nothing_usable(index: CacheIndex) -> str:
    lines = [f"  {key}: {reason}" for key, reason in index.left_out[:10]]
    more = len(index.left_out) - len(lines)
    if more > 0:
        lines.append(f"  ... and {more} more")
    return "\n".join(["no recording is usable for training:", *lines])


def source_stamps(source: Source) -> dict[str, str]:
    """Return key -> stamp of all recordings, sorted by key."""
    return {key: source.stamp(key) for key in source.keys()}  # noqa: SIM118


def cache_difference(index: CacheIndex, stamps: Mapping[str, str], config: DataConfig) -> str:
    """Say in words why a cache does not fit a source and its settings; empty if it does."""
    wanted = cache_settings(config)
    changed = [f"{k}: {index.settings.get(k)} -> {v}" for k, v in wanted.items()]
    changed = [
        c for c, k in zip(changed, wanted, strict=True) if index.settings.get(k) != wanted[k]
    ]
    if changed:
        return "settings changed: " + ", ".join(changed)
    new = sum(key not in index.stamps for key in stamps)
    gone = sum(key not in stamps for key in index.stamps)
    other = sum(index.stamps.get(key, stamp) != stamp for key, stamp in stamps.items())
    counts = ((new, "new"), (gone, "gone"), (other, "changed"))
    words = [f"{count} {word}" for count, word in counts if count]
    return f"recordings: {', '.join(words)}" if words else ""


def index_to_json(index: CacheIndex) -> dict[str, Any]:
    """Return the index as plain values."""
    values = dataclasses.asdict(index)
    del values["directory"]
    return values


def read_index(directory: str | Path) -> CacheIndex | None:
    """Read the index of a cache; None if the folder holds no finished cache.

    Raises:
        WorkdirError: if the index is damaged, or a shard is missing or truncated.
    """
    directory = Path(directory)
    path = directory / INDEX_NAME
    if not path.exists():
        return None
    values = read_json(path)
    try:
        index = CacheIndex(
            directory=directory,
            settings=dict(values["settings"]),
            stamps=dict(values["stamps"]),
            source=dict(values["source"]),
            entries=tuple(_entry_from_json(entry) for entry in values["entries"]),
            left_out=tuple((key, reason) for key, reason in values["left_out"]),
            near_duplicates=tuple((a, b, float(s)) for a, b, s in values["near_duplicates"]),
            shards={k: (int(v[0]), int(v[1])) for k, v in values["shards"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{path}: is damaged ({error!r}); delete the folder") from error
    for name, (size, _) in index.shards.items():
        shard = directory / name
        found = shard.stat().st_size if shard.exists() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise WorkdirError(f"{shard}: {what}; delete {path} to have it made again")
    return index


def _entry_from_json(values: Mapping[str, Any]) -> CacheEntry:
    fields = dict(values)
    for name in ("shape", "remarks", "neuron_pixels", "valid_pixels"):
        fields[name] = tuple(fields[name])
    return CacheEntry(**fields)


def read_crops(index: CacheIndex, entry: CacheEntry) -> Iterator[tuple[np.ndarray, ...]]:
    """Read the crops of one recording in the order of `tile_positions` (see `decode_crop`)."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(index.directory / entry.shard), "readahead_buffer_size:0")
    try:
        for number in range(len(entry.valid_pixels)):
            record = reader.read([entry.first + number])[0]
            yield decode_crop(record, index.tile)
    except (RuntimeError, IndexError) as error:
        raise WorkdirError(
            f"{index.directory / entry.shard}: is damaged; delete "
            f"{index.directory / INDEX_NAME} and this file to have it made again"
        ) from error
    finally:
        reader.close()
