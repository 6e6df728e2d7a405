"""Separate neurons: crowded fields, what must hold for any mask, and measures against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.morphology import reconstruction

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.labels import label_components, merge_labels
from fluxseg.inference.objects.counts import count_objects
from fluxseg.inference.objects.rois import find_rois, measure_rois
from fluxseg.inference.objects.split import lower_peaks, split_mask
from tests.data.fields import disc


def crowded_field(seed, size=256, count=200):
    """Masks of discs of which many are pressed into a neighbour, and none lies in another."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(20 * count):
        *centre, radius = rng.uniform((0, 0, 5), (size, size, 8))
        if all(np.hypot(*np.subtract(centre, c)) > 0.8 * (radius + r) for c, r in cells):
            cells.append((centre, radius))
    return np.stack([disc((size, size), *cell) for cell in cells[:count]])


def test_neurons_of_crowded_fields_come_apart():
    split, joined = [], []
    for seed in range(3):
        masks = crowded_field(seed)
        merged = masks.any(0)
        rois = find_rois(merged)
        split.append(count_objects(masks, rois.labels).scores()["object_f1"])
        parts = label_components(merged)
        joined.append(count_objects(masks, parts).scores()["object_f1"])
    assert min(split) >= 0.95
    assert np.mean(joined) < 0.8


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))),
    st.integers(1, 12),
    st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_every_large_component_is_shared_out_and_nothing_else(mask, min_area, smooth):
    labels = split_mask(mask, h=0.25, smooth=smooth, min_area=min_area)
    parts = label_components(mask)
    large = np.bincount(parts.ravel())[parts] >= min_area
    np.testing.assert_array_equal(labels > 0, mask & large)
    for number in np.unique(labels[labels > 0]):
        inside = labels == number
        assert inside.sum() >= min_area
        assert label_components(inside).max() == 1
        assert len(np.unique(parts[inside])) == 1


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
                  elements=st.integers(0, 5)), st.sampled_from([0.5, 1, 2, 7]))  # fmt: skip
def test_lowered_peaks_are_those_of_the_whole_image(distance, h):
    whole = reconstruction(distance - h, distance)
    np.testing.assert_array_equal(lower_peaks(distance, h), whole)


def test_equal_halves_below_the_least_area_stay_one_cell():
    mask = np.zeros((12, 24), bool)
    mask[3:8, 3:8] = mask[3:8, 9:14] = True
    mask[5, 8] = True
    assert split_mask(mask, h=0.25, smooth=0, min_area=20).max() == 2
    whole = split_mask(mask, h=0.25, smooth=0, min_area=30)
    assert np.bincount(whole[whole > 0]).max() == 51


@pytest.mark.parametrize("nucleus", [0.5, 2.0, 4.0])
def test_the_hole_of_a_ring_is_filled(nucleus):
    shape = (32, 32)
    ring = disc(shape, (16.2, 15.7), 7.5) & ~disc(shape, (16.2, 15.7), nucleus)
    assert find_rois(ring).area.tolist() == [disc(shape, (16.2, 15.7), 7.5).sum()]


def test_a_gap_between_cells_is_no_hole():
    shape = (48, 48)
    centres = [(16, 16), (16, 31), (31, 16), (31, 31)]
    mask = np.any([disc(shape, c, 7.9) for c in centres], axis=0)
    assert not mask[23:25, 23:25].any()
    rois = find_rois(mask)
    assert len(rois) == 4
    np.testing.assert_array_equal(rois.labels > 0, mask)


def test_areas_in_px_and_um():
    shape = (64, 64)
    cells = [disc(shape, c, r) for c, r in (((3, 30), 6), ((30, 12), 6), ((40, 44), 12))]
    probability = np.any(cells, axis=0).astype(np.float32)
    areas = sorted(int(cell.sum()) for cell in cells)
    assert sorted(find_rois(probability).area) == areas
    assert sorted(find_rois(probability, min_area=areas[1]).area) == areas[1:]
    rois = find_rois(probability, um_per_px=0.5, min_area=areas[2] * 0.25)
    assert rois.area.tolist() == [areas[2]]
    np.testing.assert_allclose(rois.area_um2, [areas[2] * 0.25])
    assert find_rois(probability).area_um2 is None


