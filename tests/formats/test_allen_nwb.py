"""NWB files of the Allen Institute, built at the paths that AllenSDK reads.

Visual Coding: `BrainObservatoryNwbDataSet` in allensdk/core/brain_observatory_nwb_data_set.py
(`FILE_METADATA_MAPPING`, `get_max_projection`, `get_roi_ids`, `get_roi_mask`). Visual Behavior:
`add_cell_specimen_table` and `add_image` in allensdk/brain_observatory/nwb/__init__.py.
"""

import datetime

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile
from pynwb.base import Images
from pynwb.file import Subject
from pynwb.image import GrayscaleImage
from pynwb.ophys import ImageSegmentation, OpticalChannel

from fluxseg.errors import RecordingError
from fluxseg.formats.allen_nwb import PIPELINE
from fluxseg.formats.convert import detect_format
from fluxseg.formats.nwb import read_nwb
from fluxseg.formats.nwb_write import write_nwb
from tests.formats.refusal import refused

IMAGE = np.random.default_rng(0).integers(0, 4000, (24, 30)).astype(np.uint16)
MASKS = np.zeros((3, 24, 30), bool)
MASKS[0, 2:8, 3:9] = MASKS[1, 5:12, 5:20] = MASKS[2, 18:, 26:] = True
IDS = (517394850, 517394874, 517394912)


def visual_coding(path, *, drawn=True, text=np.bytes_):
    with h5py.File(path, "w") as file:
        file["nwb_version"] = text("NWB-1.0.5")
        file["session_start_time"] = text("Wed Jul 20 13:02:33 2016")
        for name, value in {
            "session_id": "510859641", "experiment_container_id": "510814568",
            "specimen_name": "Cux2-CreERT2;Camk2a-tTA;Ai93-222420", "session_type":
            "three_session_A", "fov": "24x30 microns (24 x 30 pixels)", "generated_by": "x",
            "subject/sex": "male", "subject/age": "104 days",
            "subject/genotype": "Cux2-CreERT2/wt;Camk2a-tTA/wt;Ai93/wt",
            "optophysiology/imaging_plane_1/location": "VISp",
            "optophysiology/imaging_plane_1/imaging depth": "175 microns",
            "optophysiology/imaging_plane_1/indicator": "GCaMP6f",
            "optophysiology/imaging_plane_1/excitation_lambda": "910 nanometers",
            "devices/2-photon microscope": "Nikon A1R-MP multiphoton microscope. CAM2P.2 Please",
        }.items():  # fmt: skip
            file[f"general/{name}"] = text(value)
        segmentation = file.create_group(PIPELINE)
        segmentation["roi_ids"] = np.array(IDS)
        segmentation["cell_specimen_ids"] = np.array(IDS) + 7
        plane = segmentation.create_group("imaging_plane_1")
        # AllenSDK takes the ROIs in the order of this list, which is not that of the names.
        names = ["roi_2", "roi_0", "roi_1"]
        plane["roi_list"] = np.array(names, "S")
        for name, mask in zip(names, MASKS, strict=True):
            if drawn:
                plane[f"{name}/img_mask"] = mask.astype("u1")
            y, x = np.nonzero(mask)
            plane[f"{name}/pix_mask"] = np.stack([x, y], 1).astype("i2")
        plane["reference_images/maximum_intensity_projection_image/data"] = IMAGE
    return path


