"""Channels and planes of TIFF files are told apart, whichever program wrote the file."""

import numpy as np
import pytest
import tifffile

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.movies import iterate_frames, read_movie_facts
from fluxseg.formats.pick import Pick, choose, parse_pick
from fluxseg.formats.pixels import read_pixels

RNG = np.random.default_rng(0)
FIVE = RNG.integers(0, 4000, (5, 3, 2, 9, 14)).astype(np.uint16)
"""Times, planes, channels."""


def save(path, pages, description="", software=None, **options):
    with tifffile.TiffWriter(path, **options) as writer:
        for page in pages.reshape(-1, *pages.shape[-2:]):
            writer.write(
                page, photometric="minisblack", metadata=None, description=description or None,
                software=software, contiguous=False,
            )  # fmt: skip
    return path


def read(path, **pick):
    return np.concatenate(list(iterate_frames(path, 0, Pick(**pick))))


def both(path):
    """Check that all channels and planes of the file are those of `FIVE`."""
    with pytest.raises(RecordingError, match=r"2 channels.* and 3 planes.* --channel and --plane"):
        read(path)
    for plane in range(3):
        for channel in range(2):
            found = read(path, plane=str(plane + 1), channel=str(channel + 1))
            np.testing.assert_array_equal(found, FIVE[:, plane, channel])


