"""Files of any format by their content, and folders of them."""

import os
import pickle
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.config import Config, DataConfig
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.allen import write_allen_npy
from fluxseg.formats.convert import read_recording
from fluxseg.formats.npz import write_npz
from fluxseg.formats.sources import FolderSource, format_unused, open_source
from fluxseg.inference.inputs import read_input
from tests.commands import run
from tests.formats.malicious import npy
from tests.formats.refusal import refused
from tests.formats.test_allen import assert_same, read_fields
from tests.formats.test_images import GRAY16, LABELS, png_with_header


def write_tiff(path, array=GRAY16):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


@pytest.fixture
def folder(tmp_path):
    """Recordings of every format, and what is none."""
    root = tmp_path / "data"
    (root / "b" / "images").mkdir(parents=True)
    (root / "b" / "masks").mkdir()
    write_allen_npy(root / "b" / "one.npy", read_fields())
    write_npz(root / "two.NPZ", read_fields())
    write_tiff(root / "cell.tif")
    write_tiff(root / "cell_masks.tif", LABELS)
    Image.fromarray(GRAY16).save(root / "b" / "images" / "x.png")
    Image.fromarray(LABELS).save(root / "b" / "masks" / "x.png")
    Image.fromarray(LABELS).save(root / "a_mask.png")
    write_tiff(root / ".hidden.tif")
    write_tiff(root / ".trash" / "old.tif")
    (root / "notes.txt").write_text("none")
    (root / "broken.npy").write_bytes(b"\x93NUMPY")
    (root / "evil.npy").write_bytes(npy(b"cos\nsystem\n."))
    return root


KEYS = [
    "a_mask.png", "b/images/x.png", "b/one.npy", "broken.npy", "cell.tif", "evil.npy", "two.NPZ",
]  # fmt: skip


def test_keys_are_the_recordings(folder):
    source = FolderSource(str(folder))
    assert source.keys() == KEYS
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.describe() == {"kind": "folder", "root": folder.resolve().as_posix()}


def test_every_key_is_read_or_says_why(folder):
    source = FolderSource(str(folder))
    for key in ("b/one.npy", "two.NPZ"):
        assert_same(source.read(key), read_fields())
    for key in ("cell.tif", "b/images/x.png"):
        np.testing.assert_array_equal(source.read(key).masks.any(0), LABELS > 0)
    reasons = {
        "a_mask.png": "its image is not there",
        "broken.npy": "does not begin as a .npy file",
        "evil.npy": "asks for os.system",
        "none.npy": "cannot be read: No such file",
    }
    for key, reason in reasons.items():
        with refused(folder / key, reason) as raised:
            source.read(key)
        assert str(raised.value).count(str(folder)) == 1


def test_arrays_are_images_in_every_verb(tmp_path):
    image = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
    np.save(tmp_path / "a.npy", image)
    np.testing.assert_array_equal(read_recording(tmp_path / "a.npy").image, image)
    np.testing.assert_array_equal(read_input(tmp_path / "a.npy")[0], image)
    for array, reason in (
        (np.stack([image] * 3), "is a movie of 3 frames"),
        (image[0], "no image"),
    ):
        np.save(tmp_path / "a.npy", array)
        for read in (read_recording, read_input):
            with pytest.raises(RecordingError, match=reason):
                read(tmp_path / "a.npy")