def visual_behavior(path, *, valid=(True, True, True), module="ophys", masks=MASKS):
    file = NWBFile(
        session_description="Ophys session", identifier="951980471",
        session_start_time=datetime.datetime(2019, 9, 20, tzinfo=datetime.UTC),
        session_id="951980471",
        subject=Subject(subject_id="457841", genotype="Sst-IRES-Cre/wt", age="P207D", sex="F"),
    )  # fmt: skip
    plane = file.create_imaging_plane(
        name="imaging_plane_1", description="(512, 447) field of view", indicator="GCaMP6f",
        device=file.create_device(name="CAM2P.4"), excitation_lambda=910.0, imaging_rate=31.0,
        location="VISp", optical_channel=OpticalChannel(
            name="channel_1", description="2P Optical Channel", emission_lambda=520.0
        ),
    )  # fmt: skip
    processing = file.create_processing_module(name=module, description="Ophys processing module")
    # Spacing of 0.78 um as AllenSDK writes it: mm, divided by ten.
    picture = {"resolution": 0.78e-3 / 10, "description": "max projection image"}
    processing.add(
        Images(name="images", images=[
            GrayscaleImage(name="max_projection", data=IMAGE, **picture),
            GrayscaleImage(name="average_image", data=IMAGE // 2, **picture),
        ])
    )  # fmt: skip
    segmentation = ImageSegmentation(name="image_segmentation")
    processing.add(segmentation)
    table = segmentation.create_plane_segmentation(
        name="cell_specimen_table", description="Segmented rois", imaging_plane=plane
    )
    table.add_column("cell_specimen_id", "cell_specimen_id")
    table.add_column("valid_roi", "valid_roi")
    for number, mask in enumerate(masks):
        table.add_roi(
            id=IDS[number], image_mask=mask.astype("u1"), cell_specimen_id=-1,
            valid_roi=valid[number],
        )  # fmt: skip
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    with h5py.File(path, "a") as stored:
        # The extension `OphysBehaviorMetadata` keeps what tells sessions apart.
        metadata = stored.create_group("general/metadata")
        metadata.attrs["neurodata_type"] = "OphysBehaviorMetadata"
        metadata.attrs["ophys_container_id"] = 1018028339
        metadata.attrs["ophys_experiment_id"] = 951980471
        metadata["imaging_depth"] = 175
    return path


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("text", [np.bytes_, str])
def test_visual_coding_files_are_read(tmp_path, drawn, text):
    path = visual_coding(tmp_path / "510859641.nwb", drawn=drawn, text=text)
    assert detect_format(path) == "nwb"
    found = read_nwb(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, MASKS)
    assert found.image.dtype == np.uint16
    assert (found.id, found.roi_ids) == ("510859641", tuple(map(str, IDS)))
    assert found.group == "experiment_container_id=510814568"
    assert found.remarks == ()
    assert found.metadata == {
        "ophys_experiment_id": 510859641, "experiment_container_id": 510814568,
        "specimen_name": "Cux2-CreERT2;Camk2a-tTA;Ai93-222420", "session_type": "three_session_A",
        "session_start_time": "Wed Jul 20 13:02:33 2016", "targeted_structure": "VISp",
        "imaging_depth_um": 175, "indicator": "GCaMP6f", "excitation_lambda": "910 nanometers",
        "genotype": "Cux2-CreERT2/wt;Camk2a-tTA/wt;Ai93/wt", "cre_line": "Cux2-CreERT2/wt",
        "sex": "male", "age_days": 104, "fov": "24x30 microns (24 x 30 pixels)",
        "device": "Nikon A1R-MP multiphoton microscope. CAM2P.2 Please", "um_per_px": 1.0,
    }  # fmt: skip


def test_little_metadata_is_enough(tmp_path):
    path = visual_coding(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        del file["general"], file["session_start_time"], file[f"{PIPELINE}/roi_ids"]
        del file[f"{PIPELINE}/imaging_plane_1/roi_list"]
    found = read_nwb(path)
    assert (found.id, found.roi_ids) == ("a", ("roi_0", "roi_1", "roi_2"))
    np.testing.assert_array_equal(found.masks, MASKS[[1, 2, 0]])
    assert found.metadata == {}
    assert len(found.remarks) == 2


PLANE = f"{PIPELINE}/imaging_plane_1"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (f"{PLANE}/roi_0/img_mask", np.zeros((3, 3)), r"roi_0/img_mask: is \(3, 3\) px"),
        (f"{PLANE}/roi_0", None, "roi_0: has neither"),
        (f"{PLANE}/reference_images", None, "is missing"),
        (f"{PLANE}/roi_list", np.arange(3), "must hold texts"),
        (f"{PLANE}/roi_list", np.array(["../../.."] * 3, "S"), "has neither"),
        (f"{PLANE}/reference_images/maximum_intensity_projection_image/data", np.zeros(3),
         "must be an image"),
        (f"{PLANE}/roi_0/img_mask", h5py.ExternalLink("other.nwb", "/"), "in another file"),
        (f"{PIPELINE}/roi_ids", h5py.SoftLink(f"/{PIPELINE}/roi_ids"), "in a ring"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, place, value, reason):
    path = visual_coding(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        del file[place]
        if value is not None:
            file[place] = value
    with refused(path, reason):
        read_nwb(path)


def test_pixels_outside_of_the_image_are_refused(tmp_path):
    path = visual_coding(tmp_path / "a.nwb", drawn=False)
    for pixels in ([[30, 0]], [[0, 24]], [[-1, 0]]):
        with h5py.File(path, "a") as file:
            del file[f"{PLANE}/roi_1/pix_mask"]
            file[f"{PLANE}/roi_1/pix_mask"] = pixels
        with pytest.raises(RecordingError, match="roi_1/pix_mask: lies outside"):
            read_nwb(path)


def test_many_rois_that_a_short_list_declares_are_not_drawn(tmp_path):
    path = visual_coding(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        image = f"{PLANE}/reference_images/maximum_intensity_projection_image/data"
        del file[image], file[f"{PLANE}/roi_list"]
        file.create_dataset(image, (8192, 8192), "u1", chunks=(64, 64))
        file[f"{PLANE}/roi_list"] = np.array(["roi_0"] * 1000, "S")
    with pytest.raises(RecordingError, match=r"1000 ROIs would take 62\.5 GiB"):
        read_nwb(path)


@pytest.mark.parametrize("module", ["ophys", "two_photon_imaging"])
def test_visual_behavior_files_are_read(tmp_path, module):
    path = visual_behavior(tmp_path / "a.nwb", module=module)
    assert detect_format(path) == "nwb"
    found = read_nwb(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, MASKS)
    assert (found.id, found.roi_ids) == ("951980471", tuple(map(str, IDS)))
    assert found.group == "experiment_container_id=1018028339"
    assert found.remarks == ()
    expected = {
        "ophys_experiment_id": 951980471, "experiment_container_id": 1018028339,
        "imaging_depth": 175, "donor_name": "457841", "genotype": "Sst-IRES-Cre/wt",
        "location": "VISp", "indicator": "GCaMP6f", "excitation_lambda": 910.0,
        "um_per_px": 0.78, "sex": "F", "age": "P207D",
    }  # fmt: skip
    assert expected.items() <= found.metadata.items()


def test_invalid_rois_are_left_out_with_a_remark(tmp_path):
    found = read_nwb(visual_behavior(tmp_path / "a.nwb", valid=(True, False, True)))
    np.testing.assert_array_equal(found.masks, MASKS[[0, 2]])
    assert found.roi_ids == (str(IDS[0]), str(IDS[2]))
    assert found.remarks == ("1 of 3 ROIs are no neurons (valid_roi): left out",)


def test_recordings_of_the_institute_survive_a_round_trip(tmp_path):
    recording = read_nwb(visual_coding(tmp_path / "a.nwb"))
    write_nwb(tmp_path / "b.nwb", recording)
    found = read_nwb(tmp_path / "b.nwb")
    np.testing.assert_array_equal(found.masks, recording.masks)
    assert (found.id, found.group, found.metadata) == (
        recording.id, recording.group, recording.metadata,
    )  # fmt: skip
