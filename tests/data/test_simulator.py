import dataclasses
import pickle

import numpy as np
import pytest

from fluxseg.config import SimulatorConfig
from fluxseg.data.background import (
    draw_illumination,
    draw_vessels,
    enlarge,
    overlap,
    smooth_noise,
)
from fluxseg.data.simulator import (
    MOTION_BORDER_UM,
    UM_PER_PX,
    SimulatedSource,
    detect,
    simulate_recording,
    simulate_session,
)
from fluxseg.data.tissue import create_cells, draw_cells, simulate_field
from fluxseg.data.transforms import merge_masks, normalize_image

CONFIG = SimulatorConfig(containers=4, sessions=2)


@pytest.fixture(scope="module")
def recordings():
    return [simulate_recording(CONFIG, index) for index in range(8)]


def best_correlation(first, second, reach=24):
    """Largest correlation of two images over shifts."""
    spectra = []
    for image in (first, second):
        image = normalize_image(image).astype(float)
        spectra.append(np.fft.rfft2((image - image.mean()) / image.std()))
    surface = np.fft.irfft2(spectra[0] * spectra[1].conj()) / first.size
    shifts = np.arange(-reach, reach + 1)
    return surface[np.ix_(shifts, shifts)].max()


def test_a_recording_depends_on_seed_and_index_alone(recordings):
    again = simulate_recording(SimulatorConfig(containers=99, sessions=2), 3)
    np.testing.assert_array_equal(again.image, recordings[3].image)
    np.testing.assert_array_equal(again.masks, recordings[3].masks)
    other = simulate_recording(dataclasses.replace(CONFIG, seed=1), 3)
    assert not np.array_equal(other.image, recordings[3].image)


def test_sessions_of_a_container_show_the_same_tissue_and_others_do_not(recordings):
    same, others = [], []
    for i, first in enumerate(recordings):
        for second in recordings[i + 1 :]:
            pairs = same if first.group == second.group else others
            pairs.append(best_correlation(first.image, second.image))
    assert len(same) == 4
    assert min(same) > 2 * max(others)
    for first, second in zip(recordings[::2], recordings[1::2], strict=True):
        assert not np.array_equal(first.image, second.image)


def test_labels_have_the_statistics_they_should(recordings):
    areas, shares, shared = [], [], []
    for recording in recordings:
        assert recording.image.dtype == np.uint16
        assert recording.masks.dtype == bool
        assert recording.masks.shape[1:] == recording.image.shape == (512, 512)
        assert recording.masks.any((1, 2)).all()
        areas += recording.masks.sum((1, 2)).tolist()
        shares.append(merge_masks(recording.masks).mean())
        count = recording.masks.sum(0)
        shared.append((count > 1).sum() / (count > 0).sum())
    # Allen's: 183 px (5 to 95 %: 123 to 249), 4 to 24 % of the field, 4 % of that shared.
    assert 160 < np.median(areas) < 210
    assert np.percentile(areas, 5) > 90
    assert np.percentile(areas, 95) < 320
    assert min(shares) > 0.03
    assert max(shares) < 0.25
    assert 0.003 < np.mean(shared) < 0.04


def ring_around(mask, label, width=5):
    """Unlabelled pixels less than `width` px beside a mask."""
    near = mask.copy()
    for axis in (0, 1):
        near = np.any([np.roll(near, by, axis) for by in range(-width, width + 1)], 0)
    return near & ~label


def test_labelled_cells_are_brighter_than_what_is_around_them(recordings):
    for recording in recordings[::3]:
        label = merge_masks(recording.masks)
        image = recording.image.astype(float)
        rings = (ring_around(mask, label) for mask in recording.masks)
        brighter = [
            image[mask].mean() > image[ring].mean()
            for mask, ring in zip(recording.masks, rings, strict=True)
        ]
        assert np.mean(brighter) > 0.9


def test_other_cells_are_labelled_in_another_session(recordings):
    field = simulate_field(np.random.default_rng(1), 256)
    counts = [len(simulate_session(field, np.random.default_rng(seed))[1]) for seed in range(6)]
    assert len(set(counts)) > 1
    assert 0 < max(counts) < len(field.cells.centre)


def test_no_label_touches_the_motion_border(recordings):
    border = int(MOTION_BORDER_UM / UM_PER_PX)
    for recording in recordings:
        label = merge_masks(recording.masks)
        inner = label[border:-border, border:-border]
        assert label.sum() == inner.sum() > 0


def test_metadata_name_the_container_and_its_mouse(recordings):
    containers = [r.metadata["experiment_container_id"] for r in recordings]
    mice = [r.metadata["specimen_name"] for r in recordings]
    assert len(set(containers)) == 4
    assert len(set(mice)) == 2
    assert [r.group for r in recordings] == [f"experiment_container_id={c}" for c in containers]


