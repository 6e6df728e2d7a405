"""What `fluxseg predict` writes for other tools: its confidence, and whether it is known again."""

import json

import h5py
import numpy as np
import pytest

from fluxseg.formats.convert import read_recording
from fluxseg.formats.finite import COPY
from fluxseg.formats.own import MARK, OWN, is_prediction
from fluxseg.formats.sources import FolderSource, survey
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.outputs import Prediction, write_prediction

FILES = {
    "suite2p": "a_suite2p", "nwb": "a.nwb", "neurofinder": "a_neurofinder", "coco": "a.json"
}  # fmt: skip


def predict(folder, kind, blobs=3):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    probability = np.full((64, 80), 0.01, np.float32)
    for number in range(blobs):
        probability[10:24, 8 + 22 * number : 24 + 22 * number] = 0.9 - 0.1 * number
    image = (1000 * probability + rng.normal(100, 10, probability.shape)).astype(np.float32)
    maps = {"probability": probability, "mask": (probability >= 0.5).astype(np.uint8)}
    found = Prediction("a", image, find_rois(probability, um_per_px=1.0), maps)
    return write_prediction(folder, found, [kind])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("blobs", [0, 3])
def test_own_output_is_known_until_it_is_corrected(tmp_path, kind, blobs):
    path = tmp_path / FILES[kind]
    predict(tmp_path, kind, blobs)
    assert is_prediction(path)
    # Beside a COCO file is a copy of its image.
    copies = (tmp_path / "a.tif",) if kind == "coco" else ()
    assert COPY.startswith(MARK)
    assert survey(tmp_path).recordings == ()
    assert survey(tmp_path).unused == dict.fromkeys((path, *copies), OWN)
    # What is not corrected is written again.
    assert predict(tmp_path, kind, blobs)[1] == []
    if not blobs:
        return
    if kind == "suite2p":
        cells = np.load(path / "iscell.npy")
        cells[1, 0] = 0
        np.save(path / "iscell.npy", cells)
    elif kind == "nwb":
        with h5py.File(path, "r+") as file:
            pixels = file["processing/ophys/ImageSegmentation/PlaneSegmentation/pixel_mask"]
            row = pixels[0]
            row["x"] += 1
            pixels[0] = row
    elif kind == "coco":
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "annotations": values["annotations"][1:]}))
    else:
        regions = json.loads((path / "regions" / "regions.json").read_text())
        (path / "regions" / "regions.json").write_text(json.dumps(regions[1:]))
    assert not is_prediction(path)
    key = "a.tif" if kind == "coco" else path.name
    assert FolderSource(str(tmp_path)).keys() == [key]
    assert len(FolderSource(str(tmp_path)).read(key).masks) in (2, 3)
    assert "kept as it is" in predict(tmp_path, kind, blobs)[1][0]


@pytest.mark.parametrize("kind", ["suite2p", "nwb", "coco"])
def test_confidence_goes_out_and_comes_back(tmp_path, kind):
    predict(tmp_path, kind)
    path = tmp_path / FILES[kind]
    quality = read_recording(path).metadata["roi_quality"]
    assert len(quality) == 3
    assert all(0 < value <= 1 for value in quality)
    if kind == "coco":
        annotations = json.loads(path.read_text())["annotations"]
        assert [annotation["score"] for annotation in annotations] == quality
    elif kind == "nwb":
        with h5py.File(path) as file:
            plane = file["processing/ophys/ImageSegmentation/PlaneSegmentation"]
            assert plane["confidence"][:].tolist() == quality
            assert "confidence" in plane.attrs["colnames"]
    else:
        assert np.load(path / "iscell.npy")[:, 1].tolist() == quality
