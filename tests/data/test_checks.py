import dataclasses
import functools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.checks import (
    MAX_ROIS,
    check_source,
    inspect_image,
    inspect_masks,
)
from fluxseg.data.recording import Recording
from fluxseg.data.transforms import merge_and_count
from fluxseg.errors import RecordingError
from tests.data.fields import create_sessions

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


@functools.cache
def images():
    return create_sessions(4, 3)[0]


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A small data set with one of every trouble."""

    broken: bool = False

    def keys(self) -> list[str]:
        names = "a a-copy b c constant d e-1 e-2 e-3 garbled gone huge plain"
        return names.split() + ["zz-broken"] * self.broken

    def read(self, key: str) -> Recording:
        scenes = images()
        masks = np.zeros((2, *scenes[0].shape), bool)
        masks[:, 40:60, 40:60] = True
        ids = ("0", "1")

        def recording(image, **changes):
            values = {"id": key, "image": image, "masks": masks, "roi_ids": ids, **changes}
            return Recording(**values)

        match key:
            case "a" | "a-copy":
                return recording(scenes[0])
            case "b":
                return recording(scenes[1])
            case "c" | "d":
                return recording(scenes[3 if key == "c" else 6], id="same", group=f"group {key}")
            case "constant":
                return recording(np.full_like(scenes[0], 9))
            case "e-1" | "e-2" | "e-3":
                return recording(scenes[8 + int(key[-1])], group="field e")
            case "garbled":
                raise RecordingError("max_projection", "is missing")
            case "gone":
                raise FileNotFoundError(2, "No such file", "gone.npy")
            case "huge":
                raise MemoryError
            case "plain":
                return Recording("plain", RAMP)
        raise KeyError(key)

    def stamp(self, key: str) -> str:
        return key

    def describe(self) -> dict[str, Any]:
        return {}


def test_report():
    seen = []
    report = check_source(Scenes(), progress=lambda *numbers: seen.append(numbers))
    rows = {row.key: row for row in report.rows}
    assert [row.key for row in report.rows] == Scenes().keys()
    assert seen == [(n, 13) for n in range(1, 14)]
    unusable = {"a-copy", "constant", "garbled", "gone", "huge"}
    assert {key for key, row in rows.items() if row.status == "unusable"} == unusable
    assert {key for key, row in rows.items() if row.status == "remark"} == {*"abcd"}
    assert report.counts == {"usable": 4, "remark": 4, "unusable": 5}
    assert report.duplicates == (("a", "a-copy"),)
    assert rows["a-copy"].reasons == ("exact copy of a",)
    assert "same field of view as b" in rows["a"].reasons[0]
    assert "same field of view as a" in rows["b"].reasons[0]
    assert rows["c"].reasons == ("the id 'same' is also that of d",)
    assert rows["constant"].reasons == ("image is constant: every pixel is 9",)
    assert rows["garbled"].reasons == ("max_projection: is missing",)
    assert "gone.npy" in rows["gone"].reasons[0]
    assert "memory" in rows["huge"].reasons[0]
    within = [pair for pair in report.near_duplicates if pair.same_group]
    triple = [("e-1", "e-2"), ("e-1", "e-3"), ("e-2", "e-3")]
    assert [(pair.first, pair.second) for pair in within] == triple
    assert [(p.first, p.second) for p in report.near_duplicates if not p.same_group] == [("a", "b")]


def test_more_processes_give_the_same_report():
    one = check_source(Scenes()).to_json()
    assert json.dumps(check_source(Scenes(), workers=2).to_json()) == json.dumps(one)
    assert one["recordings"][0]["shape"] == (256, 256)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_of_the_reader_is_not_hidden(workers):
    with pytest.raises(KeyError, match="zz-broken"):
        check_source(Scenes(broken=True), workers=workers)


@pytest.mark.parametrize(
    ("image", "unusable", "remark"),
    [
        (RAMP, "", ""),
        (RAMP.astype(np.float32), "", ""),
        (RAMP[:31], "31 x 48", ""),
        (np.full((40, 40), np.nan), "no finite pixel", ""),
        (np.full((40, 40), np.inf), "no finite pixel", ""),
        (np.where(RAMP == 5, np.nan, 3.0), "constant: every pixel is 3.0", "1 pixels are NaN"),
        (np.where(RAMP < 7, np.inf, RAMP), "", "7 pixels are NaN or infinite"),
        (np.minimum(RAMP, 3000), "", "2.3% of the pixels are at the largest value, 3000"),
        (np.minimum(RAMP, 3050), "", ""),
        (np.minimum(RAMP, 1000).astype(float), "saturated: 67.4%", ""),
        (np.clip(RAMP, 0, 255).astype(np.uint8), "saturated: 91.7%", ""),
    ],
)
def test_inspect_image(image, unusable, remark):
    reason, remarks = inspect_image(image)
    assert unusable in reason
    assert bool(unusable) == bool(reason)
    assert remark in "; ".join(remarks)
    assert bool(remark) == bool(remarks)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.99), dtype=st.sampled_from(["u1", "u2", "f4"]))
def test_saturation_is_a_share_of_the_pixels(share, dtype):
    image = np.random.default_rng(0).integers(0, 200, 2500).astype(dtype)
    count = int(share * 2500)
    image[:count] = 250
    reason, remarks = inspect_image(image.reshape(50, 50))
    # The 200 values below are too many for one of them to reach 1 %.
    assert bool(reason) == (count > 1250)
    assert bool(remarks) == (25 < count <= 1250)


@pytest.mark.parametrize(
    ("masks", "remark"),
    [
        (None, "not annotated"),
        (np.zeros((0, 40, 40), bool), "without any ROI"),
        (np.zeros((3, 40, 40), bool), "3 of 3 ROIs are all-zero"),
        (np.ones((1, 40, 40), bool), "cover 100%"),
        (np.arange(40)[None, :, None] + np.zeros((2, 40, 40)) < 24, ""),
        (np.arange(40)[None, :, None] + np.zeros((2, 40, 40)) < 25, "cover 62%"),
        (np.eye(40, dtype=bool)[None].repeat(MAX_ROIS + 1, 0), "2001 ROIs are unusually many"),
        (np.eye(40, dtype=bool)[None].repeat(MAX_ROIS, 0), ""),
    ],
)
def test_inspect_masks(masks, remark):
    label, empty = (None, 0) if masks is None else merge_and_count(masks)
    remarks = inspect_masks(masks, label, empty)
    assert remark in "; ".join(remarks)
    assert bool(remark) == bool(remarks)