def test_empty_full_and_undefined():
    assert len(find_rois(np.zeros((9, 7), np.float32))) == 0
    full = find_rois(np.ones((30, 20), np.float32))
    assert full.area.tolist() == [600]
    assert full.quality.tolist() == [0.5]
    assert len(find_rois(np.full((9, 9), np.nan))) == 0
    probability = disc((40, 40), (20, 20), 8).astype(float)
    probability[20:, 24:] = np.nan
    rois = find_rois(probability)
    assert rois.area.tolist() == [np.nansum(probability)]
    assert not rois.labels[np.isnan(probability)].any()
    assert rois.probability.tolist() == rois.quality.tolist() == [1.0]


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_measures_are_those_of_loops(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((14, 17), np.int64)
    for number in range(1, 5):
        row, column = rng.integers(0, 11, 2)
        labels[row : row + 3, column : column + 4] = number
    found = np.unique(labels)
    labels = np.searchsorted(found, labels)
    probability = rng.random(labels.shape)
    probability[rng.random(labels.shape) < 0.1] = np.nan
    rois = measure_rois(labels, probability, threshold=0.5, rim=2.0)
    places = np.argwhere(labels > 0)
    for number in range(1, labels.max() + 1):
        inside = np.argwhere(labels == number)
        values = probability[labels == number]
        rim = []
        for place in np.argwhere(labels == 0):
            away = ((places - place) ** 2).sum(1)
            mine = ((inside - place) ** 2).sum(1).min()
            if mine <= 4:
                owners = {int(labels[tuple(p)]) for p in places[away == away.min()]}
                if len(owners) > 1:
                    return  # a tie: either owner is right
                rim += [probability[tuple(place)]] if owners == {number} else []
        rim = [value for value in rim if np.isfinite(value)]
        mean = np.nanmean(values) if np.isfinite(values).any() else 0.0
        assert rois.area[number - 1] == len(inside)
        np.testing.assert_allclose(rois.centroid[number - 1], inside.mean(0))
        np.testing.assert_allclose(rois.probability[number - 1], mean)
        expected = np.clip(mean - (np.mean(rim) if rim else 0.5), 0, 1)
        np.testing.assert_allclose(rois.quality[number - 1], expected)


def test_more_objects_than_16_bits_can_number_have_wide_labels():
    specks = np.zeros((520, 520), np.float32)
    specks[::2, ::2] = 1
    labels = find_rois(specks, min_area=0).labels
    assert (labels.dtype, labels.max()) == (np.uint32, 67_600)


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.array([["a"]]), "real numbers"),
        (np.array([[3.5, -2.0]]), "softmax"),
        (np.array([[255, 0]], np.uint8), "255"),
    ],
)
def test_what_is_no_probability_is_refused(probability, words):
    with pytest.raises(RecordingError, match=words):
        find_rois(probability)


@pytest.mark.parametrize(
    "setting",
    [
        {"threshold": 0.0}, {"threshold": 1.1}, {"um_per_px": 0.0}, {"min_area": -1.0},
        {"min_area": float("nan")}, {"min_confidence": 1.5},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ConfigError, match=list(setting)[-1]):
        find_rois(np.ones((4, 4)), **setting)


def test_the_diameter_of_the_cells_sets_what_is_noise():
    probability = np.zeros((200, 200), np.float32)
    rows, columns = np.mgrid[:200, :200]
    for row, diameter in ((40, 12), (100, 20), (150, 30)):
        probability[np.hypot(rows - row, columns - 100) < diameter / 2] = 1
    found = {d: len(find_rois(probability, diameter=d)) for d in (10, 30, 45, 60)}
    assert found == {10: 3, 30: 2, 45: 1, 60: 0}
    assert len(find_rois(probability, diameter=60, min_area=50)) == 3
    # Areas stay those of the pixel size that is known.
    rois = find_rois(probability, diameter=20, um_per_px=0.5)
    np.testing.assert_allclose(rois.area_um2, rois.area / 4)
    with pytest.raises(ConfigError, match="diameter"):
        find_rois(probability, diameter=0.5)


def test_rois_become_a_recording():
    shape = (40, 60)
    probability = np.where(disc(shape, (20, 12), 7) | disc(shape, (20, 40), 7), 0.9, 0.0)
    rois = find_rois(probability, um_per_px=0.5)
    recording = rois.to_recording(probability, "field")
    np.testing.assert_array_equal(merge_labels(recording.masks), rois.labels)
    np.testing.assert_array_equal(recording.masks, rois.masks())
    assert recording.metadata["um_per_px"] == 0.5
    np.testing.assert_allclose(recording.metadata["roi_quality"], rois.confidence, atol=1e-4)
