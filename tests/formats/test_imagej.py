import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats.convert import read_recording
from fluxseg.formats.imagej import read_imagej, read_imagej_rois, write_imagej

MASKS = arrays(bool, st.tuples(st.integers(1, 4), st.just(9), st.just(11)))


def recording(masks, names=None):
    names = names or tuple(f"cell {i}" for i in range(len(masks)))
    return Recording("field", np.zeros(masks.shape[1:]), masks, names)


@settings(max_examples=15, deadline=None)
@given(MASKS)
def test_ten_round_trips_change_no_pixel(tmp_path_factory, masks):
    masks[:, 0, 0] = True
    path = tmp_path_factory.mktemp("rois") / "set.zip"
    again, names = masks, recording(masks).roi_ids
    for _ in range(10):
        write_imagej(path, recording(again, names))
        again, names, remarks = read_imagej_rois(path, masks.shape[1:])
        assert not remarks
    np.testing.assert_array_equal(again, masks)
    assert names == recording(masks).roi_ids


def test_roifile_reads_what_we_wrote_with_area_and_names(tmp_path):
    masks = np.zeros((3, 40, 50), bool)
    masks[0, 3:9, 4:12] = True
    masks[1, 20:30, 20:30] = True
    masks[1, 24:26, 24:26] = False
    masks[2, 0:3, 0:2] = masks[2, 10:12, 45:50] = True
    write_imagej(tmp_path / "set.zip", recording(masks, ("../../etc/x", "Zelle ü", "b")))
    rois = roifile.roiread(tmp_path / "set.zip")
    assert [roi.name for roi in rois] == ["../../etc/x", "Zelle ü", "b"]
    assert rois[0].roitype == roifile.ROI_TYPE.POLYGON
    assert (rois[0].left, rois[0].top, rois[0].right, rois[0].bottom) == (4, 3, 12, 9)
    assert [roi.composite for roi in rois] == [False, True, True]
    for roi, mask in zip(rois, masks, strict=True):
        area = 0.0
        for ring in roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]:
            x, y = ring.T.astype(float)
            area += np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2
        assert area == mask.sum()
    members = zipfile.ZipFile(tmp_path / "set.zip").namelist()
    assert members == ["1.roi", "2.roi", "3.roi"]


def test_other_kinds_of_rois_are_read_and_lines_named(tmp_path, caplog):
    kinds = []
    for number, kind in enumerate((roifile.ROI_TYPE.RECT, roifile.ROI_TYPE.OVAL)):
        roi = roifile.ImagejRoi()
        roi.roitype, roi.name = kind, kind.name
        roi.left, roi.top, roi.right, roi.bottom = 5 + 20 * number, 10, 15 + 20 * number, 22
        kinds.append(roi)
    freehand = roifile.ImagejRoi.frompoints(np.array([[1.5, 1.5], [6.5, 1.5], [6.5, 6.5]]))
    line = roifile.ImagejRoi()
    line.roitype, line.name = roifile.ROI_TYPE.LINE, "a line"
    nothing = roifile.ImagejRoi()
    nothing.roitype, nothing.name = roifile.ROI_TYPE.NOROI, "nothing"
    roifile.roiwrite(tmp_path / "RoiSet.zip", [*kinds, freehand, line, nothing], mode="w")
    masks, names, remarks = read_imagej_rois(tmp_path / "RoiSet.zip", (40, 60))
    assert len(masks) == 3
    assert names[:2] == ("RECT", "OVAL")
    assert masks[0].sum() == 120
    assert masks[0, 10:22, 5:15].all()
    y, x = np.mgrid[:40, :60] + 0.5
    np.testing.assert_array_equal(masks[1], ((x - 30) / 5) ** 2 + ((y - 16) / 6) ** 2 < 1)
    assert masks[2].any()
    assert any("a line" in remark for remark in remarks)
    assert not caplog.records


def test_a_set_is_read_with_the_image_of_its_name(tmp_path):
    masks = np.zeros((1, 20, 30), bool)
    masks[0, 2:5, 2:5] = True
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "b.tif", image)
    write_imagej(tmp_path / "a_rois.zip", recording(masks))
    found = read_recording(tmp_path / "a_rois.zip")
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.masks, masks)
    write_imagej(tmp_path / "c.zip", recording(masks))
    with pytest.raises(RecordingError, match="no image"):
        read_imagej(tmp_path / "c.zip")
    given_image = read_imagej(tmp_path / "c.zip", image=tmp_path / "b.tif")
    np.testing.assert_array_equal(given_image.masks, masks)