def test_formats_are_told_by_content_not_by_name(tmp_path):
    write_npz(tmp_path / "a.npy", read_fields())
    write_allen_npy(tmp_path / "b.tif", read_fields())
    write_tiff(tmp_path / "c.png")
    tifffile.imwrite(tmp_path / "big.jpg", GRAY16, bigtiff=True, byteorder=">")
    for name in ("a.npy", "b.tif"):
        assert_same(read_recording(tmp_path / name), read_fields())
    for name in ("c.png", "big.jpg"):
        np.testing.assert_array_equal(read_recording(str(tmp_path / name)).image, GRAY16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "cannot be read, or is damaged"),
        (pickle.dumps({"id": 1}), "looks like a bare pickle"),
        (b"hello", "is in no known format"),
        (b"PK\x05\x06" + bytes(18), "empty or split .zip"),
        (b"PK\x03\x04" + bytes(18), "is a damaged .zip file"),
        (b"II*\x00", "is damaged"),
        (png_with_header(0, 5), "is damaged"),
    ],
)
def test_other_content_is_said(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with refused(path, re.escape(reason)):
        read_recording(path)


def test_one_file_is_a_source_too(folder):
    source = FolderSource(str(folder / "cell.tif"))
    assert source.keys() == ["cell.tif"]
    assert len(source.read("cell.tif").masks) == 3
    assert "cell_masks.tif" in source.stamp("cell.tif")


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder or file .*none"):
        FolderSource(str(tmp_path / "none")).keys()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        ConfigError, match=r"no recordings in .*looked for \*\.npy, .*\*\.ti.*\.txt 1"
    ):
        FolderSource(str(tmp_path)).keys()


def test_links_that_go_round_are_followed_once(tmp_path):
    write_tiff(tmp_path / "data" / "real" / "a.tif")
    write_tiff(tmp_path / "other" / "b.tif")
    links = {"up": "..", "self": ".", "alias": "real", "linked": "../other", "gone.tif": "none"}
    for name, target in links.items():
        (tmp_path / "data" / name).symlink_to(target)
    source = FolderSource(str(tmp_path / "data"))
    # The folder above is one that is entered too, once.
    keys = source.keys()
    assert sum(key.endswith("a.tif") for key in keys) == 1
    assert sum(key.endswith("b.tif") for key in keys) == 1
    assert keys == FolderSource(str(tmp_path / "data")).keys()
    with pytest.raises(RecordingError, match=r"gone\.tif: cannot be read"):
        source.read("gone.tif")
    # A link to nothing is no reason to train on none of the others.
    assert all(source.stamp(key) for key in keys)


def test_stamps_change_with_the_file_and_its_masks(folder):
    source = FolderSource(str(folder))
    before = {key: source.stamp(key) for key in KEYS}
    assert before == {key: source.stamp(key) for key in KEYS}
    os.utime(folder / "cell_masks.tif", ns=(1, 1))
    (folder / "broken.npy").write_bytes(b"more")
    (folder / "b" / "masks" / "x.png").unlink()
    changed = {key for key in KEYS if source.stamp(key) != before[key]}
    assert changed == {"cell.tif", "broken.npy", "b/images/x.png"}
    several = source.stamp("cell.tif")
    write_tiff(folder / "cell_label.tif", LABELS)
    assert source.stamp("cell.tif") != several
    with pytest.raises(RecordingError, match=r"none\.npy: cannot be read"):
        source.stamp("none.npy")


@pytest.mark.parametrize("key", ["../secret.npy", "/etc/passwd", "b/../../x.npy", ""])
def test_keys_stay_below_the_root(folder, key):
    source = FolderSource(str(folder))
    for function in (source.read, source.stamp):
        with pytest.raises(RecordingError, match="is not a path below"):
            function(key)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text_are_said(tmp_path):
    (tmp_path / os.fsdecode(b"a\xff.npy")).write_bytes(b"x")
    write_tiff(tmp_path / "b.tif")
    source = FolderSource(str(tmp_path))
    assert source.keys() == ["b.tif"]
    unused = source.survey().unused
    assert list(unused.values()) == ["its name is not valid text; rename it"]
    assert format_unused(unused)[1].endswith(r"/a\xff.npy")
    converted = ("convert", tmp_path, tmp_path / "out", "--format", "labels")
    assert r"a\xff.npy" in run(*converted, code=1)


def test_the_config_says_which_source(tmp_path):
    opened = open_source(Config(data=DataConfig(source=str(tmp_path))))
    assert opened == FolderSource(str(tmp_path))