def test_few_pixels_saturate(recordings):
    for recording in recordings:
        assert 1 <= (recording.image == recording.image.max()).sum() < 0.005 * 512**2


@pytest.mark.parametrize("size", [32, 100])
def test_small_fields_work(size):
    config = SimulatorConfig(containers=1, sessions=1, size=size)
    for seed in range(5):
        recording = simulate_recording(dataclasses.replace(config, seed=seed), 0)
        assert recording.image.shape == (size, size)


def test_the_source_is_complete_and_can_be_sent_to_processes(recordings):
    source = pickle.loads(pickle.dumps(SimulatedSource(CONFIG)))
    keys = source.keys()
    assert keys == sorted(keys)
    assert len(keys) == 8
    for key, recording in zip(keys, recordings, strict=True):
        assert source.read(key).id == recording.id == key
        np.testing.assert_array_equal(source.read(key).image, recording.image)
    stamps = {source.stamp(key) for key in keys}
    other = SimulatedSource(dataclasses.replace(CONFIG, size=256))
    assert len(stamps | {other.stamp(key) for key in keys}) == 16
    assert source.describe()["containers"] == 4


def test_drawn_cells_have_the_area_of_their_ellipse():
    cells = create_cells(np.random.default_rng(0), 100, 512, 0.785)
    corner, light, body = draw_cells(cells, np.zeros(2))
    expected = np.pi * cells.radius.prod(1)
    np.testing.assert_allclose((body > 0.5).sum((1, 2)), expected, rtol=0.25)
    np.testing.assert_allclose(np.median((body > 0.5).sum((1, 2)) / expected), 1, atol=0.03)
    # The nucleus is dimmer than the rest of the cell, and only where the section meets it.
    assert (light[body > 0.99] <= 1 + 1e-6).all()
    ringed = cells.nucleus > 0.3
    middle = light.shape[1] // 2
    assert light[ringed, middle, middle].mean() < light[cells.nucleus == 0, middle, middle].mean()
    assert len(corner) == len(cells.centre)


def test_smooth_noise_is_standard_and_smoother_at_larger_scales():
    rough, smooth = (smooth_noise(np.random.default_rng(0), 128, s, 1.5) for s in (2, 60))
    for noise in (rough, smooth):
        assert noise.mean() == pytest.approx(0, abs=1e-4)
        assert noise.std() == pytest.approx(1, abs=1e-4)
        assert noise.dtype == np.float32
    assert np.diff(smooth, axis=0).std() < 0.5 * np.diff(rough, axis=0).std()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (-3, 7), (8, -4), (9, 9), (-20, 3), (40, 40)])
def test_patches_are_cut_at_the_borders(row, column):
    canvas, patch = np.zeros((10, 12)), np.ones((5, 6))
    target, part = overlap(canvas.shape, row, column, patch.shape)
    canvas[target] += patch[part]
    expected = np.zeros((10, 12))
    for i in range(5):
        for j in range(6):
            if 0 <= row + i < 10 and 0 <= column + j < 12:
                expected[row + i, column + j] = 1
    np.testing.assert_array_equal(canvas, expected)


def test_a_session_shows_silent_cells_dimmer():
    field = simulate_field(np.random.default_rng(3), 256)
    images = [simulate_session(field, np.random.default_rng(s))[0].astype(float) for s in (0, 1)]
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] < 0.95


def test_the_detector_adds_grain_with_a_heavy_bright_tail():
    flat = np.ones((200, 200), np.float32)
    for seed in range(5):
        grain = detect(flat, np.random.default_rng(seed))[10:-10, 10:-10].astype(float)
        low, middle, high = np.percentile(grain, [1, 50, 99])
        assert high - middle > 1.3 * (middle - low) > 0


def test_the_detector_keeps_the_order_of_light():
    ramp = np.repeat(np.linspace(0.5, 3, 8, dtype=np.float32), 32)[None].repeat(128, 0)
    image = detect(ramp, np.random.default_rng(0))[10:-10].astype(float)
    levels = [np.median(image[:, start + 8 : start + 24]) for start in range(0, 256, 32)]
    assert (np.diff(levels) > 0).all()


@pytest.mark.parametrize("size", [32, 512])
def test_vessels_and_illumination_only_take_light_away(size):
    for seed in range(5):
        for shade in (
            draw_vessels(np.random.default_rng(seed), size, 0.785),
            draw_illumination(np.random.default_rng(seed), size),
        ):
            assert shade.shape == (size, size)
            assert shade.dtype == np.float32
            assert shade.min() > 0
            assert shade.max() <= 1


def test_enlarging_a_plane_gives_a_plane():
    coarse = np.add.outer(2 * np.arange(5), np.arange(5)).astype(np.float32)
    expected = np.add.outer(2 * np.linspace(0, 4, 18), np.linspace(0, 4, 18))
    np.testing.assert_allclose(enlarge(coarse, 18), expected, atol=1e-5)
