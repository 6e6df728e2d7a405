import numpy as np
import pytest

import fluxseg
from fluxseg.errors import RecordingError
from fluxseg.formats.suite2p_stat import create_stat
from fluxseg.traces.masks import create_cell_matrix, create_footprints, create_neuropil_matrix
from fluxseg.traces.signals import find_baseline
from tests.traces.suite2p_reference import PATH, RATE, SHAPE, TAU, create_case


@pytest.fixture(scope="module")
def case():
    stat, movie = create_case()
    weights = np.zeros((len(stat), *SHAPE), np.float32)
    for image, entry in zip(weights, stat, strict=True):
        image[entry["ypix"], entry["xpix"]] = entry["lam"]
    with np.load(PATH) as reference:
        return weights, movie, dict(reference)


def test_traces_are_those_of_suite2p_itself(case):
    weights, movie, reference = case
    assert reference["version"] == "1.1.0"
    traces = fluxseg.extract(movie, weights, rate=RATE, tau=TAU)
    changes = traces.corrected - find_baseline(traces.corrected, RATE)
    found = {"F": traces.f, "Fneu": traces.neuropil, "changes": changes, "spks": traces.spikes}
    for name, values in found.items():
        expected = reference[name]
        assert np.abs(values - expected).max() < 1e-5 * np.abs(expected).max(), name
        for one, other in zip(values, expected, strict=True):
            assert np.corrcoef(one, other)[0, 1] > 0.999999, name
    for name in ("F", "Fneu"):
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-5)


def test_neuropil_has_the_pixels_of_suite2p_also_in_a_crowd(case):
    weights, _, reference = case
    footprints = create_footprints(weights, SHAPE)
    stat = create_stat(footprints.masks(), weights=footprints.weights)
    np.testing.assert_allclose([e["radius"] for e in stat], reference["radius"], rtol=1e-5)
    matrix = create_neuropil_matrix(footprints)
    np.testing.assert_array_equal(np.diff(matrix.indptr), reference["sizes"])
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    around = matrix.toarray().reshape(-1, *SHAPE) > 0
    assert not (around & footprints.masks()).any()


def test_cells_weigh_pixels_of_their_own_only():
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:8, 2:8] = masks[1, 6:12, 2:8] = masks[2, 6:8, 2:8] = True
    matrix = create_cell_matrix(create_footprints(masks, (20, 20))).toarray().reshape(-1, 20, 20)
    assert (matrix[0] > 0).sum() == (matrix[1] > 0).sum() == 24
    np.testing.assert_allclose(matrix.sum((1, 2)), [1, 1, 0], rtol=1e-6)


def test_rois_of_every_kind_are_the_same_rois():
    labels = np.zeros((30, 40), np.uint16)
    labels[3:9, 3:9], labels[10:20, 20:30] = 7, 2
    masks = np.stack([labels == 2, labels == 7])
    recording = fluxseg.Recording("a", labels, masks, ("1", "2"))
    for rois in (labels, masks, masks.astype(np.float32), recording):
        found = create_footprints(rois, (30, 40))
        np.testing.assert_array_equal(found.masks(), masks)
        assert all((weights == 1).all() for weights in found.weights)


@pytest.mark.parametrize(
    ("rois", "words"),
    [
        (np.zeros((2, 30, 30), bool), r"field of \[30, 30\] px, the movie has \[30, 40\]"),
        (np.full((30, 40), -1), "0 or more"),
        (np.full((1, 30, 40), np.nan), "negative or not finite"),
        (np.zeros((30, 40)), r"\[N, H, W\]"),
        (np.zeros((2, 30, 40), np.uint8), "must be bool"),
    ],
)
def test_rois_that_do_not_fit_are_refused(rois, words):
    with pytest.raises(RecordingError, match=words):
        create_footprints(rois, (30, 40))
