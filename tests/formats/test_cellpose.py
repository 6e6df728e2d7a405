"""Files of Cellpose, its own and those written here."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.cellpose import outline_labels, read_cellpose, write_cellpose
from fluxseg.formats.convert import write_recording
from fluxseg.formats.finite import finite_image
from fluxseg.formats.labels import label_image, merge_labels
from tests.formats.refusal import refused

IMAGE = np.arange(30, dtype=np.uint16).reshape(5, 6)
MASKS = arrays(bool, st.tuples(st.integers(0, 5), st.just(5), st.just(6)))


def three():
    masks = np.zeros((3, 5, 6), bool)
    masks[0, :2, :2] = masks[1, 3:, 2:5] = masks[2, :3, 5] = True
    return masks


def recording(masks, image=IMAGE, **metadata):
    names = tuple(f"cell {k}" for k in range(len(masks)))
    return Recording("field 1", image, masks, names, "mouse 7", metadata)


def save(path, **values):
    np.save(path, values, allow_pickle=True)
    return path


def owner(masks, row, column):
    """The ROI that a pixel belongs to, by the rule: the smallest, of equals the first."""
    here = [(masks[k].sum(), k) for k in range(len(masks)) if masks[k, row, column]]
    return min(here)[1] + 1 if here else 0


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_a_pixel_belongs_to_the_smallest_roi_and_losses_are_counted(masks):
    labels, remarks = label_image(masks, [f"<{k}>" for k in range(len(masks))])
    expected = [[owner(masks, row, column) for column in range(6)] for row in range(5)]
    assert labels.tolist() == expected
    lost = sum((masks[k] & (labels != k + 1)).sum() for k in range(len(masks)))
    remarks = " | ".join(remarks)
    assert (f"{lost} pixels in several ROIs" in remarks) == (lost > 0)
    for k in range(len(masks)):
        assert (f"<{k}>" in remarks) == (not (labels == k + 1).any())


@settings(max_examples=40, deadline=None)
@given(masks=MASKS, holes=st.booleans())
def test_what_is_written_is_read_but_for_overlaps(masks, holes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg")
    image = IMAGE.astype(np.float32)
    if holes:
        image[1, 2:] = np.nan
    given_one = recording(masks, image, um_per_px=0.78, depth=200)
    remarks = write_cellpose(folder / "a_seg.npy", given_one)
    found = read_cellpose(folder / "a_seg.npy")
    labels, told = label_image(masks, given_one.roi_ids)
    left = [k for k in range(len(masks)) if (labels == k + 1).any()]
    assert found.roi_ids == tuple(f"cell {k}" for k in left)
    expected = np.reshape([labels == k + 1 for k in left], (-1, 5, 6))
    np.testing.assert_array_equal(found.masks, expected)
    np.testing.assert_array_equal(found.image, image)
    assert found.image.dtype == np.float32
    assert (found.id, found.group, found.remarks) == ("field 1", "mouse 7", ())
    assert found.metadata == {"um_per_px": 0.78, "depth": 200}
    assert remarks[: len(told)] == told
    assert any("not finite" in remark for remark in remarks) == holes


def test_the_dict_is_the_one_of_cellpose(tmp_path):
    masks = np.concatenate([three(), three()[:1]])
    masks[0] = masks[1]
    remarks = write_cellpose(tmp_path / "a_seg.npy", recording(masks))
    values = np.load(tmp_path / "a_seg.npy", allow_pickle=True).item()
    # The second ROI lost all of its pixels to its twin: labels close the gap.
    assert values["masks"].tolist() == [
        [3, 3, 0, 0, 0, 2], [3, 3, 0, 0, 0, 2], [0, 0, 0, 0, 0, 2],
        [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0],
    ]  # fmt: skip
    assert any("1 ROIs have no pixel of their own and are left out: cell 1" in r for r in remarks)
    assert any(r.startswith("6 pixels in several ROIs") for r in remarks)
    assert values["masks"].dtype == values["outlines"].dtype == np.uint16
    np.testing.assert_array_equal(values["outlines"], values["masks"])
    assert values["ismanual"].tolist() == [False] * 3
    assert values["ismanual"].dtype == bool
    assert values["chan_choose"] == [0, 0]
    assert values["filename"] == "a.tif"
    assert values["flows"] == [[], [], [], [], [[]]]
    assert values["diameter"] == pytest.approx(2 * (4 / np.pi) ** 0.5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), IMAGE)


def test_outlines_are_the_outer_border_of_each_label():
    labels = np.zeros((9, 9), np.uint16)
    labels[1:8, 1:8] = 1
    labels[3:6, 3:6] = 0
    labels[4, 4] = 1
    expected = np.where(labels == 1, 1, 0)
    expected[2:7, 2:7] = 0
    np.testing.assert_array_equal(outline_labels(labels), expected)
    labels[8, 8] = 2
    assert outline_labels(labels)[8, 8] == 2


def test_files_of_the_gui_are_read_with_the_image_they_name(tmp_path):
    labels = merge_labels(three())
    flows = [np.zeros((1, 5, 6, 3), "u1"), [], [], [np.zeros(3)], [[]]]
    values = {
        "masks": labels, "outlines": outline_labels(labels), "colors": np.zeros((3, 3), "u1"),
        "filename": "C:\\data\\..\\b.png", "flows": flows, "ismanual": np.ones(3, bool),
        "manual_changes": [], "model_path": 0, "flow_threshold": 0.4, "restore": None,
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0]}, "ratio": 1.0,
        "diameter": None,
    }  # fmt: skip
    path = save(tmp_path / "a_seg.npy", **values)
    with refused(path, r"image: is not there; put NAME\.tif"):
        read_cellpose(path)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    np.testing.assert_array_equal(read_cellpose(path).image, IMAGE)
    tifffile.imwrite(tmp_path / "b.png.tif", IMAGE)
    (tmp_path / "b.png.tif").rename(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "c.tif", IMAGE + 1)
    (tmp_path / "a.tif").unlink()
    found = read_cellpose(path)
    np.testing.assert_array_equal(found.masks, three())
    assert (found.id, found.roi_ids, found.group) == ("a", ("1", "2", "3"), "a")
    assert len(found.remarks) == 1
    np.testing.assert_array_equal(read_cellpose(path, tmp_path / "c.tif").image, IMAGE + 1)


def test_older_files_hold_their_image_and_count_from_minus_one(tmp_path):
    labels = merge_labels(three()).astype(np.int32) - 1
    color = np.stack([IMAGE, np.zeros_like(IMAGE), IMAGE], -1)
    path = save(tmp_path / "a_seg.npy", masks=labels, outlines=labels, img=color)
    found = read_cellpose(path)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, three())
    save(path, masks=labels, outlines=labels, img=np.stack([IMAGE, IMAGE + 1], 0))
    with pytest.raises(RecordingError, match="holds 2 channels"):
        read_cellpose(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"outlines": []}, "masks: must be a label image"),
        ({"masks": [1, 2]}, "masks: must be a label image"),
        ({"masks": np.zeros((3, 5, 6), "u2")}, "masks: must be one plane"),
        ({"masks": np.zeros((0, 6), "u2")}, "masks: must be one plane"),
        ({"masks": np.full((5, 6), -3)}, "masks: labels must be 0 or more"),
        ({"masks": np.full((5, 6), 0.5)}, "masks: labels must be whole"),
        ({"masks": np.zeros((5, 5), "u2"), "img": IMAGE}, "masks: are .* the image is"),
        ({"masks": np.zeros((5, 6), "u2"), "img": "text"}, "image: is not there"),
        ({"masks": np.zeros((5, 6), "u2"), "filename": "/"}, "image: is not there"),
        ({"masks": np.zeros((5, 6), "u2"), "filename": "a\0.tif"}, "image: is not there"),
        ({"masks": np.zeros((5, 6), "u2"), "img": IMAGE[None, None]}, "image: must be a 2-D"),
    ],
)
def test_what_cannot_be_used_names_file_and_field(tmp_path, values, reason):
    path = save(tmp_path / "a_seg.npy", **values)
    with refused(path, reason):
        read_cellpose(path)


def test_a_file_name_leads_nowhere_else(tmp_path):
    tifffile.imwrite(tmp_path / "secret.tif", IMAGE)
    (tmp_path / "in").mkdir()
    values = {"masks": np.zeros((5, 6), "u2"), "filename": str(tmp_path / "secret.tif")}
    with pytest.raises(RecordingError, match="image: is not there"):
        read_cellpose(save(tmp_path / "in" / "a_seg.npy", **values))


def test_names_that_cellpose_would_not_know_and_foreign_images_are_refused(tmp_path):
    given_one = recording(three())
    for name in ("a.npy", "_seg.npy", "a_seg.npz"):
        with pytest.raises(WorkdirError, match=r"NAME_seg\.npy"):
            write_cellpose(tmp_path / name, given_one)
    for name in ("a_masks.tif", "a.png"):
        with pytest.raises(WorkdirError, match="must be named as an image"):
            write_recording(tmp_path / name, given_one, "cellpose-pair")
    tifffile.imwrite(tmp_path / "a.tif", IMAGE + 1)
    with pytest.raises(WorkdirError, match="holds another image"):
        write_cellpose(tmp_path / "a_seg.npy", given_one)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), IMAGE + 1)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    before = (tmp_path / "a.tif").read_bytes()
    write_cellpose(tmp_path / "a_seg.npy", given_one)
    assert (tmp_path / "a.tif").read_bytes() == before
    for kind, name in (("cellpose", "b_seg.npy"), ("cellpose-pair", "b.tif")):
        with pytest.raises(RecordingError, match="not annotated"):
            write_recording(tmp_path / name, Recording("a", IMAGE), kind)


def test_only_what_is_not_finite_is_replaced():
    image = np.array([[np.nan, 2, np.inf], [-np.inf, 5, 7]])
    filled, remarks = finite_image(image)
    assert filled.tolist() == [[2, 2, 2], [2, 5, 7]]
    assert len(remarks) == 1
    assert finite_image(np.full((2, 2), np.nan))[0].tolist() == [[0, 0], [0, 0]]
    assert finite_image(np.eye(2, dtype=bool))[0].dtype == np.uint8
    assert finite_image(IMAGE)[0] is IMAGE
