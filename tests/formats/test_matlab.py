"""MATLAB files, CaImAn's results, and ROIs in arrays of every usual form."""

import h5py
import numpy as np
import pytest
from scipy import io, sparse

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats.convert import read_recording
from fluxseg.formats.labels import masks_from_array
from fluxseg.formats.movies import iterate_frames
from fluxseg.formats.npy import read_npy
from fluxseg.formats.pick import Pick
from fluxseg.formats.sources import FolderSource
from fluxseg.formats.suite2p import read_suite2p, write_suite2p
from tests.formats.refusal import refused

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 4000, (12, 9)).astype(np.uint16)
MASKS = np.zeros((3, 12, 9), bool)
MASKS[0, 1:4, 1:5] = MASKS[1, 6:9, 2:8] = MASKS[2, 10:12, 0:3] = True
LABELS = (MASKS * np.array([1, 2, 5])[:, None, None]).sum(0)
PIXELS = MASKS.transpose(0, 2, 1).reshape(3, -1).T


def save_new(path, **arrays):
    """Write a file of version 7.3: HDF5 behind MATLAB's header, axes in the reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if sparse.issparse(array):
                group = file.create_group(name)
                group.attrs["MATLAB_sparse"] = array.shape[0]
                matrix = array.tocsc()
                group["data"], group["ir"], group["jc"] = matrix.data, matrix.indices, matrix.indptr
            else:
                file[name] = np.asarray(array).T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128))
    return path


def save_old(path, **arrays):
    io.savemat(path, arrays, do_compression=True)
    return path


@pytest.mark.parametrize("save", [save_old, save_new])
@pytest.mark.parametrize("form", ["stack", "last", "labels", "pixels", "sparse"])
def test_images_and_rois_of_every_form(tmp_path, save, form):
    rois = {
        "stack": MASKS.astype("u1"), "last": MASKS.transpose(1, 2, 0).astype("u1"),
        "labels": LABELS.astype("u2"), "pixels": PIXELS.astype("f8"),
        "sparse": sparse.csc_matrix(PIXELS.astype("f8")),
    }[form]  # fmt: skip
    path = save(tmp_path / "a.mat", image=IMAGE, masks=rois, other=np.zeros((3, 4, 5)))
    found = read_recording(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, MASKS)
    path = save(tmp_path / "b.mat", first=IMAGE, second=IMAGE * 2, cells=rois)
    with pytest.raises(RecordingError, match=r"keys \(.*first.*\); choose one with --key"):
        read_recording(path)
    found = read_recording(path, pick=Pick(key="second:cells"))
    np.testing.assert_array_equal(found.image, IMAGE * 2)
    np.testing.assert_array_equal(found.masks, MASKS)
    assert read_recording(path, pick=Pick(key="first")).masks is None
    # An array A holds ROIs only if its rows are the pixels.
    with pytest.raises(RecordingError, match=r"keys \(.*A.*\); choose one with --key"):
        read_recording(save(tmp_path / "c.mat", A=IMAGE, B=IMAGE * 2))
    with pytest.raises(RecordingError, match=r"holds no image \[H, W\]: movie \[12, 9, 5\]"):
        read_recording(save(tmp_path / "d.mat", movie=np.zeros((12, 9, 5))))
    found = read_recording(save(tmp_path / "e.mat", image=IMAGE, A=PIXELS.astype("f8")))
    np.testing.assert_array_equal(found.masks, MASKS)


def test_arrays_in_a_struct_are_found(tmp_path):
    path = tmp_path / "a.mat"
    inner = {"meanImg": IMAGE, "masks": LABELS, "name": "m", "cell": np.empty(2, object)}
    # A cell with a struct is read as a list, here of values that make no array.
    inner["cell"][:] = [{"a": 1}, np.arange(3.0)]
    io.savemat(path, {"data": inner})
    found = read_recording(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, MASKS)
    io.savemat(path, {"data": inner, "meanImg": IMAGE + 1})
    np.testing.assert_array_equal(read_recording(path).image, IMAGE + 1)


def test_fall_mat_is_a_suite2p_folder(tmp_path):
    recording = Recording("r", IMAGE, MASKS, ("a", "b", "c"), metadata={"um_per_px": 0.8})
    write_suite2p(tmp_path / "plane0", recording)
    stat = read_npy(tmp_path / "plane0" / "stat.npy")
    ops = read_npy(tmp_path / "plane0" / "ops.npy").item()
    ops.pop("fluxseg")
    iscell = np.array([[1, 0.9], [0, 0.2], [1, 0.8]])
    np.save(tmp_path / "plane0" / "iscell.npy", iscell)
    save_old(tmp_path / "Fall.mat", stat=stat, ops=ops, iscell=iscell, F=np.zeros((3, 5)))
    found, expected = read_recording(tmp_path / "Fall.mat"), read_suite2p(tmp_path / "plane0")
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert len(found.masks) == 2


def test_damaged_files_name_themselves(tmp_path):
    path = save_old(tmp_path / "a.mat", image=IMAGE, masks=LABELS)
    data = path.read_bytes()
    for size in (130, 200, len(data) - 5):
        path.write_bytes(data[:size])
        with refused(path):
            read_recording(path)
    save_old(path, name="text", number=5.0)
    with pytest.raises(RecordingError, match="holds"):
        read_recording(path)


def test_movies_in_new_files_are_read(tmp_path):
    movie = RNG.integers(0, 99, (12, 9, 20))
    path = save_new(tmp_path / "a.mat", mov=movie)
    found = np.concatenate(list(iterate_frames(path, 0, Pick(axes="TXY"))))
    np.testing.assert_array_equal(found, movie.transpose(2, 0, 1))


def save_caiman(path, matrix, **more):
    with h5py.File(path, "w") as file:
        group = file.create_group("estimates/A")
        group["data"], group["indices"], group["indptr"] = (
            matrix.data,
            matrix.indices,
            matrix.indptr,
        )
        group["shape"] = matrix.shape
        file["dims"] = IMAGE.shape
        for name, value in more.items():
            file[f"estimates/{name}"] = value
    return path


def test_caimans_results_are_rois(tmp_path):
    soft = sparse.csc_matrix(PIXELS * 0.9 + 0.01 * RNG.random(PIXELS.shape))
    path = save_caiman(tmp_path / "a.hdf5", soft, Cn=IMAGE / 4000, idx_components=[0, 2])
    assert FolderSource(str(tmp_path)).keys() == ["a.hdf5"]
    found = read_recording(path)
    np.testing.assert_array_equal(found.masks, MASKS[[0, 2]])
    np.testing.assert_allclose(found.image, IMAGE / 4000)
    assert found.roi_ids == ("0", "2")
    assert "1 of 3 ROIs are not accepted" in found.remarks
    with pytest.raises(RecordingError, match="name an image"):
        read_recording(save_caiman(tmp_path / "b.hdf5", soft))
    bad = sparse.csc_matrix(PIXELS)
    bad.indices[0] = 10**6
    with pytest.raises(RecordingError, match="points outside of itself"):
        read_recording(save_caiman(tmp_path / "c.hdf5", bad, Cn=IMAGE))


def test_a_mask_of_two_values_is_taken_apart():
    remarks = []
    found, _ = masks_from_array(255 * MASKS.any(0).astype("u1"), (12, 9), "mask", remarks)
    np.testing.assert_array_equal(found, MASKS)
    assert remarks == ["mask has two values: its connected parts are the ROIs"]
    assert len(masks_from_array(MASKS.any(0), (12, 9), "labels", [])[0]) == 1


def test_soft_masks_count_above_a_fifth(tmp_path):
    soft = MASKS * 0.5
    soft[0, 1, 1] = 0.09
    remarks = []
    found, _ = masks_from_array(soft, (12, 9), "rois", remarks)
    assert not found[0, 1, 1]
    assert found.sum() == MASKS.sum() - 1
    assert remarks == ["rois is soft: pixels above 20% of the maximum of their ROI count"]
    for bad in (np.zeros((5, 5, 5)), np.array("x"), np.full((2, 12, 9), np.nan)):
        with pytest.raises(RecordingError, match="rois: "):
            masks_from_array(bad, (12, 9), "rois", [])
