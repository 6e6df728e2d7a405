import dataclasses
import time

import numpy as np
import pytest

from fluxseg.config import DataConfig
from fluxseg.data.cache import (
    cache_difference,
    common_pixel_size,
    read_crops,
    read_index,
    source_stamps,
)
from fluxseg.data.crops import create_crops
from fluxseg.data.prepare import prepare_cache
from fluxseg.data.recording import Recording
from fluxseg.data.tiles import join_grid
from fluxseg.data.transforms import (
    crop_quarters,
    dequantize,
    merge_masks,
    normalize_image,
    quantize,
)
from fluxseg.errors import FluxsegError, RecordingError

CONFIG = DataConfig(tile=32, workers=1)


@dataclasses.dataclass(frozen=True)
class Cells:
    """Recordings of random squares; some keys are unusable on purpose."""

    count: int = 10
    shape: tuple[int, int] = (48, 70)
    bad: tuple[int, ...] = ()
    version: int = 0
    slow: float = 0.0

    def keys(self):
        return [f"r{number:03d}" for number in range(self.count)]

    def read(self, key):
        time.sleep(self.slow)
        number = int(key[1:])
        if number in self.bad:
            raise RecordingError("max_projection", "is missing")
        rng = np.random.default_rng((number, self.version))
        masks = np.zeros((3, *self.shape), bool)
        for mask in masks:
            row, column = rng.integers(0, 36, 2)
            mask[row : row + 8, column : column + 8] = True
        image = 900 * masks.any(0) + rng.integers(0, 300, self.shape)
        image, scale = image.astype(np.uint16), {"um_per_px": 0.8}
        return Recording(key, image, masks, ("a", "b", "c"), f"g{number // 2}", scale)

    def stamp(self, key):
        return f"{key}-{self.version}"

    def describe(self):
        return {"kind": "cells"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_cache(Cells(), tmp_path_factory.mktemp("cache"), CONFIG)


def test_crops_give_the_recording_back(prepared):
    assert [entry.key for entry in prepared.entries] == Cells().keys()
    for entry in prepared.entries:
        recording = Cells().read(entry.key)
        image, label, valid = (
            join_grid(np.stack(part), entry.shape)
            for part in zip(*read_crops(prepared, entry), strict=True)
        )
        expected = normalize_image(recording.image, CONFIG.low_percentile, CONFIG.high_percentile)
        np.testing.assert_array_equal(image, dequantize(quantize(expected)))
        np.testing.assert_array_equal(label, merge_masks(recording.masks))
        assert valid.all()
        assert sum(entry.neuron_pixels) == merge_masks(recording.masks).sum()
        assert sum(entry.valid_pixels) == recording.image.size


def test_what_is_prepared_are_the_quarters_of_the_normalised_recording(tmp_path):
    cells = Cells(1, shape=(64, 64))
    index = prepare_cache(cells, tmp_path, CONFIG)
    recording = cells.read("r000")
    image, label, _ = map(np.stack, zip(*read_crops(index, index.entries[0]), strict=True))
    normalized = normalize_image(recording.image, CONFIG.low_percentile, CONFIG.high_percentile)
    np.testing.assert_array_equal(image, dequantize(quantize(crop_quarters(normalized))))
    np.testing.assert_array_equal(label, crop_quarters(merge_masks(recording.masks)))


def test_pixels_that_are_not_finite_are_not_valid():
    image = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    image[3, 4] = np.nan
    image[20, 39] = np.inf
    settings = {"tile": 32, "low_percentile": 1.0, "high_percentile": 99.5}
    valid = join_grid(create_crops(image, np.zeros((40, 40), bool), settings)[2], (40, 40))
    np.testing.assert_array_equal(valid, np.isfinite(image))


def test_processes_make_the_same_cache(prepared, tmp_path):
    done = []
    config = dataclasses.replace(CONFIG, workers=2)
    index = prepare_cache(Cells(), tmp_path, config, lambda n, total: done.append((n, total)))
    assert dataclasses.replace(index, directory=prepared.directory) == prepared
    assert done == [(8, 10), (10, 10)]
    for name in index.shards:
        assert (tmp_path / name).stat().st_size == (prepared.directory / name).stat().st_size


def test_a_cache_knows_what_it_was_made_from(prepared):
    index = read_index(prepared.directory)
    assert index == prepared

    def difference(source=Cells(), **changes):
        config = dataclasses.replace(CONFIG, **changes)
        return cache_difference(index, source_stamps(source), config)

    assert difference() == ""
    assert difference(workers=7, threads=9, split_seed=4) == ""
    assert difference(tile=64) == "settings changed: tile: 32 -> 64"
    assert "high_percentile" in difference(high_percentile=98.0)
    assert difference(Cells(12)) == "recordings: 2 new"
    assert difference(Cells(9)) == "recordings: 1 gone"
    assert difference(Cells(version=1)) == "recordings: 10 changed"


def test_what_is_left_out_is_listed_with_its_reason(tmp_path):
    index = prepare_cache(Cells(bad=(2, 5)), tmp_path, CONFIG)
    assert len(index.entries) == 8
    assert [key for key, _ in index.left_out] == ["r002", "r005"]
    assert "max_projection" in index.left_out[0][1]
    with pytest.raises(FluxsegError, match=r"(?s)no recording is usable.*r000.*max_projection"):
        prepare_cache(Cells(2, bad=(0, 1)), tmp_path / "none", CONFIG)


def test_finished_shards_are_used_again_and_stale_ones_removed(tmp_path):
    prepare_cache(Cells(20), tmp_path, CONFIG)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.array_record")}
    index = prepare_cache(Cells(10), tmp_path, CONFIG)
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.array_record")}
    assert set(after) == set(index.shards)
    kept = set(before) & set(after)
    assert len(kept) == 1
    assert all(before[name] == after[name] for name in kept)
    assert len(list(tmp_path.iterdir())) == 2 * len(index.shards) + 1


def test_a_pixel_size_is_common_only_if_all_state_about_the_same(tmp_path):
    entries = prepare_cache(Cells(3), tmp_path, CONFIG).entries
    assert common_pixel_size(entries) == 0.8

    def sized(*sizes):
        return [dataclasses.replace(entries[0], um_per_px=size) for size in sizes]

    assert common_pixel_size(sized(0.78, 0.8, 0.81)) == 0.8
    assert common_pixel_size(sized(0.78, 0.83)) is None
    assert common_pixel_size(sized(0.78, None)) is None
    assert common_pixel_size([]) is None
