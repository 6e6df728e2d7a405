"""Crops of recordings that are brought to one size of cells."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from fluxseg.config import DataConfig
from fluxseg.data.cache import cache_difference, read_crops, read_index, source_stamps
from fluxseg.data.crops import create_crops, create_label, crop_settings
from fluxseg.data.fingerprint import digest
from fluxseg.data.prepare import prepare_cache, repair_cache
from fluxseg.data.recording import Recording
from fluxseg.data.resample import median_diameter, resample_image
from fluxseg.data.tiles import join_grid
from fluxseg.data.transforms import dequantize, merge_masks, normalize_image, quantize
from tests.data.fields import disc_masks

AS_THEY_ARE = DataConfig(tile=32, workers=1)
RESAMPLED = dataclasses.replace(AS_THEY_ARE, diameter_px=10.0)
DIAMETERS = {"large": 24.0, "medium": 11.0, "small": 5.0}


@dataclasses.dataclass(frozen=True)
class Discs:
    """Fields of 96 x 120 px with discs of several diameters, one field without any."""

    def keys(self):
        return [*DIAMETERS, "none"]

    def read(self, key):
        rng = np.random.default_rng(len(key))
        masks = np.zeros((1, 96, 120), bool)
        if key in DIAMETERS:
            masks = np.pad(disc_masks(DIAMETERS[key], side=96)[0], ((0, 0), (0, 0), (12, 12)))
        image = (500 * masks.any(0) + rng.integers(0, 200, (96, 120))).astype(np.uint16)
        names = tuple(map(str, range(len(masks))))
        return Recording(key, image, masks, names, key, {"um_per_px": 0.8})

    def stamp(self, key):
        return key

    def describe(self):
        return {"kind": "discs"}


def whole(index, entry):
    parts = zip(*read_crops(index, entry), strict=True)
    return [join_grid(np.stack(part), entry.shape) for part in parts]


@pytest.fixture(scope="module")
def resampled(tmp_path_factory):
    return prepare_cache(Discs(), tmp_path_factory.mktemp("resampled"), RESAMPLED)


def test_cells_become_as_large_as_wanted_and_pixels_as_much_smaller(resampled):
    entries = {entry.key: entry for entry in resampled.entries}
    for key in ("large", "small"):
        recording = Discs().read(key)
        image, label, valid = whole(resampled, entries[key])
        parts, count = ndimage.label(label)
        assert count == len(recording.masks)
        sizes = np.stack([parts == number + 1 for number in range(count)])
        assert median_diameter(sizes) == pytest.approx(10, rel=0.03)
        zoom = 10 / median_diameter(recording.masks)
        assert entries[key].shape == (round(96 * zoom), round(120 * zoom))
        assert entries[key].um_per_px == pytest.approx(0.8 / zoom)
        assert entries[key].n_rois == len(recording.masks)
        assert entries[key].digest == digest(recording.image, merge_masks(recording.masks))
        normal = normalize_image(recording.image, RESAMPLED.low_percentile)
        expected = resample_image(normal, entries[key].shape)
        np.testing.assert_array_equal(image, dequantize(quantize(expected)))
        assert valid.all()
        assert sum(entries[key].neuron_pixels) == label.sum()


def test_cells_of_about_that_size_or_without_any_stay_as_they_are(resampled, tmp_path):
    plain = prepare_cache(Discs(), tmp_path, AS_THEY_ARE)
    for key in ("medium", "none"):
        one, other = (
            next(entry for entry in index.entries if entry.key == key)
            for index in (plain, resampled)
        )
        assert (one.shape, one.um_per_px) == (other.shape, other.um_per_px) == ((96, 120), 0.8)
        for before, after in zip(whole(plain, one), whole(resampled, other), strict=True):
            np.testing.assert_array_equal(before, after)
        extra = set(other.remarks) - set(one.remarks)
        assert any("no ROI tells the size" in text for text in extra) == (key == "none")


def test_the_setting_is_noted_only_where_it_is_on(resampled, tmp_path):
    assert set(crop_settings(AS_THEY_ARE)) == {
        "version", "tile", "low_percentile", "high_percentile",
    }  # fmt: skip
    stamps = source_stamps(Discs())
    assert not cache_difference(resampled, stamps, RESAMPLED)
    assert "diameter_px: 10.0 -> None" in cache_difference(resampled, stamps, AS_THEY_ARE)
    other = dataclasses.replace(RESAMPLED, diameter_px=12.0)
    assert "diameter_px: 10.0 -> 12.0" in cache_difference(resampled, stamps, other)
    first = prepare_cache(Discs(), tmp_path, AS_THEY_ARE)
    assert "diameter_px: None -> 10.0" in cache_difference(first, stamps, RESAMPLED)
    again = prepare_cache(Discs(), tmp_path, RESAMPLED)
    assert set(first.shards).isdisjoint(again.shards)
    assert dataclasses.replace(again, directory=resampled.directory) == resampled
    assert read_index(tmp_path) == again
    next(tmp_path.glob("*.array_record")).write_bytes(b"damaged")
    repaired, made = repair_cache(Discs(), tmp_path, AS_THEY_ARE)
    assert (repaired, len(made)) == (again, 1)


def test_nothing_is_resampled_more_than_four_times():
    masks = np.zeros((1, 400, 300), bool)
    masks[0, 100:300, 50:250] = True
    label, zoom, remarks = create_label(masks, merge_masks(masks), crop_settings(RESAMPLED))
    assert zoom == 0.25
    assert label.shape == (100, 75)
    assert "226 px become 56.4 px" in remarks[0]


def test_pixels_that_are_not_finite_are_not_valid_at_any_magnification():
    image = np.random.default_rng(0).random((60, 60)).astype(np.float32)
    image[:, :20] = np.nan
    label = np.zeros((30, 30), bool)
    found, _, valid = create_crops(image, label, crop_settings(RESAMPLED))
    np.testing.assert_array_equal(join_grid(valid, (30, 30)), np.arange(30) >= [[10]] * 30)
    assert found.shape == (1, 32, 32)
