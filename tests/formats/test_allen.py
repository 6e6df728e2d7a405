"""Recordings as dicts in `.npy` files, odd ones included."""

import datetime
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.allen import read_allen_npy, recording_from_mapping, write_allen_npy
from fluxseg.formats.metadata import clean_metadata, plain_text
from tests.formats.malicious import npy
from tests.formats.refusal import refused

IMAGE = np.arange(30, dtype=np.uint16).reshape(5, 6)
MASKS = np.zeros((3, 5, 6), bool)
MASKS[0, :2, :2] = MASKS[1, 1:4, 1:4] = MASKS[2, 4, 5] = True


def fields(**changes):
    values = {
        "id": 511510650,
        "metadata": {"experiment_container_id": 511510640, "cre_line": "Cux2"},
        "max_projection": IMAGE,
        "roi_ids": [11, 12, 13],
        "roi_mask_array": MASKS.astype(np.uint8),
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not ...}


def read_fields(**changes):
    return recording_from_mapping(fields(**changes), "session_7")


def save(path, values, protocol=4):
    path.write_bytes(npy(pickle.dumps(np.array(values, object), protocol)))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_usual_file_is_read_without_remarks(tmp_path, protocol):
    found = read_allen_npy(save(tmp_path / "a.npy", fields(), protocol))
    assert (found.id, found.group) == ("511510650", "experiment_container_id=511510640")
    assert found.roi_ids == ("11", "12", "13")
    assert found.remarks == ()
    assert found.metadata == {"experiment_container_id": 511510640, "cre_line": "Cux2"}
    assert found.image.dtype == np.uint16
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.masks, MASKS)


@settings(max_examples=100, deadline=None)
@given(
    masks=hnp.arrays(
        st.sampled_from(["?", "i1", "u1", "i2", "u2", ">i4", "u8", "f2", "f4", ">f8"]),
        st.tuples(st.integers(0, 4), st.just(5), st.just(6)),
        elements={"allow_nan": False, "allow_subnormal": False},
        fill=st.just(0),
    )
)
def test_every_value_above_0_is_in_the_mask(masks):
    found = read_fields(roi_mask_array=masks, roi_ids=list(range(len(masks))))
    np.testing.assert_array_equal(found.masks, masks > 0)
    assert found.masks.dtype == bool
    assert found.masks.view(np.uint8).max(initial=0) <= 1
    floats = any("every value above 0 counts" in remark for remark in found.remarks)
    assert floats == (masks.dtype.kind == "f" and len(masks) > 0)
    empty = sum(not (mask > 0).any() for mask in masks)
    assert any(f"{empty} of {len(masks)} ROIs are all-zero" in r for r in found.remarks) == (
        empty > 0
    )


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"max_projection": ...}, "max_projection", "is missing"),
        ({"max_projection": None}, "max_projection", "is missing"),
        ({"max_projection": np.zeros((2, 5, 6))}, "max_projection", r"got shape \[2, 5, 6\]"),
        ({"max_projection": np.zeros((5, 0))}, "max_projection", "has no pixels"),
        ({"max_projection": [[1, 2]]}, "max_projection", "got list"),
        ({"max_projection": np.zeros((5, 6), complex)}, "max_projection", "real numbers"),
        ({"max_projection": np.array([["a"]])}, "max_projection", "real numbers"),
        ({"roi_mask_array": ...}, "roi_mask_array", "is missing"),
        ({"roi_mask_array": None}, "roi_mask_array", "is missing"),
        ({"roi_mask_array": np.zeros((5, 6), bool)}, "roi_mask_array", "must be a 3-D array"),
        ({"roi_mask_array": np.zeros((3, 6, 5), bool)}, "roi_mask_array", r"\[6, 5\] pixels, the"),
        ({"roi_mask_array": np.full((3, 5, 6), np.nan)}, "roi_mask_array", "holds NaN"),
        ({"roi_mask_array": [MASKS]}, "roi_mask_array", "array of numbers .* got list"),
        ({"roi_mask_array": np.array(["a"])}, "roi_mask_array", "array of numbers"),
    ],
)
def test_what_cannot_be_used_names_file_and_field(changes, field, reason, tmp_path):
    path = save(tmp_path / "odd.npy", fields(**changes))
    with refused(f"{path}: {field}", reason):
        read_allen_npy(path)


