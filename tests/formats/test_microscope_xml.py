"""Folders of ThorImage and PrairieView are recordings of several channels, as their XML tells."""

import numpy as np
import pytest
import tifffile

from fluxseg.errors import RecordingError
from fluxseg.formats.microscope_xml import find_recorded
from fluxseg.formats.movie_files import find_movies
from fluxseg.formats.movies import iterate_frames, read_movie_facts
from fluxseg.formats.pick import Pick
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.inputs import plan_jobs
from tests.commands import run

FIVE = np.random.default_rng(0).integers(0, 4000, (4, 3, 2, 40, 36)).astype(np.uint16)
"""Times, planes, channels."""


def prairie(folder, movie, pages=False):
    """Write `[T, Z, C, H, W]` as PrairieView does: a file an image, or a file a channel."""
    folder.mkdir(parents=True)
    name, frames, files = folder.name, [], {}
    for time, volume in enumerate(movie):
        for plane, image in enumerate(volume):
            listed = ""
            for channel, pixels in enumerate(image, 1):
                cycle, number = (time, plane) if len(volume) > 1 else (0, time)
                file = f"{name}_Cycle{cycle + 1:05}_Ch{channel}_{number + 1:06}.ome.tif"
                file = f"{name}_Cycle00001_Ch{channel}_000001.ome.tif" if pages else file
                files.setdefault(file, []).append(pixels)
                listed += (
                    f'<File channel="{channel}" channelName="Ch{channel}" '
                    f'page="{len(files[file])}" filename="{file}" />'
                )
            begin = (time * len(volume) + plane) / 10
            frames.append(f'<Frame relativeTime="0" absoluteTime="{begin}">{listed}</Frame>')
    kind = "TSeries ZSeries Element" if movie.shape[1] > 1 else "TSeries Timed Element"
    step = movie.shape[1] if movie.shape[1] > 1 else len(frames)
    cycles = ["".join(frames[at : at + step]) for at in range(0, len(frames), step)]
    cycles = [f'<Sequence type="{kind}" cycle="1">{cycle}</Sequence>' for cycle in cycles]
    scale = "".join(f'<IndexedValue index="{a}Axis" value="1.25" />' for a in "XYZ")
    (folder / f"{name}.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?><PVScan version="5.5"><PVStateShard>'
        f'<PVStateValue key="micronsPerPixel">{scale}</PVStateValue></PVStateShard>'
        f"{''.join(cycles)}</PVScan>"
    )
    (folder / f"{name}.env").write_text("<Environment/>")
    for file, images in files.items():
        tifffile.imwrite(folder / file, np.stack(images), photometric="minisblack", metadata=None)
    return folder


def thor(folder, movie, raw=False):
    """Write `[T, Z, C, H, W]` as ThorImage does, in raw files with an image of flyback."""
    folder.mkdir(parents=True)
    planes, fast = movie.shape[1], int(movie.shape[1] > 1)
    height, width = movie.shape[3:]
    (folder / "Experiment.xml").write_text(
        '<?xml version="1.0"?><ThorImageExperiment><Wavelengths><Wavelength name="ChanA"/>'
        f'<Wavelength name="ChanB"/></Wavelengths><ZStage steps="{planes}"/><LSM channel="3" '
        f'pixelX="{width}" pixelY="{height}" frameRate="30" averageMode="0" averageNum="4" '
        f'pixelSizeUM="1.25"/><Streaming zFastEnable="{fast}" flybackFrames="1"/>'
        "</ThorImageExperiment>"
    )
    if raw:
        steps = np.concatenate([movie, movie[:, :1]], 1) if fast else movie
        steps.astype("<u2").tofile(folder / "Image_0001_0001.raw")
        return folder
    for index in np.ndindex(movie.shape[:3]):
        time, plane, channel = index
        name = f"Chan{'AB'[channel]}_0001_0001_{plane + 1:04}_{time + 1:04}.tif"
        tifffile.imwrite(folder / name, movie[index], metadata=None)
    tifffile.imwrite(folder / "ChanA_Preview.tif", movie[0, 0, 0], metadata=None)
    return folder


