"""From a config to the crops, the split and the class weights of a run, and their records."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import Config, DataConfig, TrainConfig
from fluxseg.data import splits
from fluxseg.data.cache import (
    CacheIndex,
    cache_difference,
    read_index,
    read_index_alone,
    source_stamps,
)
from fluxseg.data.prepare import prepare_cache
from fluxseg.data.recording import NO_GROUP, Source
from fluxseg.errors import WorkdirError
from fluxseg.formats.sources import format_unused, open_source, unused_files
from fluxseg.io.files import read_json, write_json
from fluxseg.io.progress import Progressed
from fluxseg.model.losses import class_weights
from fluxseg.processes import gather_values, run_in_all, run_in_first, wait_until_seen

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of a run."""

    index: CacheIndex  # the prepared crops
    manifest: splits.Manifest  # which of them belong to which split
    summary: dict[str, Any]  # what `data.json` of the workdir says

    def crops(self, split: str) -> list[tuple[str, int]]:
        """List (key, crop number) of a split."""
        return self.manifest.crops(split)

    def epoch_crops(self, config: TrainConfig) -> list[tuple[str, int]]:
        """List the training crops, each as often as an epoch shows it."""
        crops = self.crops("train")
        return crops * config.repeats(len(crops))

    def pixel_counts(self, split: str) -> tuple[int, int]:
        """Count (neuron, background) pixels over the crops of a split."""
        entries = {entry.key: entry for entry in self.index.entries}
        crops = self.crops(split)
        neuron = sum(entries[key].neuron_pixels[number] for key, number in crops)
        valid = sum(entries[key].valid_pixels[number] for key, number in crops)
        return neuron, valid - neuron

    def ids(self) -> dict[str, tuple[str, str]]:
        """Return key -> (id, group)."""
        return {entry.key: (entry.id, entry.group) for entry in self.index.entries}


def prepare_dataset(
    config: Config, workdir: str | Path, progress: Progressed | None = None
) -> Dataset:
    """Make or reuse the cache, split it, audit the split, and record all that in the workdir.

    Args:
        config: the run's config.
        workdir: gets `split.json` and `data.json`; the cache lies in it unless configured.
        progress: called with (recordings prepared, recordings in all).

    Raises:
        FluxsegError: if there is no usable recording, or the split cannot be made.
    """
    workdir = Path(workdir)
    source = open_source(config)
    cache = Path(config.data.cache) if config.data.cache else workdir / "cache"
    index = open_cache(source, cache, config.data, progress)
    manifest, unnamed = _split(config, index)
    left_out = [*index.left_out, *((key, "not in the manifest") for key in unnamed)]
    dataset = Dataset(index, manifest, {})
    summary = {
        "source": dict(index.source),
        "n_files": len(index.stamps),
        "n_used": len(manifest.items),
        "left_out": [{"key": key, "reason": reason} for key, reason in left_out],
        "remarks": _list_remarks(index),
        "split_by": manifest.split_by,
        "leaks": manifest.split_by != "group",
        "split_hash": manifest.content_hash,
        "splits": {split: _describe_split(dataset, split) for split in splits.SPLITS},
        "moved": list(manifest.moved),
        "straddling": splits.straddling_pairs(manifest, index.near_duplicates),
    }

    def write() -> None:
        write_json(workdir / "split.json", manifest.to_json())
        write_json(workdir / "data.json", summary)

    run_in_first(write, "writing split.json and data.json")
    _log_summary(summary)
    for line in format_unused(unused_files(source)):
        logger.info("  %s", line)
    return dataclasses.replace(dataset, summary=summary)


def open_cache(
    source: Source, directory: Path, config: DataConfig, progress: Progressed | None = None
) -> CacheIndex:
    """Reuse a cache that fits the source and the settings, else make it; say which in the log."""
    stamps = source_stamps(source)
    index = run_in_all(lambda: read_index(directory), "reading the index of the crops")
    difference = cache_difference(index, stamps, config) if index else "there are none"
    # If the folder is stale for one of several processes, it is made anew for all.
    if not any(gather_values(difference, "comparing the crops")) and index:
        logger.info("Using the crops prepared in %s", directory)
        return index
    if index is not None:
        logger.info("The crops in %s are stale (%s); preparing them again", directory, difference)
    else:
        logger.info("Preparing the crops of %d recordings in %s", len(stamps), directory)
    made = run_in_first(
        lambda: prepare_cache(source, directory, config, progress), "preparing the crops"
    )
    return run_in_all(lambda: made or _see_cache(directory, stamps, config), "reading the index")