@pytest.mark.parametrize(
    ("changes", "remark", "expected"),
    [
        ({"id": ...}, "no usable id", {"id": "session_7"}),
        ({"id": None}, "no usable id", {"id": "session_7"}),
        ({"id": " "}, "no usable id", {"id": "session_7"}),
        ({"id": {"a": 1}}, "no usable id", {"id": "session_7"}),
        ({"id": b"abc"}, "", {"id": "abc"}),
        ({"id": np.int64(7)}, "", {"id": "7"}),
        ({"id": np.array(7)}, "", {"id": "7"}),
        ({"id": 7.0}, "", {"id": "7"}),
        ({"metadata": ...}, "no metadata", {"metadata": {}, "group": "511510650"}),
        ({"metadata": [1]}, "metadata is not a dict", {"metadata": {}}),
        ({"metadata": {}}, "metadata name no group", {"group": "511510650"}),
        ({"metadata": {"donor_name": "m1"}}, "", {"group": "donor_name=m1"}),
        ({"metadata": {"specimen_id": 7}}, "", {"group": "specimen_id=7"}),
        ({"metadata": {"specimen_id": 7, "specimen_name": "a"}}, "", {"group": "specimen_name=a"}),
        ({"roi_ids": ...}, "roi_ids are missing", {"roi_ids": ("0", "1", "2")}),
        ({"roi_ids": [1, 2]}, "roi_ids do not name the 3 ROIs", {"roi_ids": ("0", "1", "2")}),
        ({"roi_ids": [1, 2, None]}, "roi_ids do not name", {"roi_ids": ("0", "1", "2")}),
        ({"roi_ids": [1, 2, 2]}, "name several ROIs alike", {"roi_ids": ("1", "2", "2")}),
        ({"roi_ids": np.array([1.0, 2.0, 3.0])}, "", {"roi_ids": ("1", "2", "3")}),
        ({"roi_ids": np.array(["a", "b", "c"])}, "", {"roi_ids": ("a", "b", "c")}),
        ({"roi_mask_array": np.zeros((0, 5, 6), "u1"), "roi_ids": []}, "", {"roi_ids": ()}),
        ({"roi_mask_array": np.zeros(0), "roi_ids": []}, "", {"roi_ids": ()}),
    ],
)  # fmt: skip
def test_what_is_odd_is_remarked_on(changes, remark, expected):
    found = read_fields(**changes)
    for name, value in expected.items():
        assert getattr(found, name) == value
    assert any(remark in text for text in found.remarks) if remark else found.remarks == ()


