"""NWB files: written as the schema asks, read however others write them."""

import dataclasses
import datetime
import sys
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from pynwb import NWBHDF5IO, NWBFile
from pynwb.base import Images
from pynwb.file import Subject
from pynwb.image import GrayscaleImage
from pynwb.ophys import ImageSegmentation, OpticalChannel

from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.convert import detect_format
from fluxseg.formats.metadata import clean_metadata
from fluxseg.formats.nwb import read_nwb
from fluxseg.formats.nwb_write import write_nwb
from tests.formats.test_allen import RECORDINGS, assert_same

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 4000, (20, 30)).astype(np.uint16)
MASKS = np.zeros((4, 20, 30), bool)
MASKS[0, 2:8, 3:9] = MASKS[1, 5:12, 5:20] = MASKS[2, 15:, 26:] = MASKS[3, 5:12, 5:20] = True
TIME = datetime.datetime(2020, 5, 1, 9, 30, tzinfo=datetime.UTC)
NAMED = Recording(
    "s1", IMAGE, MASKS, ("11", "12", "13", "14"), "donor_name=m1",
    {"donor_name": "m1", "um_per_px": 0.78, "session_start_time": TIME.isoformat(),
     "age_days": 90, "sex": "F", "species": "Mus musculus", "excitation_lambda": 920,
     "targeted_structure": "VISp", "indicator": "GCaMP6f"},
)  # fmt: skip


def build(path, images, rois=(), *, columns=(), description="ROIs", spacing=None, unit=None,
          planes=("PlaneSegmentation",), containers=("images",), subject=None):  # fmt: skip
    """A file as pynwb makes it; `rois` are the arguments of `add_roi`."""
    file = NWBFile("a session", "an identifier", TIME, session_id="session 7", subject=subject)
    plane = file.create_imaging_plane(
        name="ImagingPlane", description="standard", device=file.create_device(name="Microscope"),
        optical_channel=OpticalChannel(
            name="OpticalChannel", description="one", emission_lambda=500.0
        ),
        excitation_lambda=600.0, indicator="GCaMP", location="V1",
        **({} if spacing is None else {"grid_spacing": spacing, "grid_spacing_unit": unit}),
    )  # fmt: skip
    module = file.create_processing_module(name="ophys", description="processed")
    for name in containers:
        pictures = [GrayscaleImage(name=key, data=value) for key, value in images.items()]
        if pictures:
            module.add(Images(name=name, images=pictures))
    segmentation = ImageSegmentation()
    for name in planes if rois else ():
        table = segmentation.create_plane_segmentation(
            description=description, imaging_plane=plane, name=name
        )
        for roi in rois:
            table.add_roi(**roi)
        for name, data in columns:
            table.add_column(name, "a column", data=data)
    if rois:
        module.add(segmentation)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def pixels(masks, order="xy"):
    found = []
    for number, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        first, second = (x, y) if order == "xy" else (y, x)
        weights = np.linspace(0.1, 1, len(x))
        found.append({"id": 7 * number, "pixel_mask": np.stack([first, second, weights], 1)})
    return found


