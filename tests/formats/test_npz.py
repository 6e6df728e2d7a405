"""Recordings in `.npz` files, made by others or to harm."""

import io
import pickle
import struct
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings

from fluxseg.errors import RecordingError, UnsafeFileError
from fluxseg.formats import npz
from fluxseg.formats.npz import read_npz, write_npz
from fluxseg.formats.pick import Pick
from tests.formats.malicious import npy, unsafe
from tests.formats.refusal import refused
from tests.formats.test_allen import IMAGE, MASKS, RECORDINGS, assert_same


def save(path, **fields):
    np.savez_compressed(path, **fields)
    return path


def save_members(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def member(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@settings(max_examples=30, deadline=None)
@given(recording=RECORDINGS)
def test_what_is_written_is_read(recording, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.npz"
    write_npz(path, recording)
    assert_same(read_npz(path), recording)


@pytest.mark.parametrize(
    "masks",
    [
        {"masks": MASKS},
        {"masks": MASKS * 255.0},
        {"roi_mask_array": MASKS.astype("u1")},
        {"masks_packed": np.packbits(MASKS), "masks_shape": np.array(MASKS.shape)},
        {"masks_packed": np.packbits(MASKS), "masks_shape": np.array(MASKS.shape, ">u2")},
    ],
)
@pytest.mark.parametrize("image", ["image", "max_projection"])
@pytest.mark.parametrize("identity", ["s", np.array(5), np.array([5]), b"s"])
def test_every_spelling_of_the_fields_is_known(tmp_path, masks, image, identity):
    path = save(tmp_path / "a.npz", id=identity, metadata="{'donor_name': 'm'}", **masks,
                **{image: IMAGE}, roi_ids=np.arange(3), other=np.zeros(3))  # fmt: skip
    found = read_npz(path)
    np.testing.assert_array_equal(found.masks, MASKS)
    np.testing.assert_array_equal(found.image, IMAGE)
    assert (found.id, found.group) in (("s", "donor_name=m"), ("5", "donor_name=m"))
    assert found.roi_ids == ("0", "1", "2")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ('{"a": 1, "b": [true, null]}', {"a": 1, "b": [True, None]}),
        ("{'a': 1, 'b': (True, None)}", {"a": 1, "b": [True, None]}),
        ('{"a": NaN}', {"a": "nan"}), ("{'at': datetime.datetime(2020, 1, 1)}", None),
        ("__import__('os').system('true')", None), ("[1]", None), ("", None),
        ("{" * 50_000, None), ("[" * 50 + "]" * 50, None), ("-" * 90_000 + "1", None),
        ("1+" * 40_000 + "1", None), ("not " * 20_000 + "1", None), ("a." * 40_000 + "b", None),
        ("{'a': " + "9" * 5000 + "}", None), ('{"a": ' + "9" * 5000 + "}", None),
        (np.array(3), None), (np.array({"a": 1}, object), {"a": 1}),
    ],
)  # fmt: skip
def test_metadata_is_json_or_a_dict_as_text(tmp_path, metadata, expected):
    path = save(tmp_path / "a.npz", image=IMAGE, metadata=metadata)
    found = {}
    # The stack of a thread is smaller.
    thread = threading.Thread(target=lambda: found.update(recording=read_npz(path)))
    thread.start()
    thread.join()
    assert found["recording"].metadata == (expected or {})
    ignored = "metadata is not a dict: ignored" in found["recording"].remarks
    assert ignored == (expected is None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": IMAGE, "masks": MASKS[:, 1:]}, "masks: is .* the image is"),
        ({"masks": MASKS}, "max_projection: is missing"),
        ({"other": MASKS}, "none of a known name; name it with --key"),
        ({"image": IMAGE, "masks_packed": np.zeros(3, "u1")}, "masks_shape: must be the three"),
        (
            {"image": IMAGE, "masks_packed": np.zeros(3, "u1"), "masks_shape": [1, 5, 6]},
            "masks_packed: must be 4 bytes",
        ),
        (
            {"image": IMAGE, "masks_packed": np.zeros(4), "masks_shape": [1, 5, 6]},
            "masks_packed: must be 4 bytes",
        ),
        (
            {"image": IMAGE, "masks_packed": np.zeros(4, "u1"), "masks_shape": [-1, 5, 6]},
            "shape of an array is not valid",
        ),
        (
            {"image": IMAGE, "masks_packed": np.zeros(4, "u1"), "masks_shape": [2**62, 2**62, 9]},
            "masks_packed: must be",
        ),
    ],
)
def test_what_cannot_be_used_names_file_and_field(tmp_path, fields, reason):
    path = save(tmp_path / "a.npz", **fields)
    with refused(path, reason):
        read_npz(path)