def test_big_endian_images_are_turned():
    found = read_fields(max_projection=IMAGE.astype(">f4"))
    assert found.image.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(found.image, IMAGE)


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
RECORDINGS = st.builds(
    lambda id, image, count, metadata, group, ids: Recording(
        id=id,
        image=image,
        masks=np.arange(count * image.size).reshape(count, *image.shape) % 3 == 0,
        roi_ids=tuple(ids[:count]),
        group=group,
        metadata=metadata,
    ),
    TEXTS.filter(lambda text: text.strip() and not text.endswith("\0")),
    hnp.arrays(
        st.sampled_from(["?", "u1", "u2", "i2", "i4", "f4", "f8"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    ),
    st.integers(0, 4),
    st.dictionaries(TEXTS | st.sampled_from(["donor_name", "specimen_id"]), JSON, max_size=4),
    st.sampled_from(["", "g", "donor_name=x"]),
    st.one_of(
        st.lists(st.integers(0, 10**20).map(str), min_size=4, max_size=4, unique=True),
        st.lists(st.sampled_from(["a", "01", "é", "7", "-1", "²"]), min_size=4, max_size=4),
    ),
)


def assert_same(found, recording):
    assert found.image.dtype == recording.image.dtype
    assert found.image.tobytes() == recording.image.tobytes()
    np.testing.assert_array_equal(found.masks, recording.masks)
    for name in ("id", "roi_ids", "group", "metadata"):
        assert getattr(found, name) == getattr(recording, name), name


@settings(max_examples=100, deadline=None)
@given(recording=RECORDINGS)
def test_what_is_written_is_read(recording, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.npy"
    write_allen_npy(path, recording)
    assert_same(read_allen_npy(path), recording)


def test_files_are_what_np_load_expects_too(tmp_path):
    write_allen_npy(tmp_path / "a", read_fields())
    values = np.load(tmp_path / "a", allow_pickle=True).item()
    assert list(values) == ["id", "metadata", "max_projection", "roi_ids", "roi_mask_array"]
    assert values["roi_mask_array"].dtype == np.uint8
    assert values["roi_ids"] == [11, 12, 13]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(RecordingError, match="a is not annotated"):
        write_allen_npy(tmp_path / "a.npy", Recording("a", IMAGE))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError):
        write_allen_npy(tmp_path / "file" / "a.npy", read_fields())


def test_metadata_becomes_plain():
    zone = datetime.timezone(datetime.timedelta(hours=-7))
    found = clean_metadata(
        {
            "start": datetime.datetime(2016, 2, 4, 10, 25, 24, tzinfo=zone),
            "day": datetime.date(2016, 2, 4), "age": np.int64(90), "depth": np.float32(0.5),
            "nan": float("nan"), "inf": np.float64("-inf"), 3: (1, 2), b"key": b"text",
            None: {True, 2}, "when": np.datetime64("2020-01-01"), "generic": np.timedelta64(3),
            "complex": 1 + 2j, "long": np.longdouble(0.5), "small": np.arange(4).reshape(2, 2),
            "large": np.zeros((300, 300)), "flag": np.True_, "half": "a\ud800b", "huge": 10**5000,
            "other": object, "objects": np.array([1, "a"], object), "zero": np.array(5),
        }
    )  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found, ensure_ascii=False).encode()
    assert found["start"] == "2016-02-04T10:25:24-07:00"
    assert found["day"] == "2016-02-04"
    assert (found["age"], found["depth"], found["long"], found["zero"]) == (90, 0.5, 0.5, 5)
    assert (found["nan"], found["inf"], found["flag"]) == ("nan", "-inf", True)
    assert (found["3"], found["key"], found["None"]) == ([1, 2], "text", [2, True])
    assert (found["small"], found["large"]) == ([[0, 1], [2, 3]], "array [300, 300] of float64")
    assert found["objects"] == [1, "a"]
    assert found["huge"] == "a number of 16610 bits"


@settings(max_examples=100, deadline=None)
@given(
    metadata=st.dictionaries(
        st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.floats()),
        st.recursive(
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(),
                st.text(st.characters()), st.binary(), st.datetimes(), st.dates(), st.times(),
                st.timedeltas(), st.decimals(), st.uuids(), st.fractions(), st.sets(st.integers()),
                hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0)),
                hnp.scalar_dtypes().flatmap(hnp.from_dtype),
            ),
            lambda inner: st.lists(inner) | st.dictionaries(st.integers(), inner),
            max_leaves=6,
        ),
        max_size=5,
    )
)  # fmt: skip
def test_no_metadata_fails_and_cleaning_twice_changes_nothing(metadata):
    found = clean_metadata(metadata)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert clean_metadata(found) == found


def test_metadata_is_bounded():
    deep: dict = {}
    for _ in range(2000):
        deep = {"a": deep}
    wide = {str(i): list(range(1000)) for i in range(1000)}
    shared: list = [1]
    for _ in range(60):
        shared = [shared, shared]
    endless: list = []
    endless.append(endless)
    for metadata in (deep, wide, {"a": shared}, {"a": endless}, {"a": "x" * 10**7}):
        found = clean_metadata(metadata)
        assert "..." in json.dumps(found)
        assert len(json.dumps(found)) < 200_000
        assert clean_metadata(found) == found


def test_names_are_texts():
    values = ["a", b"a", 3, 3.0, np.int8(3), np.array([3]), np.str_("a"), np.array("a")]
    assert [plain_text(v) for v in values] == ["a", "a", "3", "3", "3", "3", "a", "a"]
    for value in (None, "", " ", True, 2.5, float("nan"), [], np.zeros(2), np.array([{}], object)):
        assert plain_text(value) is None