def suite2p(path, image=IMAGE, masks=MASKS, iscell=None):
    """A file as `save_nwb` of suite2p/io/nwb.py builds it: y first throughout."""
    iscell = np.ones((len(masks), 2)) if iscell is None else iscell
    images = {"meanImg": image.astype("f4") / 2, "Vcorr": image * 0.1, "max_proj": image}
    return build(
        path, images, pixels(masks, "yx"), columns=[("iscell", iscell)],
        description="suite2p output", spacing=[2.0, 2.0], unit="microns",
        containers=["Backgrounds_0"],
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(recording=RECORDINGS)
def test_what_is_written_is_read(recording, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.nwb"
    write_nwb(path, recording)
    found = read_nwb(path)
    if recording.image.dtype == bool:
        np.testing.assert_array_equal(found.image, recording.image)
    else:
        assert_same(found, recording)


def test_texts_that_hdf5_cannot_hold_come_back(tmp_path):
    recording = dataclasses.replace(NAMED, id="a\0b", group="g\0h")
    write_nwb(tmp_path / "a.nwb", recording)
    found = read_nwb(tmp_path / "a.nwb")
    assert (found.id, found.group) == ("a\0b", "g\0h")


def test_overlapping_rois_lose_no_pixel(tmp_path):
    assert write_nwb(tmp_path / "a.nwb", NAMED) == ()
    found = read_nwb(tmp_path / "a.nwb")
    np.testing.assert_array_equal(found.masks, MASKS)
    np.testing.assert_array_equal(found.image, IMAGE)
    assert found.image.dtype == IMAGE.dtype
    assert (found.id, found.group, found.roi_ids) == ("s1", "donor_name=m1", NAMED.roi_ids)
    assert found.metadata == clean_metadata(NAMED.metadata)
    assert found.remarks == ()


def test_other_tools_find_what_the_schema_promises(tmp_path):
    write_nwb(tmp_path / "a.nwb", NAMED)
    with NWBHDF5IO(str(tmp_path / "a.nwb"), "r") as io:
        file = io.read()
        ophys = file.processing["ophys"]
        table = ophys["ImageSegmentation"]["PlaneSegmentation"]
        np.testing.assert_array_equal(ophys["projections"]["max_projection"].data[:], IMAGE.T)
        for number, mask in enumerate(MASKS):
            listed = {(int(p["x"]), int(p["y"])) for p in table["pixel_mask"][number]}
            assert listed == {(x, y) for y, x in np.argwhere(mask)}
        assert list(table.id[:]) == [11, 12, 13, 14]
        assert file.session_start_time == TIME
        assert (file.session_id, file.subject.subject_id, file.subject.age) == ("s1", "m1", "P90D")
        plane = table.imaging_plane
        assert (list(plane.grid_spacing), plane.grid_spacing_unit) == ([0.78] * 2, "micrometers")
        assert (plane.location, plane.indicator, plane.excitation_lambda) == (
            "VISp", "GCaMP6f", 920,
        )  # fmt: skip


@pytest.mark.parametrize(
    "recording",
    [
        NAMED,
        Recording("a/b ü", IMAGE.astype("f4"), MASKS, ("a", "b", "c", "c")),
        Recording("plain", IMAGE),
        Recording("empty", IMAGE, np.zeros((0, 20, 30), bool)),
        Recording("void", IMAGE, np.zeros((2, 20, 30), bool), ("0", "1")),
    ],
    ids=lambda recording: recording.id[:1],
)
def test_the_inspector_finds_nothing_critical(tmp_path, recording):
    with warnings.catch_warnings():
        # Its own use of other packages.
        warnings.simplefilter("ignore")
        from nwbinspector import Importance, inspect_nwbfile

        write_nwb(tmp_path / "a.nwb", recording)
        found = list(inspect_nwbfile(nwbfile_path=str(tmp_path / "a.nwb")))
    severe = [m for m in found if m.importance.value >= Importance.CRITICAL.value]
    assert severe == []
    # It looked: the placeholders of the file are among what it suggests to fill in.
    assert any(message.check_function_name == "check_experimenter_exists" for message in found)


def test_what_is_not_known_is_a_placeholder_and_said(tmp_path):
    remarks = write_nwb(tmp_path / "a.nwb", Recording("a", IMAGE == 0))
    assert [text.split(":")[0] for text in remarks] == [
        "no start of the session is known", "the age of the subject is not known",
        "the size of the pixels is not known", "the image is boolean",
    ]  # fmt: skip
    naive = Recording("a", IMAGE, metadata={"session_start_time": "2020-05-01T09:30:00"})
    assert "no time zone" in write_nwb(tmp_path / "a.nwb", naive)[0]
    with NWBHDF5IO(str(tmp_path / "a.nwb"), "r") as io:
        assert io.read().session_start_time == TIME


def test_without_pynwb_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(ConfigError, match="pip install pynwb"):
        write_nwb(tmp_path / "a.nwb", NAMED)


@pytest.mark.parametrize("square", [False, True])
def test_files_of_suite2p_are_known(tmp_path, square):
    image, masks = (IMAGE[:, :20], MASKS[:2, :, :20]) if square else (IMAGE, MASKS)
    path = suite2p(tmp_path / "ophys.nwb", image, masks)
    found = read_nwb(path)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.masks, masks)
    assert "um_per_px" not in found.metadata
    assert any("Suite2p" in remark for remark in found.remarks)
    found = read_nwb(path, image="meanImg")
    np.testing.assert_allclose(found.image, image / 2)


def test_what_suite2p_judges_to_be_no_cell_is_left_out_with_a_remark(tmp_path):
    iscell = np.array([[1, 0.9], [0, 0.1], [1, 0.7], [0, 0.2]])
    found = read_nwb(suite2p(tmp_path / "ophys.nwb", iscell=iscell))
    np.testing.assert_array_equal(found.masks, MASKS[[0, 2]])
    assert found.roi_ids == ("0", "14")
    assert "2 of 4 ROIs are no neurons (iscell): left out" in found.remarks


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("image_order", ["xy", "yx"])
@pytest.mark.parametrize("kind", ["pixel", "image"])
def test_every_mixture_of_orders_is_told_by_the_sizes(tmp_path, order, image_order, kind):
    image = IMAGE if image_order == "yx" else IMAGE.T
    masks = MASKS if order == "yx" else MASKS.transpose(0, 2, 1)
    rois = pixels(MASKS, order) if kind == "pixel" else [{"image_mask": m * 0.5} for m in masks]
    path = build(tmp_path / "a.nwb", {"max": image}, rois)
    # Image and masks fit each other, and a proven mixture is said.
    found = read_nwb(path)
    same = found.image.shape == IMAGE.shape
    # The schema's order is the default.
    assert same or order != "xy" or image_order != "xy"
    np.testing.assert_array_equal(found.image if same else found.image.T, IMAGE)
    np.testing.assert_array_equal(found.masks if same else found.masks.transpose(0, 2, 1), MASKS)
    said = any("differ in the order" in remark for remark in found.remarks)
    assert said == (order != image_order)


def test_planes_and_images_are_chosen_or_listed(tmp_path):
    path = build(tmp_path / "a.nwb", {"max": IMAGE.T}, pixels(MASKS), planes=["p0", "p1"],
                 containers=["plane0", "plane1"])  # fmt: skip
    with pytest.raises(RecordingError, match=r"ImageSegmentation/p0, ophys/ImageSeg.*/p1"):
        read_nwb(path)
    with pytest.raises(RecordingError, match=r"has no plane 'p2'"):
        read_nwb(path, plane="p2")
    with pytest.raises(RecordingError, match=r"holds 2 keys .*plane0/max, .*plane1.*--key"):
        read_nwb(path, plane="p1")
    with pytest.raises(RecordingError, match=r"has no key 'min'"):
        read_nwb(path, plane="p1", image="min")
    found = read_nwb(path, plane="ImageSegmentation/p1", image="plane0/max")
    np.testing.assert_array_equal(found.masks, MASKS)


def test_the_image_is_the_best_projection_there_is(tmp_path):
    images = {"correlation": IMAGE.T * 1.5, "average_image": IMAGE.T * 2, "max_proj": IMAGE.T}
    for name in ("max_proj", "average_image", "correlation"):
        found = read_nwb(build(tmp_path / "a.nwb", images))
        np.testing.assert_array_equal(found.image, images.pop(name).T)
        assert (found.masks, found.roi_ids) == (None, ())
        assert any("only image" in remark for remark in found.remarks) == (name == "correlation")
    with pytest.raises(RecordingError, match="fluxseg project"):
        read_nwb(build(tmp_path / "a.nwb", {}))
    subject = Subject(subject_id="mouse 3", species="Mus musculus", age="P9D", sex="M")
    found = read_nwb(build(tmp_path / "a.nwb", {"max": IMAGE}, subject=subject))
    assert found.group == "donor_name=mouse 3"


def test_weights_and_values_tell_the_members(tmp_path):
    rois = pixels(MASKS)
    rois[0]["pixel_mask"][:3, 2] = (0, np.nan, -1)
    found = read_nwb(build(tmp_path / "a.nwb", {"max": IMAGE.T}, rois))
    assert found.masks[0].sum() == MASKS[0].sum() - 2
    assert any("2 of" in r and "no weight: left out" in r for r in found.remarks)
    for roi in rois:
        roi["pixel_mask"][:, 2] = 0
    found = read_nwb(build(tmp_path / "a.nwb", {"max": IMAGE.T}, rois))
    np.testing.assert_array_equal(found.masks, MASKS)
    mask = np.where(MASKS[0].T, -0.5, np.nan)
    found = read_nwb(build(tmp_path / "a.nwb", {"max": IMAGE.T}, [{"image_mask": mask}]))
    np.testing.assert_array_equal(found.masks, MASKS[:1])


@pytest.mark.parametrize(
    ("spacing", "unit", "expected"),
    [
        ([0.8, 0.8, 30.0], "um", 0.8), ([0.8e-3] * 2, "millimeters", 0.8),
        ([1.0, 2.0], "microns", None), ([1.0, 1.0], "parsec", None), ([0.0, 0.0], "um", None),
    ],
)  # fmt: skip
def test_pixel_sizes_are_converted_or_told_to_be_useless(tmp_path, spacing, unit, expected):
    path = build(tmp_path / "a.nwb", {"max": IMAGE.T}, spacing=spacing, unit=unit)
    found = read_nwb(path)
    assert found.metadata.get("um_per_px") == expected
    assert any("grid_spacing" in remark for remark in found.remarks) == (expected is None)


def test_voxels_of_one_plane_are_its_rois(tmp_path):
    def voxels(levels):
        places = [np.nonzero(mask) for mask in MASKS]
        return [
            {"voxel_mask": np.stack([x, y, np.full(len(x), level), np.ones(len(x))], 1)}
            for (y, x), level in zip(places, levels, strict=True)
        ]

    path = build(tmp_path / "a.nwb", {"max": IMAGE.T}, voxels([3] * 4))
    np.testing.assert_array_equal(read_nwb(path).masks, MASKS)
    path = build(tmp_path / "b.nwb", {"max": IMAGE.T}, voxels([0, 1, 0, 1]))
    with pytest.raises(RecordingError, match=r"holds 2 planes \(0, 1\); choose one with --plane"):
        read_nwb(path)
    found = read_nwb(path, plane="1")
    np.testing.assert_array_equal(found.masks, MASKS[1::2])
    assert any("ROIs lie in other planes: left out" in remark for remark in found.remarks)
    rois = [{"image_mask": np.zeros((30, 20, 3))}]
    with pytest.raises(RecordingError, match="image_mask: must be"):
        read_nwb(build(tmp_path / "c.nwb", {"max": IMAGE.T}, rois))


def test_kinds_of_files_are_told(tmp_path):
    write_nwb(tmp_path / "a.nwb", NAMED)
    assert detect_format(tmp_path / "a.nwb") == "nwb"
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["mov"] = IMAGE
    with pytest.raises(RecordingError, match="not NWB"):
        detect_format(tmp_path / "b.h5")
    with pytest.raises(RecordingError, match="not in the NWB 2 format"):
        read_nwb(tmp_path / "b.h5")
    (tmp_path / "c").write_text("text")
    with pytest.raises(RecordingError, match="does not begin as an HDF5 file"):
        read_nwb(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(RecordingError, match="damaged"):
        detect_format(tmp_path / "d")