WRITERS = [
    (prairie, {}), (prairie, {"pages": True}), (thor, {}), (thor, {"raw": True}),
]  # fmt: skip


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize(("write", "options"), WRITERS)
def test_a_folder_is_one_movie_of_which_channel_and_plane_are_chosen(
    tmp_path, write, options, planes
):
    if options == {"pages": True}:
        planes = 1
    movie = FIVE[:, :planes]
    folder = write(tmp_path / "rec", movie, **options)
    names = "Ch1, Ch2" if write is prairie else "ChanA, ChanB"
    several = rf"holds 2 channels \({names}\).*choose with --channel"
    with pytest.raises(RecordingError, match=several):
        find_movies([folder])
    for channel, plane in np.ndindex(2, planes):
        for named in (str(channel + 1), names.split(", ")[channel]):
            pick = Pick(named, str(plane + 1))
            (found,) = find_movies([folder], pick)
            assert found.name == "rec"
            frames = np.concatenate(list(iterate_frames(found.paths, 0, pick)))
            np.testing.assert_array_equal(frames, movie[:, plane, channel])
        facts = read_movie_facts(found.paths, pick)
        assert facts.um_per_px == 1.25
        steps = planes + (planes > 1 and write is thor)
        assert facts.rate == pytest.approx((10 if write is prairie else 30) / steps)


@pytest.mark.parametrize("write", [prairie, thor])
def test_the_channels_of_one_image_are_one_recording(tmp_path, write):
    folder = write(tmp_path / "rec", FIVE[:1, :1])
    source = FolderSource(str(tmp_path))
    (key,) = source.keys()
    with pytest.raises(RecordingError, match="the recording rec holds 2 channels"):
        source.read(key)
    assert len(source.survey().unused) == 3
    (job,), unused = plan_jobs([str(folder)])
    assert "holds 2 channels" in job.error
    assert len(unused) == 3
    pick = Pick("2")
    source = FolderSource(str(tmp_path), pick)
    (key,) = source.keys()
    np.testing.assert_array_equal(source.read(key).image, FIVE[0, 0, 1])
    (job,), _ = plan_jobs([str(folder)], pick)
    assert (job.path, job.error) == (tmp_path / key, "")
    # What systems hide beside a file tells nothing.
    (settings,) = folder.glob("*.xml")
    hidden = settings.rename(settings.with_name(f".{settings.name}"))
    assert len(FolderSource(str(tmp_path)).keys()) > 1
    hidden.rename(settings)
    # What is labelled is the channel of the neurons.
    stem = key.removesuffix(".tif").removesuffix(".ome")
    tifffile.imwrite(tmp_path / f"{stem}_masks.tif", np.eye(40, 36, dtype=np.uint8))
    assert FolderSource(str(tmp_path)).keys() == [key]


def test_verbs_refuse_in_one_line_and_take_the_option(tmp_path):
    folder = prairie(tmp_path / "rec", FIVE[:, :1])
    said = run("check", folder, "--workers", "1", code=1)
    assert "the recording rec holds 2 channels (Ch1, Ch2); choose with --channel" in said
    assert "1 recording: 0 usable" in said
    said = run("check", folder, "--workers", "1", "--channel", "Ch2", code=1)
    assert "4 files, rec_Cycle00001_Ch2_000001.ome.tif to" in said
    assert "are one movie: project it" in said
    said = run("project", folder, "--output", tmp_path / "o", code=2)
    assert said.count("\n") == 1
    run("project", folder, "--output", tmp_path / "o", "--channel", "2")
    found = tifffile.imread(tmp_path / "o" / "rec_max.tif")
    np.testing.assert_array_equal(found, FIVE[:, 0, 1].max(0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:200],
        lambda text: text.replace("<PVScan", '<!DOCTYPE p [<!ENTITY a "b">]><PVScan'),
        lambda text: text.replace('channel="1"', 'channel="x"'),
        lambda text: "",
    ],
)
def test_damaged_or_unsafe_xml_tells_nothing(tmp_path, damage):
    folder = prairie(tmp_path / "rec", FIVE[:, :1])
    path = folder / "rec.xml"
    path.write_text(damage(path.read_text()))
    assert find_recorded(folder / "rec_Cycle00001_Ch1_000001.ome.tif") is None
    # Their names still tell them apart.
    assert len(find_movies([folder])) == 2


def test_raw_files_hold_what_the_xml_tells(tmp_path):
    path = thor(tmp_path / "rec", FIVE[:, :1], raw=True) / "Image_0001_0001.raw"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RecordingError, match=r"does not hold what Experiment\.xml tells"):
        read_movie_facts(path, Pick("1"))