def test_pickled_members_are_read_as_data_or_refused(tmp_path):
    canary = tmp_path / "canary"
    for wanted, data in unsafe(str(canary))[::7]:
        members = {"image.npy": member(IMAGE), "metadata.npy": npy(data)}
        path = save_members(tmp_path / "a.npz", members)
        with pytest.raises(UnsafeFileError) as raised:
            read_npz(path)
        assert str(raised.value).startswith(f"{path}: metadata: asks for ")
        assert wanted in str(raised.value)
    assert not canary.exists()
    members = {"image.npy": member(IMAGE), "masks.npy": npy(pickle.dumps(IMAGE.astype(object)))}
    with pytest.raises(RecordingError, match="masks: is damaged: its content is not the array"):
        read_npz(save_members(tmp_path / "a.npz", members))


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_BYTES", 2**24)
    bomb = io.BytesIO()
    np.save(bomb, np.zeros((1, 2**13, 2**12), "u1"))
    members = {"image.npy": member(IMAGE), "masks.npy": bomb.getvalue()}
    packed = {"image": IMAGE, "masks_packed": np.zeros(2**22, "u1"), "masks_shape": [2**13, 64, 64]}
    paths = [
        save_members(tmp_path / "sizes.npz", members),
        save(tmp_path / "packed.npz", **packed),
        tmp_path / "lie.npz",
    ]
    # A size that is declared too small ends the reading, it does not go on.
    data = paths[0].read_bytes().replace(struct.pack("<I", len(bomb.getvalue())), b"\x00\x10\0\0")
    paths[2].write_bytes(data)
    for path, reason in zip(
        paths, ("the limit is", "the limit is", "truncated|damaged"), strict=True
    ):
        with refused(path, reason, memory=npz.MAX_BYTES):
            read_npz(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_names_are_not_paths_and_any_compression_is_read(tmp_path, compression):
    members = {
        "../outside.npy": b"x", "/absolute.npy": b"x", "image.npy": member(IMAGE),
        "id.npy": member(np.array("s")),
    }  # fmt: skip
    (tmp_path / "in").mkdir()
    path = save_members(tmp_path / "in" / "a.npz", members, compression)
    assert read_npz(path).id == "s"
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.npz"]


def test_encrypted_and_other_archives_are_said(tmp_path):
    path = save(tmp_path / "a.npz", image=IMAGE)
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[place] |= 1
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=r"unusual \.npz file .*encrypted"):
        read_npz(path)
    with pytest.raises(RecordingError, match="none of a known name; name it with --key"):
        read_npz(save_members(tmp_path / "b.npz", {"word/document.xml": b"<x/>"}))


@pytest.mark.parametrize("form", ["labels", "last"])
def test_masks_of_other_forms_are_known(tmp_path, form):
    first = np.cumsum(MASKS, 0).astype(bool)
    apart = MASKS & ~np.concatenate([np.zeros_like(first[:1]), first[:-1]])
    apart = apart[apart.any((1, 2))]
    labels = (apart * np.arange(1, len(apart) + 1)[:, None, None]).sum(0)
    masks = labels if form == "labels" else np.moveaxis(apart, 0, -1)
    found = read_npz(save(tmp_path / "a.npz", image=IMAGE, masks=masks))
    np.testing.assert_array_equal(found.masks, apart)
    other = save(tmp_path / "b.npz", picture=IMAGE, cells=masks)
    with pytest.raises(RecordingError, match=r"2 keys \(picture, cells\).* name it with --key"):
        read_npz(other)
    found = read_npz(other, Pick(key="picture:cells"))
    np.testing.assert_array_equal(found.masks, apart)
    with pytest.raises(RecordingError, match=r"masks: is \[3, 3, 3\], the image is"):
        read_npz(save(tmp_path / "c.npz", image=IMAGE, masks=np.zeros((3, 3, 3))))