def test_imagej_and_ome_hyperstacks(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", FIVE, imagej=True, metadata={"axes": "TZCYX"})
    both(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.ome.tif", FIVE, metadata={"axes": "TZCYX"})
    both(tmp_path / "a.ome.tif")
    tifffile.imwrite(tmp_path / "b.ome.tif", FIVE.transpose(1, 2, 0, 3, 4), metadata={
        "axes": "ZCTYX", "Channel": {"Name": ["Green", "Red"]}, "TimeIncrement": 0.1,
        "PhysicalSizeX": 800, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.8,
    })  # fmt: skip
    found = read(tmp_path / "b.ome.tif", plane="3", channel="red")
    np.testing.assert_array_equal(found, FIVE[:, 2, 1])
    facts = read_movie_facts(tmp_path / "b.ome.tif", Pick("Green", "1"))
    assert (facts.frames, facts.rate, facts.um_per_px) == (5, 10, 0.8)
    tifffile.imwrite(tmp_path / "c.tif", FIVE, metadata={"axes": "TZCYX"})
    both(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tif", FIVE, photometric="minisblack")
    np.testing.assert_array_equal(
        read(tmp_path / "d.tif", axes="TZCYX", plane="2", channel="1"), FIVE[:, 1, 0]
    )


SCANIMAGE = {
    "3.8": (
        "state.configName='cfg'\rstate.software.version=3.8\rstate.acq.numberOfChannelsSave=2\r"
        "state.acq.savingChannel1=1\rstate.acq.savingChannel2=1\rstate.acq.numberOfFrames=10\r"
        "state.acq.frameRate=15.5",
        None,
    ),
    "4": (
        "frame = 1\nscanimage.SI4.channelsSave = [1;2]\nscanimage.SI4.scanFrameRate = 15.5\n"
        "scanimage.SI4.stackNumSlices = 1\nscanimage.SI4.fastZEnable = 0",
        None,
    ),
    "5.1": (
        "frameNumbers = 1\nscanimage.SI.hChannels.channelSave = [1;2]\n"
        "scanimage.SI.hRoiManager.scanFrameRate = 15.5\n"
        "scanimage.SI.hStackManager.numSlices = 1\nscanimage.SI.VERSION_MAJOR = '5.1'",
        None,
    ),
    "2016": (
        "frameNumbers = 1",
        "SI.VERSION_MAJOR = 2016\nSI.hChannels.channelSave = [1;2]\n"
        "SI.hRoiManager.scanFrameRate = 15.5\nSI.hStackManager.numSlices = 1",
    ),
}


@pytest.mark.parametrize("version", SCANIMAGE)
def test_scanimage_channels(tmp_path, version):
    movie = FIVE[:, 0]
    description, software = SCANIMAGE[version]
    path = save(tmp_path / "a.tif", movie, description, software)
    with pytest.raises(RecordingError, match=r"2 channels \(1, 2\); choose with --channel"):
        read(path)
    np.testing.assert_array_equal(read(path, channel="1"), movie[:, 0])
    np.testing.assert_array_equal(read(path, channel="2"), movie[:, 1])
    assert read_movie_facts(path, Pick("2")).rate == 15.5
    if version == "3.8":
        # Older ones do not tell the number.
        older = description.replace("state.acq.numberOfChannelsSave=2\r", "")
        found = read(save(tmp_path / "c.tif", movie, older), channel="2")
        np.testing.assert_array_equal(found, movie[:, 1])
    one = description.replace("numberOfChannelsSave=2", "numberOfChannelsSave=1"), software
    one = [(text or "").replace("[1;2]", "2").replace("Channel1=1", "Channel1=0") for text in one]
    path = save(tmp_path / "b.tif", movie[:, 0], one[0], one[1] or None)
    np.testing.assert_array_equal(read(path), movie[:, 0])
    np.testing.assert_array_equal(read(path, channel="2"), movie[:, 0])


def test_scanimage_planes_of_fast_and_slow_stacks(tmp_path):
    channels = "SI.hChannels.channelSave = [1;2]\n"
    fast = channels + "SI.hFastZ.enable = true\nSI.hStackManager.numSlices = 2\n"
    # The last of three steps is the way back of the focus.
    flyback = fast + "SI.hFastZ.numFramesPerVolume = 3\nSI.hFastZ.numDiscardFlybackFrames = 1\n"
    path = save(tmp_path / "a.tif", FIVE, "frame", flyback + "SI.hRoiManager.scanFrameRate = 30")
    with pytest.raises(RecordingError, match=r"2 channels .* and 2 planes \(1, 2\); choose"):
        read(path)
    np.testing.assert_array_equal(read(path, channel="2", plane="2"), FIVE[:, 1, 1])
    assert read_movie_facts(path, Pick("1", "1")).rate == 10
    slow = channels + "SI.hFastZ.enable = 0\nSI.hStackManager.numSlices = 3\n"
    slow += "SI.hStackManager.framesPerSlice = 5\n"
    path = save(tmp_path / "b.tif", FIVE.swapaxes(0, 1), "frame", slow)
    both(path)
    off = slow.replace("numSlices", "enable = false\nSI.hStackManager.numSlices")
    path = save(tmp_path / "c.tif", FIVE[:, 0], "frame", off)
    np.testing.assert_array_equal(read(path, channel="1"), FIVE[:, 0, 0])


def test_what_is_no_image_is_left_out(tmp_path):
    image, path = FIVE[0, 0, 0], tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(image)
        writer.write(image[::4, ::4], subfiletype=1)
    found, facts = read_pixels(path)
    np.testing.assert_array_equal(found, image)
    assert facts["remarks"] == ("1 smaller or other pages are left out",)
    with tifffile.TiffWriter(tmp_path / "b.ome.tif", ome=True) as writer:
        writer.write(image)
        writer.write(image[::-1])
    found, facts = read_pixels(tmp_path / "b.ome.tif")
    np.testing.assert_array_equal(found, image)
    assert "it holds several series: the first is read" in facts["remarks"]
    with tifffile.TiffWriter(tmp_path / "c.tif") as writer:
        writer.write(image, subifds=1)
        writer.write(image[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_pixels(tmp_path / "c.tif")[0], image)


def test_ome_sets_of_several_files_are_read_file_by_file(tmp_path):
    parts = "".join(
        f'<TiffData FirstC="{c}" FirstT="{t}" FirstZ="0" IFD="{t}" PlaneCount="1">'
        f'<UUID FileName="part{c}.tif">urn:uuid:{c}</UUID></TiffData>'
        for c in range(2) for t in range(5)
    )  # fmt: skip
    pixels = (
        'DimensionOrder="XYZCT" Type="uint16" SizeX="14" SizeY="9" SizeC="2" SizeZ="1" SizeT="5"'
    )
    for c in range(2):
        xml = (
            f'<?xml version="1.0"?><OME xmlns="x" UUID="urn:uuid:{c}"><Image ID="Image:0">'
            f'<Pixels ID="p" {pixels}>{parts}</Pixels></Image></OME>'
        )
        path = save(tmp_path / f"part{c}.tif", FIVE[:, 0, c], xml)
        np.testing.assert_array_equal(read(path), FIVE[:, 0, c])
    path.rename(tmp_path / "renamed.tif")
    np.testing.assert_array_equal(read(tmp_path / "renamed.tif"), FIVE[:, 0, 1])
    path = save(tmp_path / "other.tif", FIVE[:3, 0, 0], xml.replace('UUID="urn:uuid:1"', ""))
    with pytest.raises(RecordingError, match="one of a set of files"):
        read(path)
    np.testing.assert_array_equal(read(path, axes="TYX"), FIVE[:3, 0, 0])
    for bad in (xml.replace("<OME", "<!DOCTYPE x [<!ENTITY a 'b'>]><OME"), xml[:-9]):
        with pytest.raises(RecordingError, match=r"unsafe|ends or breaks"):
            read(save(tmp_path / "bad.tif", FIVE[:3, 0, 0], bad))


def test_stale_descriptions_are_read_as_far_as_they_go(tmp_path, capfd):
    text = "ImageJ=1.53t\nimages=100\nslices=100\n"
    path = save(tmp_path / "a.tif", FIVE[:, 0, 0], text)
    np.testing.assert_array_equal(read(path), FIVE[:, 0, 0])
    remarks = read_movie_facts(path).remarks
    assert "its description tells of 100 images, it holds 5" in remarks
    found, facts = read_pixels(save(tmp_path / "b.tif", FIVE[0, 0, 0], text))
    np.testing.assert_array_equal(found, FIVE[0, 0, 0])
    assert "its description tells of 100 images, it holds 1" in facts["remarks"]
    assert capfd.readouterr() == ("", "")


def test_imagej_has_forgotten_the_channels_of_scanimage(tmp_path):
    info = {"Info": "SI.hChannels.channelSave = [1;2]\nSI.hStackManager.numSlices = 1\n"}
    tifffile.imwrite(tmp_path / "a.tif", FIVE[:, 0, 0], imagej=True, metadata=info)
    remarks = read_movie_facts(tmp_path / "a.tif").remarks
    assert "ScanImage tells of 2 channels, ImageJ of 1" in remarks


def test_slices_of_imagej_are_frames_unless_a_plane_is_wanted(tmp_path):
    path = save(tmp_path / "a.tif", FIVE[:, 0, 0], "ImageJ=1.53t\nimages=5\nslices=5\n")
    np.testing.assert_array_equal(read(path), FIVE[:, 0, 0])
    assert any("taken for frames" in remark for remark in read_movie_facts(path).remarks)
    np.testing.assert_array_equal(read_pixels(path, pick=Pick(plane="4"))[0], FIVE[3, 0, 0])


@pytest.mark.parametrize(
    "pick", [Pick(), Pick("2"), Pick("Green and red", "plane 1", "a/b"), Pick(axes="TYX")]
)
def test_picks_are_texts_and_back(pick):
    assert parse_pick(str(pick)) == pick
    for bad in ("2", "chanel=2", "channel=", "channel=1 channel=2"):
        with pytest.raises(ConfigError, match="must be like channel=2 plane=1"):
            parse_pick(bad)
    with pytest.raises(ConfigError, match="axes"):
        Pick(axes="TYY")


def test_one_of_several_is_chosen_by_name_end_or_number():
    names = ("a/mean", "b/max", "b/mean", "3")
    assert [choose("key", names, w) for w in ("b/max", "MAX", "1", "3")] == [1, 1, 0, 3]
    assert choose("channel", ("1", "3"), "3") == 1
    with pytest.raises(RecordingError, match=r"has no channel '2': holds 2 channels \(1, 3\)"):
        choose("channel", ("1", "3"), "2")
    for wanted in ("mean", "5", "0", "x"):
        with pytest.raises(RecordingError, match=f"has no key '{wanted}': holds 4 keys"):
            choose("key", names, wanted)
