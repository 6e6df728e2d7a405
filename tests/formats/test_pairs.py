"""Image, labels, or something else: the table of `fluxseg.formats.pairs`, each kind of it."""

import dataclasses
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image

from fluxseg.data.checks import check_source
from fluxseg.errors import RecordingError
from fluxseg.formats import json_files
from fluxseg.formats.convert import read_recording, write_recording
from fluxseg.formats.imagej import write_imagej
from fluxseg.formats.movies import read_movie_facts
from fluxseg.formats.own import MARK, is_prediction, write_labels
from fluxseg.formats.sources import FolderSource, format_unused
from tests.formats.test_imagej import recording

IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
LABELS = np.zeros((40, 50), np.uint16)
LABELS[5:12, 5:12], LABELS[20:30, 22:31] = 1, 2


def put(folder, *names, labels=LABELS):
    """Write files: images, or labels where the name has a word of labels in it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        words = ("mask", "label", "lbl", "gt", "seg", "annotation", "truth")
        values = labels if any(word in name.lower() for word in words) else IMAGE
        if path.suffix.lower() == ".png":
            Image.fromarray(values.astype(np.uint8)).save(path)
        else:
            tifffile.imwrite(path, values)
    return FolderSource(str(folder))


def rois(folder, name, count=2):
    masks = np.stack([LABELS == 1, LABELS == 2])[:count]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_imagej(folder / name, recording(masks))


def annotated(source):
    """Return key -> number of ROIs, None if not annotated; every key must be read."""
    keys = source.keys()
    found = {key: source.read(key).masks for key in keys}
    return {key: None if masks is None else len(masks) for key, masks in found.items()}


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("a.tif", "a_masks.tif"), ("a.tif", "a-mask.png"), ("a.tif", "mask_a.tif"),
        ("a.tif", "a_Mask.tif"), ("a.tif", "a_seg.tif"), ("a.tif", "a_GT.tif"),
        ("a.tif", "a labels.tif"), ("a.tif", "a_MASK.TIF"), ("a.tif", "a_cp_masks.png"),
        ("a.ome.tif", "a_masks.ome.tif"), ("a.ome.tif", "a_label.tif"),
        ("a_img.tif", "a_masks.tif"), ("img_007.tif", "mask_007.tif"),
        ("AVG_mouse 1.tif", "mouse 1_labels.tif"), ("image.tif", "masks.tif"),
        ("field.tif", "mask.tif"), ("images/a.tif", "masks/a.tif"),
        ("Images/a.tif", "Masks/a.png"), ("images/a.tif", "labels/a.tif"),
        ("images/a.tif", "GT/a.tif"), ("images/a.tif", "masks/a_mask.tif"),
        ("train_images/a.tif", "train_masks/a.tif"),
        ("imagesTr/case_000_0000.tif", "labelsTr/case_000.tif"), ("a.tif", "masks/a.tif"),
        ("a.tif", "a ground truth.tif"), ("a_max.tif", "a_mask.tif"),
        ("images/train/a.tif", "masks/train/a.tif"), ("train/a.tif", "train_masks/a.tif"),
        ("a.tif", "Mask of a.tif"), ("a.tif", "Count Masks of a.tif"), ("a.tif", "a-lbl.tif"),
        ("a.tif", "a.tif_mask.png"), ("field.tif", "Label Image.tif"),
    ],
)  # fmt: skip
def test_labels_are_found_in_every_spelling(tmp_path, image, labels):
    source = put(tmp_path, image, labels)
    assert annotated(source) == {image: 2}
    assert source.survey().unused == {}
    assert labels.rpartition("/")[2] in source.stamp(image)
    found = source.read(image)
    np.testing.assert_array_equal(found.masks, [LABELS == 1, LABELS == 2])
    np.testing.assert_array_equal(found.image, IMAGE)


def test_names_with_a_word_inside_are_images(tmp_path):
    names = ("unmasked.tif", "segment1.tif", "masks1.tif", "gtx.tif", "labelled_m1.tif")
    assert annotated(put(tmp_path, *names, labels=IMAGE)) == dict.fromkeys(names)


def test_cellpose_outputs_that_hold_no_labels_are_not_images(tmp_path):
    source = put(tmp_path, "m.tif", "m_flows.tif", "m_cp_output.png", "m_cp_masks.png")
    assert annotated(source) == {"m.tif": 2}
    values = {"masks": (LABELS == 1).astype(np.uint16), "filename": "m.tif"}
    np.save(tmp_path / "m_seg.npy", np.array(values, dtype=object), allow_pickle=True)
    assert annotated(source) == {"m.tif": 1}
    assert format_unused(source.survey().unused) == [
        "not used: 2 (.png 1, .tif 1): output of Cellpose without labels",
        "not used: 1 (.png 1): the labels are taken from m_seg.npy",
    ]


def test_one_file_for_each_object(tmp_path):
    for cell in ("one", "two"):
        put(tmp_path, f"{cell}/images/{cell}.png")
        for number in (1, 2):
            mask = np.where(number == LABELS, 255, 0)
            put(tmp_path, f"{cell}/masks/{cell}{number}f.png", labels=mask)
    source = FolderSource(str(tmp_path))
    assert annotated(source) == {"one/images/one.png": 2, "two/images/two.png": 2}
    np.testing.assert_array_equal(
        source.read("one/images/one.png").masks, [LABELS == 1, LABELS == 2]
    )


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("a.tif", "a.zip"),
        ("a.tif", "a_rois.zip"),
        ("a.tif", "RoiSet_a.zip"),
        ("AVG_m1.tif", "RoiSet_AVG_m1.zip"),
        ("AVG_mouse 1.tif", "RoiSet mouse 1.zip"),
        ("a.tif", "RoiSet.zip"),
        ("a.tif", "RoiSet_0001.zip"),
        ("a.tif", "a.tif.zip"),
    ],
)
def test_roi_sets_find_their_image(tmp_path, image, name):
    source = put(tmp_path, image)
    rois(tmp_path, name)
    assert annotated(source) == {image: 2}
    # The same by the name of the set.
    assert len(read_recording(tmp_path / name).masks) == 2


@pytest.mark.parametrize("name", ["rois/a.zip", "RoiSet/RoiSet.zip", "ROI sets/a_rois.zip"])
def test_a_folder_of_roi_sets(tmp_path, name):
    rois(tmp_path, name)
    source = put(tmp_path, "a.tif")
    assert annotated(source) == {"a.tif": 2}
    put(tmp_path, "a2.tif", "a3.tif")
    rois(tmp_path, "rois/gone.zip")
    with pytest.raises(RecordingError, match="its image is not there"):
        source.read("rois/gone.zip")


def test_labels_that_nobody_claims_are_an_error_of_check(tmp_path):
    values = np.kron(LABELS, np.ones((2, 2), np.uint16))
    source = put(tmp_path, "a_cells_gt.tif", labels=values)
    (tmp_path / "a_cells_gt.tif").rename(tmp_path / "a_cells.tif")
    (row,) = check_source(source).rows
    assert row.status == "unusable"
    assert "name labels NAME_masks" in row.reasons[0]


def test_formats_of_microscopes_say_what_to_do(tmp_path):
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(100))
    source = put(tmp_path, "a.tif")
    assert format_unused(source.survey().unused)[0].endswith("save it as TIFF, as Fiji does")
    for read in (read_recording, read_movie_facts):
        with pytest.raises(RecordingError, match="save it as TIFF"):
            read(tmp_path / "a.czi")


def test_single_rois_are_a_set(tmp_path):
    source = put(tmp_path, "field.tif")
    for number, box in enumerate([(5, 5, 12, 12), (22, 20, 31, 30)]):
        left, top, right, bottom = box
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        roifile.ImagejRoi.frompoints(corners).tofile(tmp_path / f"{number:04d}-0100.roi")
    assert annotated(source) == {"field.tif": 2}
    folder = tmp_path / "more" / "RoiSet"
    put(folder.parent, "field.tif")
    shutil.copytree(
        tmp_path, folder, ignore=lambda _, names: [n for n in names if n[-4:] != ".roi"]
    )
    assert annotated(FolderSource(str(folder.parent))) == {"field.tif": 2}
    shutil.rmtree(folder.parent)
    for name in ("s0", "RoiSet_s1"):
        put(tmp_path / "each", f"{name[-2:]}.tif")
        (tmp_path / "each" / name).mkdir()
        shutil.copy(tmp_path / "0000-0100.roi", tmp_path / "each" / name)
    assert annotated(FolderSource(str(tmp_path / "each"))) == {"s0.tif": 1, "s1.tif": 1}
    shutil.rmtree(tmp_path / "each")
    put(tmp_path, "other.tif")
    assert source.keys() == ["0000-0100.roi", "0001-0100.roi", "field.tif", "other.tif"]
    with pytest.raises(RecordingError, match=r"its image is not there: looked for 0000-0100\.\*"):
        source.read("0000-0100.roi")


def test_sets_that_macos_has_zipped(tmp_path):
    source = put(tmp_path, "a.tif", "b.tif")
    rois(tmp_path, "inner.zip")
    inner = (tmp_path / "inner.zip").read_bytes()
    (tmp_path / "inner.zip").unlink()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as outer:
        outer.writestr("RoiSet.zip", inner)
        outer.writestr("__MACOSX/._RoiSet.zip", b"\0\5\x16\7")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as folder:
        for member in zipfile.ZipFile(io.BytesIO(inner)).namelist():
            folder.writestr(f"RoiSet/{member}", zipfile.ZipFile(io.BytesIO(inner)).read(member))
            folder.writestr(f"__MACOSX/RoiSet/._{member}", b"\0\5\x16\7")
    assert annotated(source) == {"a.tif": 2, "b.tif": 2}


def test_overlays_of_imagej_are_labels(tmp_path):
    corners = np.array([[5, 5], [12, 5], [12, 12], [5, 12]])
    overlay = [roifile.ImagejRoi.frompoints(corners, name="cell").tobytes()]
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, metadata={"Overlays": overlay})
    found = read_recording(tmp_path / "a.tif")
    assert found.roi_ids == ("cell",)
    np.testing.assert_array_equal(found.masks[0], LABELS == 1)
    assert any("ImageJ has saved inside" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("coco.json", "images"),
        ("annotations/coco.json", "images"),
        ("images/coco.json", "images"),
        ("annotations/coco.json", "images/train"),
    ],
)
def test_coco_of_many_images(tmp_path, place, folder):
    source = put(tmp_path, *(f"{folder}/{name}.tif" for name in "abc"))
    square = [[5, 5, 12, 5, 12, 12, 5, 12]]
    values = {
        "images": [{"id": n, "file_name": f"images/{name}.tif"} for n, name in enumerate("ab")],
        "annotations": [
            {"id": n, "image_id": n > 0, "category_id": 1, "segmentation": square} for n in range(3)
        ],
    }
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps(values))
    found = {f"{folder}/a.tif": 1, f"{folder}/b.tif": 2, f"{folder}/c.tif": None}
    assert annotated(source) == found


def test_files_of_coco_without_their_images_are_wrong(tmp_path):
    source = put(tmp_path, "one/a.tif", "two/b.tif")
    values = {"images": [{"id": 1, "file_name": "b.tif"}], "annotations": []}
    (tmp_path / "one" / "c.json").write_text(json.dumps(values))
    assert list(source.survey().wrong) == [tmp_path / "one" / "c.json"]


def test_what_is_left_of_suite2p_is_no_image(tmp_path):
    source = put(tmp_path, "a.tif")
    for name in ("F.npy", "spks.npy", "iscell.npy", "ops.npy"):
        np.save(tmp_path / name, IMAGE)
    assert annotated(source) == {"a.tif": None}
    assert "stat.npy and ops.npy" in format_unused(source.survey().unused)[0]


def test_folders_that_cellpose_writes(tmp_path):
    source = put(tmp_path, "m.tif", "masks/m_cp_masks.png", "flows/m_dP.tif", "flows/other.tif")
    assert annotated(source) == {"m.tif": 2, "flows/other.tif": None}


def test_sidecars_are_nothing(tmp_path):
    source = put(tmp_path, "raw.tif", "sub-01_2PE.tif")
    (tmp_path / "sub-01_2PE.json").write_text('{"TaskName": "rest"}')
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("notes.txt", "none")
    assert annotated(source) == {"raw.tif": None, "sub-01_2PE.tif": None}
    assert format_unused(source.survey().unused) == ["not used: 2 (.json 1, .zip 1): holds no ROIs"]


def test_nothing_vanishes(tmp_path):
    source = put(tmp_path, "a.tif")
    for name in ("b.bin", "c.bin", "d.xyz", "README", ".hidden", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.tif").write_bytes(b"x")
    counted = "not used: 4 (.bin 2, .xyz 1, no ending 1): ending that is not read"
    assert format_unused(source.survey().unused) == [counted]


@pytest.mark.parametrize(
    ("names", "wrong", "reason"),
    [
        (["b.tif", "a_masks.tif"], "a_masks.tif", r"its image is not there: looked for a\.\*"),
        (["images/b.tif", "masks/a.tif"], "masks/a.tif", r"looked for a\.\* in images/"),
        (["a.tif", "b.tif", "mask.tif"], "mask.tif", "not of which of 2 images"),
        (["a.tif", "a_mask.tif", "a_seg.png"], "a.tif", r"several .*: a_mask\.tif, a_seg\.png"),
        (["a.tif", "a.png", "a_mask.tif"], "a.tif", r"several images: a\.png, a\.tif"),
        (
            ["imagesTr/a_0000.tif", "imagesTr/a_0001.tif", "labelsTr/a.tif"],
            "imagesTr/a_0000.tif",
            r"several images: a_0000\.tif, a_0001\.tif",
        ),
    ],
)
def test_what_is_left_over_or_ambiguous_is_named(tmp_path, names, wrong, reason):
    source = put(tmp_path, *names)
    keys = source.keys()
    assert wrong in keys
    with pytest.raises(RecordingError, match=reason):
        source.read(wrong)


def test_a_set_for_one_of_several_images(tmp_path):
    source = put(tmp_path, "s0.tif", "s1.tif")
    rois(tmp_path, "RoiSet.zip")
    assert source.keys() == ["RoiSet.zip", "s0.tif", "s1.tif"]
    with pytest.raises(RecordingError, match="not of which of 2 images"):
        source.read("RoiSet.zip")
    with pytest.raises(RecordingError, match=r"several images are beside it: s0\.tif, s1\.tif"):
        read_recording(tmp_path / "RoiSet.zip")
    assert len(read_recording(tmp_path / "RoiSet.zip", tmp_path / "s1.tif").masks) == 2


def test_predictions_are_nothing_until_they_are_corrected(tmp_path):
    source = put(tmp_path, "a.tif")
    path = tmp_path / "a_labels.tif"
    write_labels(path, LABELS, 0.8)
    assert is_prediction(path)
    assert annotated(source) == {"a.tif": None}
    # Renamed, it is still what it is; a tool that keeps the tags has changed the pixels.
    path.rename(tmp_path / "picture.tif")
    assert source.keys() == ["a.tif"]
    with tifffile.TiffFile(tmp_path / "picture.tif") as tiff:
        software = tiff.pages[0].software
        assert tiff.imagej_metadata["max"] == 2
        assert np.shape(tiff.imagej_metadata["LUTs"]) == (3, 256)
        np.testing.assert_array_equal(tiff.asarray(), LABELS)
    (tmp_path / "picture.tif").unlink()
    corrected = np.where(LABELS == 2, 0, LABELS)
    tifffile.imwrite(path, corrected, software=software)
    assert annotated(source) == {"a.tif": 1}
    tifffile.imwrite(path, LABELS, software=software)
    assert annotated(source) == {"a.tif": None}


def test_copies_of_images_count_once_their_labels_are_corrected(tmp_path):
    made = recording(np.stack([LABELS == 1, LABELS == 2]))
    made = dataclasses.replace(made, image=IMAGE, metadata={"made_by": MARK})
    write_recording(tmp_path / "a_seg.npy", made, "cellpose")
    source = put(tmp_path, "b.tif")
    assert annotated(source) == {"b.tif": None}
    assert len(source.survey().unused) == 2
    # What Cellpose's GUI saves has lost the mark.
    values = {"masks": (LABELS == 1).astype(np.uint16), "filename": "a.tif"}
    np.save(tmp_path / "a_seg.npy", np.array(values, dtype=object), allow_pickle=True)
    assert annotated(source) == {"a.tif": 1, "b.tif": None}


def test_a_broken_json_file_is_parsed_once_for_all_images(tmp_path, monkeypatch):
    path, read, parsed = tmp_path / "coco.json", json_files.read_json_file, []
    path.write_text('{"images": [')
    monkeypatch.setattr(json_files, "read_json_file", lambda p: (parsed.append(p), read(p))[1])
    assert [json_files.look_into(path) for _ in range(3)] == [("", ())] * 3
    assert parsed == [path]