def _see_cache(directory: Path, stamps: Mapping[str, str], config: DataConfig) -> CacheIndex:
    """Read the index that the first process has just written."""

    def read() -> CacheIndex | None:
        index = read_index_alone(directory)
        return None if index is None or cache_difference(index, stamps, config) else index

    index = wait_until_seen(read)
    if index is None:
        raise WorkdirError(
            f"{directory}: the crops that the first process has prepared are not those of the "
            "recordings and settings of this one; all processes must see the same folders"
        )
    return index


def _split(config: Config, index: CacheIndex) -> tuple[splits.Manifest, list[str]]:
    items = [entry.split_item for entry in index.entries]
    data = config.data
    if data.manifest:
        manifest = splits.manifest_from_json(read_json(data.manifest), data.manifest)
        return splits.apply_manifest(manifest, items, data.manifest)
    shares = (data.train_fraction, data.val_fraction)
    return splits.create_manifest(items, data.split_by, *shares, data.split_seed), []


def _describe_split(dataset: Dataset, split: str) -> dict[str, Any]:
    crops = dataset.crops(split)
    keys = {key for key, _ in crops}
    neuron, background = dataset.pixel_counts(split)
    return {
        "recordings": len(keys),
        "groups": len({dataset.manifest.items[key]["group"] for key in keys}),
        "crops": len(crops),
        "neuron_share": neuron / (neuron + background) if crops else None,
    }


def _list_remarks(index: CacheIndex) -> list[dict[str, str]]:
    """List the remarks on recordings; what most of them share comes once, with their number."""
    rows = [{"key": e.key, "remark": r} for e in index.entries for r in e.remarks if r != NO_GROUP]
    alone = sum(NO_GROUP in entry.remarks for entry in index.entries)
    return [*rows, {"key": f"{alone} recordings", "remark": NO_GROUP}] if alone else rows


def _log_summary(summary: dict[str, Any]) -> None:
    left_out: Sequence[dict[str, str]] = summary["left_out"]
    further = f"; {len(left_out)} left out (listed in data.json):" if left_out else ""
    logger.info("%(n_used)d of %(n_files)d recordings are used" + further, summary)
    for row in left_out[:10]:
        logger.info("  left out: %s: %s", row["key"], row["reason"])
    alike: dict[str, list[str]] = {}
    for row in summary["remarks"]:
        alike.setdefault(row["remark"], []).append(row["key"])
    for remark, keys in list(alike.items())[:10]:
        further = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        logger.info("  remark: %s%s: %s", keys[0], further, remark)
    for name, split in summary["splits"].items():
        if split["crops"]:
            share = f"{100 * split['neuron_share']:.1f} % neuron pixels"
            counts = "{recordings:4} recordings, {groups:4} groups, {crops:5} crops"
            logger.info("  %-5s %s, %s", name, counts.format(**split), share)
    if summary["leaks"]:
        logger.warning(
            "The split is per %(split_by)s: images of the same tissue are in training and in "
            "test, so the scores will be too good. Use data.split_by=group for honest ones.",
            summary,
        )
    if summary["moved"]:
        logger.info("  moved so that no split is empty: %s", ", ".join(summary["moved"]))
    for pair in summary["straddling"][:10]:
        logger.warning(
            "%(first)s (%(where)s) and %(second)s show the same field of view (similarity "
            "%(similarity).2f) in different splits; give them the same group",
            pair | {"where": " and ".join(pair["splits"])},
        )


def create_class_weights(config: Config, dataset: Dataset) -> np.ndarray:
    """Weights `[2]` of background and neuron, counted over the training crops."""
    counts = dataset.pixel_counts("train")
    if not counts[0]:
        logger.warning("the training masks hold no neuron pixel: there is nothing to learn")
    return class_weights(config.loss, *counts)
