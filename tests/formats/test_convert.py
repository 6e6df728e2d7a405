import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats.coco import (
    compress_counts,
    decode_counts,
    decompress_counts,
    encode_counts,
    read_coco,
)
from fluxseg.formats.convert import detect_format, read_recording, write_recording
from fluxseg.formats.formats import ENDINGS
from fluxseg.formats.neurofinder import read_neurofinder
from fluxseg.formats.sources import FolderSource

RNG = np.random.default_rng(0)
MASK = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
LABELS_ONLY = ("labels", "cellpose", "cellpose-pair")
KEEP_ALL = ("allen", "npz", "suite2p", "nwb", "neurofinder", "coco", "cellpose")


def field(apart=False):
    masks = np.zeros((4, 40, 50), bool)
    masks[0, 3:12, 3:12] = True
    masks[0, 6:8, 6:8] = False
    masks[1, 20:30, 20:30] = masks[1, 32:35, 40:44] = True
    masks[2, 15:24, 5:15] = True
    masks[3, 36:40, 0:4] = True
    if not apart:
        masks[2, 18:26, 12:24] = True
    image = RNG.integers(0, 4000, (40, 50), np.uint16)
    return Recording(
        id="mouse 1/day ü",
        image=image,
        masks=masks,
        roi_ids=("a", "b", "c", "d"),
        group="donor_id=7",
        metadata={"um_per_px": 0.8, "donor_id": "7", "depth": 175},
    )


@pytest.mark.parametrize("name", list(ENDINGS))
def test_every_format_is_written_detected_and_read_back(tmp_path, name):
    recording = field(apart=name in LABELS_ONLY)
    path = tmp_path / f"x{ENDINGS[name]}"
    write_recording(path, recording, name)
    if name == "imagej":
        tifffile.imwrite(tmp_path / "x.tif", recording.image)
    expected = {"labels": "image", "cellpose-pair": "image"}.get(name, name)
    assert detect_format(path) == expected
    again = read_recording(path)
    np.testing.assert_array_equal(again.masks, recording.masks)
    np.testing.assert_array_equal(again.image, recording.image)
    assert again.image.dtype == recording.image.dtype
    if name != "imagej":
        assert again.metadata["um_per_px"] == pytest.approx(0.8, rel=1e-6)
    if name in KEEP_ALL:
        assert again.roi_ids == recording.roi_ids
        assert again.id == recording.id
        assert again.group == recording.group
        assert again.metadata["depth"] == 175
    keys = FolderSource(str(tmp_path)).keys()
    assert keys == ["x.tif" if (tmp_path / "x.tif").exists() and name != "npz" else path.name]
    assert len(FolderSource(str(tmp_path)).read(keys[0]).masks) == 4
    stamp = FolderSource(str(tmp_path)).stamp(keys[0])
    assert stamp == FolderSource(str(tmp_path)).stamp(keys[0])


@pytest.mark.parametrize("name", LABELS_ONLY)
def test_what_labels_cannot_hold_is_said(tmp_path, name):
    remarks = write_recording(tmp_path / f"x{ENDINGS[name]}", field(), name)
    assert any("several ROIs" in remark for remark in remarks)


@pytest.mark.parametrize(("name", "numbers"), [("labels", [1, 3, 4]), ("cellpose-pair", [1, 2, 3])])
def test_labels_keep_the_numbers_of_rois_but_for_cellpose(tmp_path, name, numbers):
    recording = field(apart=True)
    # Of twins the second one loses all of its pixels.
    recording.masks[1] = recording.masks[0]
    write_recording(tmp_path / "x.tif", recording, name)
    word = "labels" if name == "labels" else "masks"
    labels = tifffile.imread(tmp_path / f"x_{word}.tif")
    assert np.unique(labels).tolist() == [0, *numbers]


@settings(max_examples=60, deadline=None)
@given(MASK)
def test_run_lengths_are_those_of_pycocotools(mask):
    counts = encode_counts(mask)
    np.testing.assert_array_equal(decode_counts(counts, mask.shape), mask)
    text = compress_counts(counts)
    assert decompress_counts(text) == counts
    reference = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert text == reference["counts"].decode()


# Its own arrays know nothing of numpy 2's copy keyword yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_what_we_wrote(tmp_path):
    recording = field()
    write_recording(tmp_path / "x.json", recording)
    found = COCO(str(tmp_path / "x.json"))
    annotations = found.loadAnns(found.getAnnIds(imgIds=[1]))
    masks = np.stack([found.annToMask(a) > 0 for a in annotations])
    np.testing.assert_array_equal(masks, recording.masks)
    assert [a["area"] for a in annotations] == recording.masks.sum((1, 2)).tolist()
    assert [a["bbox"] for a in annotations] == [
        coco_mask.toBbox(a["segmentation"]).tolist() for a in annotations
    ]


def test_coco_of_others_with_polygons_and_several_images(tmp_path):
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((20, 30), np.uint8))
    values = {
        "images": [{"id": 5, "file_name": "a.tif"}, {"id": 6, "file_name": "b.tif"}],
        "annotations": [
            {"id": 1, "image_id": 6, "segmentation": [[2, 3, 9, 3, 9, 8, 2, 8]]},
            {"id": 2, "image_id": 6, "segmentation": {"size": [20, 30], "counts": [45, 5, 550]}},
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(RecordingError, match=r"a\.tif, b\.tif"):
        read_coco(tmp_path / "x.json")
    found = read_coco(tmp_path / "x.json", tmp_path / "b.tif")
    assert found.masks.sum((1, 2)).tolist() == [35, 5]
    assert found.masks[0, 3:8, 2:9].all()
    assert found.masks[1, 5:10, 2].all()
    values["annotations"][1]["iscrowd"] = 1
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert "1 ROIs are marked" in read_coco(tmp_path / "x.json", tmp_path / "b.tif").remarks[-1]
    for annotation in values["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(RecordingError, match="these are boxes, no outlines"):
        read_coco(tmp_path / "x.json", tmp_path / "b.tif")


def test_neurofinder_in_either_order_and_from_frames(tmp_path):
    (tmp_path / "n" / "images").mkdir(parents=True)
    (tmp_path / "n" / "regions").mkdir()
    frames = RNG.integers(0, 255, (3, 20, 30), np.uint8)
    for number, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / "n" / "images" / f"image{number:05d}.tiff", frame)
    region = {"coordinates": [[1, 25], [2, 25]]}
    (tmp_path / "n" / "regions" / "regions.json").write_text(json.dumps([region]))
    (tmp_path / "n" / "info.json").write_text(json.dumps({"pixels-per-micron": 1.25}))
    found = read_neurofinder(tmp_path / "n")
    np.testing.assert_array_equal(found.image, frames.max(0))
    assert found.masks[0, 1, 25]
    assert found.masks.sum() == 2
    assert found.metadata["um_per_px"] == 0.8
    told = {"pixels-per-micron": 1.25, "um_per_px": None}
    (tmp_path / "n" / "info.json").write_text(json.dumps(told))
    assert read_neurofinder(tmp_path / "n").metadata["um_per_px"] == 0.8
    (tmp_path / "n" / "info.json").unlink()
    assert "um_per_px" not in read_neurofinder(tmp_path / "n").metadata
    region = {"coordinates": [[25, 1]]}
    (tmp_path / "n" / "regions" / "regions.json").write_text(json.dumps([region]))
    with pytest.raises(RecordingError, match=r"outside of 20 x 30 px; must be \(row, column\)"):
        read_neurofinder(tmp_path / "n")
