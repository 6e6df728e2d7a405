import numpy as np

import fluxseg
from tests.commands import run


def recording(name):
    masks = np.zeros((2, 40, 48), bool)
    masks[0, 2:9, 2:9] = masks[1, 5:14, 5:14] = True
    image = np.random.default_rng(ord(name[0])).integers(0, 999, (40, 48), np.uint16)
    return fluxseg.Recording(name, image, masks, ("a", "b"), metadata={"um_per_px": 0.8})


def test_one_file_is_converted_with_remarks(tmp_path):
    fluxseg.write_recording(tmp_path / "a.npz", recording("a"))
    text = run("convert", tmp_path / "a.npz", tmp_path / "plane0")
    assert "zeros" in text
    again = fluxseg.read_recording(tmp_path / "plane0")
    np.testing.assert_array_equal(again.masks, recording("a").masks)
    text = run("convert", tmp_path / "plane0", tmp_path / "b_seg.npy")
    assert "several ROIs" in text
    text = run("convert", tmp_path / "a.npz", tmp_path / "plane0", code=2)
    assert "--overwrite" in text
    run("convert", tmp_path / "a.npz", tmp_path / "plane0", "--overwrite")
    assert "--format" in run("convert", tmp_path / "a.npz", tmp_path / "x.what", code=2)
    assert "no such" in run("convert", tmp_path / "none", tmp_path / "x.npz", code=2).lower()


def test_a_label_image_is_converted_with_its_image(tmp_path):
    fluxseg.write_recording(tmp_path / "made" / "a.tif", recording("a"))
    labels = tmp_path / "alone.tif"
    (tmp_path / "made" / "a_labels.tif").rename(labels)
    assert f"{labels}: holds no ROIs" in run("convert", labels, tmp_path / "x.zip", code=2)
    run("convert", labels, tmp_path / "x.npz", "--image", tmp_path / "made" / "a.tif")
    again = fluxseg.read_recording(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.masks.any(0), recording("a").masks.any(0))
    np.testing.assert_array_equal(again.image, recording("a").image)


def test_a_folder_is_converted_past_bad_files(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        fluxseg.write_recording(tmp_path / "in" / f"{name}.npz", recording(name))
    (tmp_path / "in" / "bad.npy").write_text("hello")
    assert "--format" in run("convert", tmp_path / "in", tmp_path / "out", code=2)
    text = run("convert", tmp_path / "in", tmp_path / "out", "--format", "coco", code=1)
    assert "failed: bad.npy: " in text
    assert str(tmp_path / "in") not in text
    assert "2 of 3" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.json", "a.tif", "b.json", "b.tif",
    ]  # fmt: skip
    assert "2 recordings" in run("check", tmp_path / "out")
