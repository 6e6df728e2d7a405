"""Prepare recordings for training: their crops as shards on disk, made by worker processes."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.config import DataConfig
from fluxseg.data import cache
from fluxseg.data.crops import crop_settings
from fluxseg.data.duplicates import Entry, resolve_duplicates
from fluxseg.data.fingerprint import decode_fingerprint
from fluxseg.data.parallel import map_in_processes
from fluxseg.data.recording import Source
from fluxseg.data.shards import ShardContent, ShardTask, read_sidecar, write_shard
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.io.files import TEMPORARY, naming
from fluxseg.io.progress import Progressed

logger = logging.getLogger(__name__)

RECORDINGS_PER_SHARD = 8


def prepare_cache(
    source: Source, directory: str | Path, config: DataConfig, progress: Progressed | None = None
) -> cache.CacheIndex:
    """Prepare the crops of all recordings, in worker processes with one recording in each.

    A shard that an earlier, interrupted call has finished is not made again. The index is written
    last, so a folder with an index is complete. Raises `WorkdirError` if the folder cannot be
    written, `FluxsegError` if no recording is usable.
    """
    directory = Path(directory)
    with naming(directory, "cannot be made"):
        directory.mkdir(parents=True, exist_ok=True)
    stamps = cache.source_stamps(source)
    items = list(stamps.items())
    settings = crop_settings(config)
    tasks = [
        ShardTask(source, str(directory), settings, tuple(items[i : i + RECORDINGS_PER_SHARD]))
        for i in range(0, len(items), RECORDINGS_PER_SHARD)
    ]
    contents = _make_shards(tasks, config.workers, progress)
    index = _create_index(source, directory, settings, stamps, contents)
    if not index.entries:
        raise FluxsegError(_nothing_usable(index))
    cache.write_index(index)
    _remove_stale(directory, {task.name for task in tasks})
    return index


def repair_cache(
    source: Source, directory: str | Path, config: DataConfig, progress: Progressed | None = None
) -> tuple[cache.CacheIndex, tuple[str, ...]]:
    """Read every shard of a cache, and make those again that are damaged or missing.

    If there is an index, all that the crops depend on is taken from it. Returns the index of the
    whole cache, and the file names of the shards that were made again. Raises `WorkdirError` if the
    recordings are no longer those that the crops were made from, or as `prepare_cache` does.
    """
    directory = Path(directory)
    try:
        index = cache.read_index_alone(directory)
    except WorkdirError as error:
        logger.warning("%s", error)
        index = None
    if index is None:
        return prepare_cache(source, directory, config, progress), ()
    names = ("tile", "low_percentile", "high_percentile", "diameter_px")
    config = dataclasses.replace(config, **{n: index.settings.get(n, 0.0) for n in names})
    if difference := cache.cache_difference(index, cache.source_stamps(source), config):
        raise WorkdirError(
            f"{directory}: cannot be repaired, as it does not fit what it was made from "
            f"({difference}); prepare it without --repair"
        )
    damaged = _remove_damaged(index, config.workers)
    return prepare_cache(source, directory, config, progress), tuple(damaged)


def _remove_damaged(index: cache.CacheIndex, workers: int) -> list[str]:
    look = functools.partial(cache.find_damage, index)
    looked = map_in_processes(look, sorted(index.shards), workers)
    damaged = {name: what for name, what in looked if what}
    for name, what in damaged.items():
        shard = index.directory / name
        logger.warning("%s: %s; it is made again", shard, what)
        with naming(shard, "cannot be deleted"):
            shard.unlink(missing_ok=True)
            shard.with_suffix(".json").unlink(missing_ok=True)
    return list(damaged)


def _make_shards(
    tasks: Sequence[ShardTask], workers: int, progress: Progressed | None
) -> dict[str, ShardContent]:
    """Make the shards that are not there yet; return what is noted about each, by file name."""
    contents = {task.shard.name: read_sidecar(task) for task in tasks}
    missing = [task for task in tasks if contents[task.shard.name] is None]
    total = sum(len(task.stamps) for task in tasks)
    done = total - sum(len(task.stamps) for task in missing)
    if done and progress:
        progress(done, total)
    for task, content in map_in_processes(write_shard, missing, workers):
        contents[task.shard.name] = content
        done += len(task.stamps)
        if progress:
            progress(done, total)
    return {name: content for name, content in contents.items() if content is not None}


def _create_index(
    source: Source,
    directory: Path,
    settings: Mapping[str, Any],
    stamps: Mapping[str, str],
    contents: Mapping[str, ShardContent],
) -> cache.CacheIndex:
    entries = [entry for content in contents.values() for entry in content.entries]
    left_out = [one for content in contents.values() for one in content.left_out]
    resolved = resolve_duplicates(
        [Entry(e.key, e.id, e.group, e.digest, decode_fingerprint(e.fingerprint)) for e in entries]
    )
    return cache.CacheIndex(
        directory=directory,
        settings=settings,
        stamps=stamps,
        source=source.describe(),
        entries=tuple(
            dataclasses.replace(e, remarks=(*e.remarks, *resolved.remarks.get(e.key, ())))
            for e in entries
            if e.key not in resolved.left_out
        ),
        left_out=tuple(sorted([*left_out, *resolved.left_out.items()])),
        near_duplicates=tuple(
            (pair.first, pair.second, pair.similarity) for pair in resolved.near_duplicates
        ),
        shards={name: (content.size, content.crops) for name, content in contents.items()},
    )


def _remove_stale(directory: Path, names: set[str]) -> None:
    for path in sorted(directory.iterdir()):
        ours = path.name.startswith(("crops-", TEMPORARY)) and path.name != cache.INDEX_NAME
        if ours and path.name.split(".")[0] not in names:
            path.unlink(missing_ok=True)


def _nothing_usable(index: cache.CacheIndex) -> str:
    lines = [f"  {key}: {reason}" for key, reason in index.left_out[:10]]
    more = len(index.left_out) - len(lines)
    if more > 0:
        lines.append(f"  ... and {more} more")
    return "\n".join(["no recording is usable for training:", *lines])
