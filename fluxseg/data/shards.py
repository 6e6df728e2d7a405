"""One shard of a cache: a file with the crops of a few recordings, and a JSON file about it."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.cache import CacheEntry
from fluxseg.data.checks import check_recording
from fluxseg.data.crops import create_crops, create_label, encode_crop
from fluxseg.data.fingerprint import encode_fingerprint
from fluxseg.data.recording import Source, pixel_size
from fluxseg.errors import WorkdirError
from fluxseg.io.files import add_checksum, atomic_path, has_checksum, read_json, write_json
from fluxseg.io.schema import from_plain

logger = logging.getLogger(__name__)

# Uncompressed, since reading a crop then costs a third of the time; the crops of a recording
# take about a hundredth of its masks.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard to be made."""

    source: Source  # where its recordings come from
    directory: str  # folder of the cache
    settings: Mapping[str, Any]  # see `crop_settings`
    stamps: tuple[tuple[str, str], ...]  # (key, stamp) of its recordings

    @property
    def name(self) -> str:
        """Name of its files, without their ends."""
        # The name is a hash of all that the content depends on: a shard that exists is right.
        described = json.dumps([self.settings, self.stamps], sort_keys=True)
        return f"crops-{hashlib.blake2b(described.encode(), digest_size=12).hexdigest()}"

    @property
    def shard(self) -> Path:
        """File of the crops."""
        return Path(self.directory, f"{self.name}.array_record")

    @property
    def sidecar(self) -> Path:
        """File that says what the shard holds; it is written last."""
        return self.shard.with_suffix(".json")


@dataclasses.dataclass(frozen=True)
class ShardContent:
    """What a finished shard holds."""

    size: int  # bytes of its file
    crops: int  # number of its crops
    entries: tuple[CacheEntry, ...]  # the recordings that they come from
    left_out: tuple[tuple[str, str], ...]  # (key, reason) of the recordings that cannot be used


def _count(crops: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for n in crops.sum((1, 2)))


def read_sidecar(task: ShardTask) -> ShardContent | None:
    """Return what is noted about a finished shard; None if it has to be made."""
    try:
        if not (task.sidecar.exists() and task.shard.exists()):
            return None
        values = from_plain(read_json(task.sidecar), dict[str, Any], str(task.sidecar))
        content = from_plain(values, ShardContent, str(task.sidecar))
        whole = has_checksum(values) and task.shard.stat().st_size == content.size
    except (WorkdirError, OSError) as error:
        logger.warning("%s: is damaged (%s); it is made again", task.sidecar, error)
        return None
    if not whole:
        logger.warning("%s: is not as it was written; it is made again", task.shard)
    return content if whole else None


def write_shard(task: ShardTask) -> ShardContent:
    """Make a shard in any process, and return what it holds, or raise `WorkdirError`, naming it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    entries: list[CacheEntry] = []
    left_out: list[tuple[str, str]] = []
    written = 0
    with _naming_shard(task), atomic_path(task.shard) as temporary:
        # The writer's own errors do not say why a file cannot be made.
        temporary.touch()
        writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        for key, _ in task.stamps:
            prepared = _prepare_recording(task, key, written)
            if isinstance(prepared, str):
                left_out.append((key, prepared))
                continue
            entry, crops = prepared
            for crop in crops:
                writer.write(crop)
            entries.append(entry)
            written += len(crops)
        writer.close()
    size = task.shard.stat().st_size
    content = ShardContent(size, written, tuple(entries), tuple(left_out))
    write_json(task.sidecar, add_checksum(dataclasses.asdict(content)))
    return content


@contextlib.contextmanager
def _naming_shard(task: ShardTask) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # The writer's text: "write() failed: REASON; writing FILE; ..."
        found = re.search(r"failed: ([^;]+); writing ", str(error))
        if found is None:
            raise
        raise WorkdirError(
            f"{task.shard}: cannot be written: {found[1]}; finished shards are kept: when that is "
            "mended, run the same command again"
        ) from error


def _prepare_recording(
    task: ShardTask, key: str, first: int
) -> tuple[CacheEntry, list[bytes]] | str:
    """Return the entry and the encoded crops of a recording, or why it is left out."""
    checked = check_recording(task.source, key)
    recording = checked.recording
    if checked.row.status == "unusable" or recording is None:
        return "; ".join(checked.row.reasons)
    if recording.masks is None or checked.label is None:
        return "not annotated: it has no masks to learn from"
    scale = pixel_size(recording.metadata)
    whole, zoom, remarks = create_label(recording.masks, checked.label, task.settings)
    image, label, valid = create_crops(recording.image, whole, task.settings)
    entry = CacheEntry(
        key=key,
        id=recording.id,
        group=recording.group,
        shape=(int(whole.shape[0]), int(whole.shape[1])),
        n_rois=len(recording.masks),
        digest=checked.digest,
        fingerprint=encode_fingerprint(checked.fingerprint),
        remarks=(*checked.row.reasons, *remarks),
        neuron_pixels=_count(label & valid),
        valid_pixels=_count(valid),
        shard=task.shard.name,
        first=first,
        um_per_px=None if scale is None else scale / zoom,
    )
    return entry, [encode_crop(*crop) for crop in zip(image, label, valid, strict=True)]
