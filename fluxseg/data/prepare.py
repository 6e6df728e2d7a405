"""Prepare recordings for training: their crops as shards on disk, in parallel processes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.arrays import reusing_memory
from fluxseg.data.cache import (
    INDEX_NAME,
    CacheEntry,
    CacheIndex,
    entry_from_json,
    index_to_json,
    source_stamps,
)
from fluxseg.data.checks import check_recording
from fluxseg.data.crops import create_crops, crop_settings, encode_crop
from fluxseg.data.duplicates import Entry, resolve_duplicates
from fluxseg.data.fingerprint import decode_fingerprint, encode_fingerprint
from fluxseg.data.parallel import map_in_processes
from fluxseg.data.recording import Source, pixel_size
from fluxseg.data.touching import NEURON, TOUCHING, touching_label
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.files import TEMPORARY, atomic_path, read_json, write_json

RECORDINGS_PER_SHARD = 8
# Uncompressed, since reading a crop then costs a third of the time; the crops of a recording
# take about a hundredth of its masks.
WRITER_OPTIONS = "group_size:1,uncompressed"


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
    settings = crop_settings(config)
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
        entries += [entry_from_json(values) for values in content["entries"]]
        left_out += [(key, reason) for key, reason in content["left_out"]]
        shards[f"{task.name}.array_record"] = (content["size"], content["crops"])
        done += len(task.stamps)
        if progress:
            progress(done, len(items))
    index = _create_index(directory, settings, stamps, source, entries, left_out, shards)
    if not index.entries:
        raise FluxsegError(_nothing_usable(index))
    write_json(directory / INDEX_NAME, index_to_json(index))
    _remove_stale(directory, {task.name for task in tasks})
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
        [Entry(e.key, e.id, e.group, e.digest, decode_fingerprint(e.fingerprint)) for e in entries]
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


def _count(crops: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for n in crops.sum((1, 2)))


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
    with atomic_path(shard) as temporary, reusing_memory() as memory:
        writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for key, _ in task.stamps:
            prepared = _prepare_recording(task, key, written)
            memory.release()
            if isinstance(prepared, str):
                left_out.append([key, prepared])
                continue
            entry, crops = prepared
            for crop in crops:
                writer.write(crop)
            entries.append(dataclasses.asdict(entry))
            written += len(crops)
        writer.close()
    content = {
        "size": shard.stat().st_size,
        "crops": written,
        "entries": entries,
        "left_out": left_out,
    }
    write_json(sidecar, content)
    return content


def _prepare_recording(
    task: _ShardTask, key: str, first: int
) -> tuple[CacheEntry, list[bytes]] | str:
    """Return the entry and the encoded crops of a recording, or why it is left out."""
    checked = check_recording(task.source, key)
    recording = checked.recording
    if checked.row.status == "unusable" or recording is None:
        return "; ".join(checked.row.reasons)
    if recording.masks is None or checked.label is None:
        return "not annotated: it has no masks to learn from"
    touching = "touching" in task.settings
    whole = touching_label(recording.masks) if touching else checked.label
    image, label, valid = create_crops(recording.image, whole, task.settings)
    entry = CacheEntry(
        key=key,
        id=recording.id,
        group=recording.group,
        shape=(int(recording.image.shape[0]), int(recording.image.shape[1])),
        n_rois=len(recording.masks),
        digest=checked.digest,
        fingerprint=encode_fingerprint(checked.fingerprint),
        remarks=checked.row.reasons,
        neuron_pixels=_count((label & NEURON) & valid),
        valid_pixels=_count(valid),
        shard=f"{task.name}.array_record",
        first=first,
        um_per_px=pixel_size(recording.metadata),
        touching_pixels=_count((label >= TOUCHING) & valid) if touching else (),
    )
    return entry, [encode_crop(*crop) for crop in zip(image, label, valid, strict=True)]
