import dataclasses
import pickle

import numpy as np
import pytest

from fluxseg.config import SimulatorConfig
from fluxseg.data.simulator import SimulatedSource, simulate_recording, simulate_session
from fluxseg.data.tissue import create_cells, draw_cells, overlap, simulate_field, smooth_noise
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
    areas, shares = [], []
    for recording in recordings:
        assert recording.image.dtype == np.uint16
        assert recording.masks.dtype == bool
        assert recording.masks.shape[1:] == recording.image.shape == (512, 512)
        assert recording.masks.any((1, 2)).all()
        areas += recording.masks.sum((1, 2)).tolist()
        shares.append(merge_masks(recording.masks).mean())
    # Allen's are 183 px (123 to 249) and 4 to 24 % of the field.
    assert 130 < np.median(areas) < 230
    assert min(shares) > 0.005
    assert max(shares) < 0.3


def test_labelled_cells_can_be_seen(recordings):
    for recording in recordings:
        image = recording.image.astype(float)
        outside = np.median(image[~merge_masks(recording.masks)])
        inside = np.array([image[mask].mean() for mask in recording.masks])
        assert (inside > outside).mean() > 0.9


def test_no_label_touches_the_motion_border(recordings):
    for recording in recordings:
        label = merge_masks(recording.masks)
        assert not label[:6].any()
        assert not label[:, -6:].any()


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
    assert (light <= body + 1e-6).all()
    ringed = cells.nucleus > 0.3
    middle = light.shape[1] // 2
    assert light[ringed, middle, middle].mean() < light[cells.nucleus == 0, middle, middle].mean()
    assert len(corner) == len(cells.centre)


def test_smooth_noise_is_standard_and_smoother_at_larger_scales():
    rough, smooth = (smooth_noise(np.random.default_rng(0), 128, s, 1.5) for s in (2, 60))
    for noise in (rough, smooth):
        assert noise.mean() == pytest.approx(0, abs=1e-4)
        assert noise.std() == pytest.approx(1, abs=1e-4)
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
