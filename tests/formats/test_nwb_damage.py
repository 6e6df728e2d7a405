"""NWB files whose tables do not fit, that lead elsewhere, or that declare too much."""

import zlib

import h5py
import numpy as np
import pytest

from fluxseg.errors import RecordingError
from fluxseg.formats import allen_nwb, labels
from fluxseg.formats.nwb import read_nwb
from fluxseg.formats.nwb_write import write_nwb
from tests.formats.refusal import refused
from tests.formats.test_nwb import NAMED


def _table(file):
    return file["processing/ophys/ImageSegmentation/PlaneSegmentation"]


def _replace(group, name, data):
    del group[name]
    group[name] = data


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: _replace(t, "pixel_mask_index", [999, 3, 4, 5]), "does not divide"),
        (lambda t: _replace(t, "pixel_mask_index", [1.5]), "whole numbers"),
        (lambda t: t.pop("pixel_mask_index"), "is missing"),
        (lambda t: _replace(t, "pixel_mask", np.zeros(5)), "must hold x, y and weight"),
        (lambda t: _replace(t, "pixel_mask", [b"a"]), "must hold numbers"),
        (lambda t: t["pixel_mask"].write_direct(np.full(t["pixel_mask"].shape, 900,
                                                        t["pixel_mask"].dtype)), "do not fit"),
    ],
)  # fmt: skip
def test_inconsistent_tables_are_said(tmp_path, spoil, reason):
    path = tmp_path / "a.nwb"
    write_nwb(path, NAMED)
    with h5py.File(path, "a") as file:
        spoil(_table(file))
    with refused(path, reason):
        read_nwb(path)


def test_no_other_file_is_opened(tmp_path):
    other, path = tmp_path / "other.nwb", tmp_path / "a.nwb"
    write_nwb(other, NAMED)
    for place in ("processing", "processing/ophys/projections/max_projection",
                  "processing/ophys/ImageSegmentation/PlaneSegmentation/pixel_mask",
                  "general/notes"):  # fmt: skip
        write_nwb(path, NAMED)
        with h5py.File(path, "a") as file:
            del file[place]
            file[place] = h5py.ExternalLink(str(other), place)
        with pytest.raises(RecordingError, match="in another file"):
            read_nwb(path)
    write_nwb(path, NAMED)
    with h5py.File(path, "a") as file:
        images = file["processing/ophys/projections"]
        del images["max_projection"]
        image = images.create_dataset("max_projection", (30, 20), "u2", external=str(other))
        image.attrs["neurodata_type"] = "GrayscaleImage"
    with pytest.raises(RecordingError, match="lies in another file"):
        read_nwb(path)


def test_sizes_are_checked_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MAX_BYTES", 2**24)
    monkeypatch.setattr(allen_nwb, "MAX_PIXELS", 2**17)
    paths = [tmp_path / f"{number}.nwb" for number in range(4)]
    for path in paths:
        write_nwb(path, NAMED)
    with h5py.File(paths[0], "a") as file:
        del _table(file)["pixel_mask"], _table(file)["pixel_mask_index"]
        _table(file).create_dataset("image_mask", (10**5, 30, 20), "u1", chunks=(1, 30, 20))
    with h5py.File(paths[1], "a") as file:
        images = file["processing/ophys/projections"]
        del images["max_projection"]
        images.create_dataset("max_projection", (2**20, 2**20), "u2", chunks=(8, 8))
    with h5py.File(paths[2], "a") as file:
        images = file["processing/ophys/projections"]
        del images["max_projection"]
        bomb = images.create_dataset("max_projection", (64, 64), "u1", chunks=(64, 64),
                                     compression="gzip")  # fmt: skip
        bomb.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**24), 9))
    with h5py.File(paths[3], "a") as file:
        table = _table(file)
        del table["pixel_mask"], table["pixel_mask_index"]
        table.create_dataset("pixel_mask", (10**9, 3), "f8", chunks=(8, 3))
        table["pixel_mask_index"] = [10**9]
    for path, reason in zip(paths, ("ROIs would take", "limit", "damaged", "limit"), strict=True):
        with refused(path, reason, memory=2**25):
            read_nwb(path)
