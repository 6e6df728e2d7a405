"""Grain: from prepared crops to batches, the same ones for any number of threads or processes."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from fluxseg.config import AugmentConfig
from fluxseg.data.augment import augment_crop
from fluxseg.data.cache import CacheIndex, damaged_shard, find_damage
from fluxseg.data.crops import decode_crop
from fluxseg.data.parallel import worker_count

Batch = dict[str, np.ndarray]
"""image `[B, H, W, 1]` float32; label `[B, H, W]` uint8, 1 is neuron; valid `[B, H, W]` uint8, 0
where a pixel must not count; crop `[B]` int32, position in the list of crops, -1 for padding."""
MOST_THREADS = 8  # threads that read ahead if nobody says how many: a few of them feed any training
Transform = Callable[[Batch, np.random.Generator], Batch]  # a random change of one crop


class Crops(Protocol):
    """What batches are made of: random access to crops, as `CropSource` and simulators give it."""

    @property
    def tile(self) -> int:
        """Side of a crop, px."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int) -> Batch: ...


class CropSource:
    """Random access to chosen crops of a cache, as Grain wants it.

    Args:
        index: the cache.
        crops: (key, crop number) of the crops, in the order they are to be numbered.
    """

    def __init__(self, index: CacheIndex, crops: Sequence[tuple[str, int]]):
        entries = {entry.key: entry for entry in index.entries}
        shards = sorted({entries[key].shard for key, _ in crops})
        self.tile = index.tile
        self._index = index
        self._shards = shards
        self._records = _open_shards(index, shards)
        counts = [index.shards[shard][1] for shard in shards]
        self._first = np.cumsum([0, *counts])[:-1]
        first = dict(zip(shards, self._first.tolist(), strict=True))
        self._positions = [
            first[entries[key].shard] + entries[key].first + number for key, number in crops
        ]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        position = self._positions[item]
        try:
            image, label, valid = decode_crop(self._records[position], self._index.tile)
        except (RuntimeError, IndexError, ValueError) as error:
            shard = self._shards[int(np.searchsorted(self._first, position, "right")) - 1]
            raise damaged_shard(self._index, shard) from error
        return {"image": image, "label": label, "valid": valid, "crop": np.array(item, np.int32)}


def _open_shards(index: CacheIndex, shards: Sequence[str]) -> Any:
    if not shards:
        return ()
    paths = [str(index.directory / shard) for shard in shards]
    try:
        records = grain.sources.ArrayRecordDataSource(paths)
        if len(records) == sum(index.shards[shard][1] for shard in shards):
            return records
        cause: Exception | None = None
    except (RuntimeError, OSError, ValueError) as error:
        cause = error
    # Only the whole of them is known to be wrong.
    found = [(shard, what) for shard in shards if (what := find_damage(index, shard))]
    shard, what = found[0] if found else (shards[0], f"cannot be opened: {cause}")
    raise damaged_shard(index, shard, what) from cause


class _Rows(grain.MapDataset):
    """The rows of this process in every global batch; padding behind the last crop of an epoch.

    Global batch b holds the same crops in the same rows for any number of processes, and a
    process reads its own only.
    """

    def __init__(self, parent: Any, padding: Any, batch_size: int, process: tuple[int, int]):
        super().__init__(parent)
        self._padding = padding
        self._batch_size = batch_size
        self._rank, self._count = process
        self._local = batch_size // self._count

    def __len__(self) -> int:
        return -(-len(self._parent) // self._batch_size) * self._local

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, position = divmod(index, len(self))
        batch, row = divmod(position, self._local)
        place = batch * self._batch_size + self._rank * self._local + row
        if place >= len(self._parent):
            return self._padding
        return self._parent[epoch * len(self._parent) + place]


def _augment(config: AugmentConfig, crop: Batch, rng: np.random.Generator) -> Batch:
    image, label, valid = augment_crop(crop["image"], crop["label"], crop["valid"], rng, config)
    return {**crop, "image": image, "label": label, "valid": valid}


def _padding(tile: int) -> Batch:
    image, label = np.zeros((tile, tile, 1), np.float32), np.zeros((tile, tile), np.uint8)
    return {"image": image, "label": label, "valid": label, "crop": np.array(-1, np.int32)}


def steps_per_epoch(n_crops: int, batch_size: int) -> int:
    """Batches in which every crop is seen once; the last one may be padded."""
    return -(-n_crops // batch_size)


def make_batches(
    crops: Crops,
    batch_size: int,
    *,
    augment: AugmentConfig | Transform | None = None,
    seed: int | None = None,
    epochs: int | None = 1,
    threads: int = -1,
    process: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Wire up a Grain iterator over batches.

    Each epoch holds every crop exactly once; its last batch is filled up with padding whose
    `valid` is 0 and whose `crop` is -1. The content of a batch depends on the seed and its
    number only, not on threads or processes. `get_state` and `set_state` of the iterator save
    and restore the position exactly.

    Args:
        crops: what to read.
        batch_size: crops per global batch; a multiple of the number of processes.
        augment: random changes of each crop: settings, or a function of your own that takes and
            returns one crop (a `Batch` without B and the channel); None for none.
        seed: seed of order and augmentation; None keeps the order of `crops`.
        epochs: passes over the crops, each in another order; None for ever.
        threads: threads that read ahead; -1 for one per CPU core, at most `MOST_THREADS`; 0 reads
            in the calling thread.
        process: (rank, number) of processes that share the global batch.

    Returns:
        Iterator over `Batch` with the rows of this process: image `[B, H, W, 1]`, label and valid
        `[B, H, W]`, crop `[B]`.

    Raises:
        ValueError: if the batch cannot be divided among the processes, or augmentation has no seed.
    """
    if batch_size % process[1]:
        raise ValueError(f"batch size {batch_size} is no multiple of {process[1]} processes")
    dataset = grain.MapDataset.source(crops)
    if seed is not None:
        dataset = dataset.seed(seed).shuffle()
    if augment is not None:
        if seed is None:
            raise ValueError("augmentation needs a seed")
        if isinstance(augment, AugmentConfig):
            augment = functools.partial(_augment, augment)
        dataset = dataset.random_map(augment)
    dataset = dataset.map(lambda crop: crop | {"image": crop["image"][..., None]})
    dataset = _Rows(dataset, _padding(crops.tile), batch_size, process)
    dataset = dataset.batch(batch_size // process[1], drop_remainder=True).repeat(epochs)
    if threads < 0:
        # More than there are cores hinder each other: augmentation holds Python's lock in turns.
        threads = min(worker_count(0), MOST_THREADS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


def iterate_evaluation(
    crops: CropSource, batch_size: int, *, threads: int = -1, process: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Iterate once over all crops in their order, for evaluation; see `make_batches`."""
    if len(crops):
        yield from make_batches(crops, batch_size, threads=threads, process=process)
