import dataclasses
import itertools
import pickle

import numpy as np
import pytest

from fluxseg.config import SimulatorConfig
from fluxseg.data.transforms import merge_masks, normalize_image
from fluxseg.simulation.optics import Drift
from fluxseg.simulation.sessions import (
    MOST_SHIFT_PX,
    MOST_ZOOM,
    RECORDED,
    SimulatedSource,
    simulate_recording,
    simulate_session,
)

CONFIG = SimulatorConfig(containers=4, sessions=2, size=160)


@pytest.fixture(scope="module")
def recordings():
    return [simulate_recording(CONFIG, index) for index in range(8)]


@pytest.fixture(scope="module")
def sessions():
    return [simulate_session((0, 6), session, (160, 160)) for session in range(6)]


def best_correlation(first, second, reach=24):
    """Largest correlation of two images over shifts."""
    spectra = []
    for image in (first, second):
        image = np.clip(normalize_image(image), 0, 1).astype(float)
        spectra.append(np.fft.rfft2((image - image.mean()) / image.std()))
    surface = np.fft.irfft2(spectra[0] * spectra[1].conj()) / first.size
    shifts = np.arange(-reach, reach + 1)
    return surface[np.ix_(shifts, shifts)].max()


def test_a_recording_depends_on_seed_and_index_alone(recordings):
    again = simulate_recording(dataclasses.replace(CONFIG, containers=99), 3)
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
    assert np.mean(same) > 2 * np.mean(others)
    for first, second in zip(recordings[::2], recordings[1::2], strict=True):
        assert not np.array_equal(first.image, second.image)


def test_labels_have_the_statistics_they_should():
    areas, shares, shared = [], [], []
    for index in range(12):
        recording = simulate_recording(SimulatorConfig(sessions=1, size=192), index)
        assert recording.image.dtype in (np.uint8, np.uint16)
        assert recording.masks.shape[1:] == recording.image.shape == (192, 192)
        assert recording.masks.any((1, 2)).all()
        areas += recording.masks.sum((1, 2)).tolist()
        shares.append(merge_masks(recording.masks).mean())
        count = recording.masks.sum(0)
        shared.append((count > 1).sum() / max((count > 0).sum(), 1))
    # Allen's: 183 px (5 to 95 %: 123 to 249), 4 to 24 % of the field, 4 % of that shared.
    assert 140 < np.median(areas) < 210
    assert np.percentile(areas, 5) > 60
    assert np.percentile(areas, 95) < 340
    assert 0.03 < np.mean(shares) < 0.15
    assert 0.003 < np.mean(shared) < 0.05


def test_other_cells_fire_and_are_labelled_in_another_session(sessions):
    field, labels = sessions[0]
    assert 0 < len(labels.cells) < len(field.cell)
    assert field.active[labels.cells].all()
    chosen = [frozenset(field.cell[labels.cells].tolist()) for field, labels in sessions]
    assert len(set(chosen)) == len(sessions)
    # Cells that are visible whenever they fire are labelled in several sessions.
    again = [len(first & second) for first, second in itertools.pairwise(chosen)]
    assert sum(again) > 0.2 * sum(map(len, chosen[1:]))
    firing = {}
    for field, _ in sessions:
        for cell, active in zip(field.cell.tolist(), field.active.tolist(), strict=True):
            firing.setdefault(cell, set()).add(active)
    assert np.mean([len(states) == 2 for states in firing.values()]) > 0.3


def test_the_same_cell_has_the_same_body_and_drifts_with_its_field(sessions):
    (first, _), (second, _) = sessions[:2]
    _, a, b = np.intersect1d(first.cell, second.cell, return_indices=True)
    assert len(a) > 10
    np.testing.assert_array_equal(first.outline[a], second.outline[b])
    np.testing.assert_array_equal(first.radius[a], second.radius[b])
    moved = second.corner[b] - first.corner[a]
    assert np.ptp(moved, axis=0).max() <= np.ceil(2 * MOST_ZOOM * 160) + 1
    assert 0 < np.abs(moved).max() <= 2 * MOST_SHIFT_PX + 2 * MOST_ZOOM * 80 + 1


def test_cells_are_drawn_where_the_field_says(sessions):
    for field, _ in sessions:
        image, side = field.image.astype(float), field.outline.shape[1]
        bright = np.flatnonzero((field.visibility > 4) & (field.border > 15))
        assert len(bright)
        for cell in bright:
            row, column = field.corner[cell]
            part = image[row : row + side, column : column + side]
            outline = field.outline[cell]
            inside, outside = part[outline < 1].mean(), part[outline > 1.3].mean()
            assert inside > outside


def test_a_drift_moves_light_and_places_alike():
    light = np.zeros((60 + 2 * 16, 50 + 2 * 16), np.float32)
    place = np.array([[40.0, 30.0], [30.0, 45.0], [60.0, 50.0]])
    for row, column in place.astype(int):
        light[row - 1 : row + 2, column - 1 : column + 2] = 1
    drift = Drift((4.0, -3.0), 1.1, 16)
    shown = drift.show(light)
    assert shown.shape == (60, 50)
    middle = np.array([29.5, 24.5])
    expected = (place - 16 + (4, -3) - middle) * 1.1 + middle
    np.testing.assert_allclose(drift.move(place, (60, 50)), expected)
    for row, column in np.rint(expected).astype(int):
        part = shown[row - 3 : row + 4, column - 3 : column + 4]
        rows, columns = np.indices(part.shape) - 3
        assert abs((part * rows).sum() / part.sum()) < 0.6
        assert abs((part * columns).sum() / part.sum()) < 0.6
    still = Drift()
    assert still.show(light) is light
    np.testing.assert_array_equal(still.move(place, light.shape), place)


def test_metadata_name_the_container_and_its_mouse(recordings):
    containers = [r.metadata["experiment_container_id"] for r in recordings]
    mice = [r.metadata["specimen_name"] for r in recordings]
    assert len(set(containers)) == 4
    assert len(set(mice)) == 2
    assert [r.group for r in recordings] == [f"experiment_container_id={c}" for c in containers]
    assert all(0.5 < r.metadata["um_per_px"] < 1.5 for r in recordings)


def test_a_field_without_cells_is_a_recording_without_masks():
    families = tuple(dataclasses.replace(f, density=type(f.density)(1e-3, 1e-3)) for f in
                     RECORDED.families)  # fmt: skip
    ranges = dataclasses.replace(RECORDED, families=families)
    field, labels = simulate_session((0,), 0, (64, 64), ranges)
    assert field.image.shape == (64, 64)
    assert labels.whole_masks().shape == (0, 64, 64)


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
