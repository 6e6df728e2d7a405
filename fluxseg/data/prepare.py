"""Prepare recordings for training: their crops as shards on disk, in parallel processes."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.config import DataConfig
from fluxseg.data.cache import (
    INDEX_NAME,
    CacheIndex,
    cache_difference,
    entry_from_json,
    find_damage,
    read_index_alone,
    source_stamps,
    write_index,
)
from fluxseg.data.crops import crop_settings
from fluxseg.data.duplicates import Entry, resolve_duplicates
from fluxseg.data.fingerprint import decode_fingerprint
from fluxseg.data.parallel import map_in_processes, worker_count_of_process
from fluxseg.data.recording import Source
from fluxseg.data.shards import ShardTask, read_sidecar, write_shard
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.io.files import TEMPORARY
from fluxseg.processes import (
    find_disagreement,
    gather_values,
    run_in_all,
    run_in_first,
    share_of,
    wait_until_seen,
)

logger = logging.getLogger(__name__)

RECORDINGS_PER_SHARD = 8


def prepare_cache(
    source: Source,
    directory: str | Path,
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> CacheIndex:
    """Prepare the crops of all recordings, in parallel processes with one recording in each.

    In a job of several processes (`fluxseg.processes`) each calls this, and makes its part of
    the shards in a folder that all see; the first then writes the index.

    A shard that an earlier, interrupted call has finished is not made again. The index is
    written last, so a folder with an index is complete.

    Args:
        source: where the recordings come from.
        directory: folder of the cache; it is created.
        config: crop size, magnification, normalisation and number of processes.
        progress: called with (recordings done, recordings in all), of this process's part.

    Returns:
        The index of the finished cache.

    Raises:
        WorkdirError: if the folder cannot be written.
        FluxsegError: if no recording is usable.
        ProcessError: if another process of the job has failed.
    """
    directory = Path(directory)
    stamps = run_in_all(lambda: source_stamps(source), "listing the recordings")
    tasks = _plan_shards(source, directory, crop_settings(config), stamps)
    _check_agreement(tasks)
    workers = worker_count_of_process(config.workers)
    run_in_all(lambda: _make_directory(directory), "making the folder of the crops")
    run_in_all(lambda: _make_shards(share_of(tasks), workers, progress), "its part of the crops")
    index = run_in_first(
        lambda: _assemble(source, directory, config, tasks, stamps), "the index of the crops"
    )
    return run_in_all(lambda: index or _see_index(directory, tasks), "reading the index")


def repair_cache(
    source: Source,
    directory: str | Path,
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CacheIndex, tuple[str, ...]]:
    """Read every shard of a cache, and make those again that are damaged or missing.

    In a job of several processes each calls this.

    Args:
        source: where its recordings come from.
        directory: folder of the cache.
        config: number of processes; all that the crops depend on is taken from the index, if
            there is one.
        progress: see `prepare_cache`.

    Returns:
        The index of the whole cache, and the file names of the shards that were made again.

    Raises:
        WorkdirError: if the recordings are no longer those that the crops were made from, or see
            `prepare_cache`.
    """
    directory = Path(directory)
    index = run_in_all(lambda: _read_index_to_repair(directory), "reading the index")
    if index is None:
        return prepare_cache(source, directory, config, progress), ()
    settings = index.settings
    config = dataclasses.replace(
        config,
        tile=settings["tile"],
        low_percentile=settings["low_percentile"],
        high_percentile=settings["high_percentile"],
        diameter_px=settings.get("diameter_px", 0.0),
    )
    if difference := cache_difference(index, source_stamps(source), config):
        raise WorkdirError(
            f"{directory}: cannot be repaired, as it does not fit what it was made from "
            f"({difference}); prepare it without --repair"
        )
    workers = worker_count_of_process(config.workers)
    mine = [(index, name) for name in share_of(sorted(index.shards))]
    damaged = run_in_all(lambda: _remove_damaged(mine, workers), "its part of the check")
    everyone = gather_values(damaged, "the damaged shards")
    names = tuple(sorted(name for names in everyone for name in names))
    return prepare_cache(source, directory, config, progress), names


def _read_index_to_repair(directory: Path) -> CacheIndex | None:
    try:
        return read_index_alone(directory)
    except WorkdirError as error:
        logger.warning("%s", error)
        return None


def _remove_damaged(items: Sequence[tuple[CacheIndex, str]], workers: int) -> list[str]:
    found: list[str] = []
    for (index, name), what in map_in_processes(_find_damage, items, workers):
        if what:
            logger.warning("%s: %s; it is made again", index.directory / name, what)
            shard = index.directory / name
            try:
                shard.unlink(missing_ok=True)
                shard.with_suffix(".json").unlink(missing_ok=True)
            except OSError as error:
                raise WorkdirError(
                    f"{shard}: cannot be deleted: {error.strerror or error}"
                ) from error
            found.append(name)
    return found


def _find_damage(item: tuple[CacheIndex, str]) -> str:
    return find_damage(*item)


def _plan_shards(
    source: Source, directory: Path, settings: Mapping[str, Any], stamps: Mapping[str, str]
) -> list[ShardTask]:
    items = list(stamps.items())
    return [
        ShardTask(source, str(directory), settings, tuple(items[i : i + RECORDINGS_PER_SHARD]))
        for i in range(0, len(items), RECORDINGS_PER_SHARD)
    ]


def _check_agreement(tasks: Sequence[ShardTask]) -> None:
    """Raise in every process if they are about to make different caches."""
    count = sum(len(task.stamps) for task in tasks)
    found = find_disagreement([task.name for task in tasks], "listing the recordings", count)
    if found:
        raise WorkdirError(
            f"the processes of this job see different recordings or settings: process 0 sees "
            f"{found[0]} recordings, process {found[1]} {found[2]}, with other times of "
            "change or settings; all must read one folder, which nothing writes meanwhile"
        )


def _make_shards(
    tasks: Sequence[ShardTask], workers: int, progress: Callable[[int, int], None] | None
) -> None:
    total = sum(len(task.stamps) for task in tasks)
    missing = [task for task in tasks if read_sidecar(task) is None]
    done = total - sum(len(task.stamps) for task in missing)
    if done and progress:
        progress(done, total)
    for task, _ in map_in_processes(write_shard, missing, workers):
        done += len(task.stamps)
        if progress:
            progress(done, total)


def _assemble(
    source: Source,
    directory: Path,
    config: DataConfig,
    tasks: Sequence[ShardTask],
    stamps: Mapping[str, str],
) -> CacheIndex:
    """Write the index of finished shards, and remove what belongs to others."""
    contents = {task.name: wait_until_seen(functools.partial(read_sidecar, task)) for task in tasks}
    for task in tasks:
        if contents[task.name] is None:
            raise WorkdirError(
                f"{task.shard}: another process has made it, but it cannot be seen here; the "
                "folder must be one that all processes share"
            )
    index = _create_index(source, directory, config, tasks, stamps, contents)
    if not index.entries:
        raise FluxsegError(_nothing_usable(index))
    write_index(index)
    _remove_stale(index.directory, set(contents))
    return index


def _see_index(directory: Path, tasks: Sequence[ShardTask]) -> CacheIndex:
    """Read the index that the first process has just written."""
    names = {task.shard.name for task in tasks}

    def read() -> CacheIndex | None:
        index = read_index_alone(directory)
        return index if index is not None and set(index.shards) == names else None

    index = wait_until_seen(read)
    if index is None:
        raise WorkdirError(
            f"{directory}: the index that the first process has written cannot be seen here; the "
            "folder must be one that all processes share"
        )
    return index


def _create_index(
    source: Source,
    directory: Path,
    config: DataConfig,
    tasks: Sequence[ShardTask],
    stamps: Mapping[str, str],
    contents: Mapping[str, Any],
) -> CacheIndex:
    entries = [
        entry_from_json(values) for task in tasks for values in contents[task.name]["entries"]
    ]
    left_out = [(key, reason) for task in tasks for key, reason in contents[task.name]["left_out"]]
    sizes = {
        task.shard.name: (contents[task.name]["size"], contents[task.name]["crops"])
        for task in tasks
    }
    resolved = resolve_duplicates(
        [Entry(e.key, e.id, e.group, e.digest, decode_fingerprint(e.fingerprint)) for e in entries]
    )
    kept = [entry for entry in entries if entry.key not in resolved.left_out]
    return CacheIndex(
        directory=directory,
        settings=crop_settings(config),
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
        shards=sizes,
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
