"""Movies from files to outputs: what is written, what goes on, and what is refused."""

import h5py
import numpy as np
import pytest
import tifffile

import fluxseg
from fluxseg import version
from fluxseg.errors import FluxsegError, RecordingError, WorkdirError
from fluxseg.formats import movies as movies_module
from fluxseg.formats.movie_files import Movie, find_movies
from fluxseg.formats.own import is_prediction
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.suite2p import read_suite2p, write_suite2p
from fluxseg.report.traces import write_traces_page
from fluxseg.traces import passes
from fluxseg.traces.find import Found
from fluxseg.traces.job import extract_movie
from fluxseg.traces.masks import create_footprints
from tests.commands import run

SHAPE = (48, 60)
MASKS = np.zeros((3, *SHAPE), bool)
MASKS[0, 4:12, 4:12] = MASKS[1, 8:16, 6:16] = MASKS[2, 30:40, 40:52] = True
MOVIE = np.random.default_rng(0).poisson(
    np.where(MASKS.any(0), 90, 40) * (1 + 0.5 * np.sin(np.arange(90) / 9))[:, None, None]
).astype(np.uint16)  # fmt: skip


def silent(done, total):
    """Show no progress."""


def find(images):
    names = tuple("abc")
    return Found(create_footprints(MASKS, images[0].shape), names, np.array([0.9, 0.5, 0.25]))


def extract(path, folder, rois=find, *, formats=("suite2p", "npz"), progress=silent, **settings):
    movie = path if isinstance(path, Movie) else find_movies([path])[0]
    return extract_movie(
        movie, folder, rois, formats=formats, write_page=write_traces_page, settings={},
        progress=(silent, progress), **settings,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, MOVIE, photometric="minisblack")
    return path


def files(folder):
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "extract.json"}


def test_neurons_are_looked_for_in_the_maximum_and_the_mean(path, tmp_path):
    seen = []
    extract(path, tmp_path / "out", lambda images: seen.extend(images) or find(images))
    largest, mean = seen
    np.testing.assert_array_equal(largest, MOVIE.max(0))
    np.testing.assert_allclose(mean, MOVIE.mean(0), rtol=1e-5)


def test_a_folder_of_suite2p_with_real_traces(path, tmp_path):
    done = extract(path, tmp_path / "out", tau=1.0, rate=10.0)
    assert "90 frames of 48 x 60 px, 10 Hz: 3 ROIs" in done[0]
    plane = tmp_path / "out" / "suite2p" / "plane0"
    traces = fluxseg.extract(MOVIE, MASKS, rate=10.0, tau=1.0)
    for name, values in (("F", traces.f), ("Fneu", traces.neuropil), ("spks", traces.spikes)):
        np.testing.assert_array_equal(np.load(plane / f"{name}.npy"), values, strict=True)
    assert traces.spikes.any()
    np.testing.assert_allclose(np.load(plane / "iscell.npy"), [[1, 0.9], [1, 0.5], [1, 0.25]])
    ops = np.load(plane / "ops.npy", allow_pickle=True).item()
    assert (ops["nframes"], ops["fs"], ops["tau"], ops["neucoeff"]) == (90, 10.0, 1.0, 0.7)
    np.testing.assert_allclose(ops["meanImg"], MOVIE.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(ops["max_proj"], MOVIE.max(0))
    assert ops["Vcorr"].any()
    stat = np.load(plane / "stat.npy", allow_pickle=True)
    assert stat[0]["skew"] == pytest.approx(traces.measures["skew"][0])
    assert stat[0]["overlap"].sum() == 24
    np.testing.assert_array_equal(read_suite2p(plane).masks, MASKS)
    # What fluxseg found is no labelled recording until somebody corrects it.
    assert is_prediction(plane)
    with np.load(tmp_path / "out" / "traces.npz") as found:
        np.testing.assert_array_equal(found["dff"], traces.dff)
        assert found["names"].tolist() == list("abc")
    page = (tmp_path / "out" / "extract.html").read_text()
    assert page.count("<img") == 2
    assert not list((tmp_path / "out").glob(".part*"))


def test_others_read_it(path, tmp_path):
    from nwbinspector import Importance, inspect_nwbfile
    from pynwb import NWBHDF5IO
    from roiextractors import Suite2pSegmentationExtractor

    extract(path, tmp_path / "out", rate=10.0, formats=("suite2p", "nwb", "csv", "imagej"))
    traces = fluxseg.extract(MOVIE, MASKS, rate=10.0)
    extractor = Suite2pSegmentationExtractor(tmp_path / "out" / "suite2p")
    np.testing.assert_array_equal(extractor.get_traces(name="raw").T, traces.f)
    np.testing.assert_array_equal(extractor.get_traces(name="neuropil").T, traces.neuropil)
    assert extractor.get_sampling_frequency() == 10
    nwb = tmp_path / "out" / "movie.nwb"
    severe = Importance.CRITICAL.value
    assert not [m for m in inspect_nwbfile(nwbfile_path=str(nwb)) if m.importance.value >= severe]
    with NWBHDF5IO(str(nwb), "r") as file:
        module = file.read().processing["ophys"]
        series = module["DfOverF"]["DfOverF"]
        np.testing.assert_array_equal(series.data[:].T, traces.dff)
        assert (series.rate, len(series.rois.table)) == (10, 3)
        np.testing.assert_array_equal(module["Fluorescence"]["Neuropil"].data[:].T, traces.neuropil)
    np.testing.assert_array_equal(fluxseg.read_recording(nwb).masks, MASKS)
    table = (tmp_path / "out" / "traces.csv").read_text().splitlines()
    assert table[0] == '"time_s","neuron a","neuron b","neuron c"'
    assert len(table) == 91


def test_what_is_done_is_kept_and_a_stopped_call_goes_on_with_the_same_bits(
    path, tmp_path, monkeypatch
):
    for module in (passes, movies_module):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 48 * 60 * 7)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extract(path, whole)
    read = []

    def stop(done, total):
        if done > 40:
            raise KeyboardInterrupt

    def note(done, total):
        read.append(done)

    with pytest.raises(KeyboardInterrupt):
        extract(path, stopped, progress=stop)
    assert {name.split("/")[0] for name in files(stopped)} == {".part-extract"}
    extract(path, stopped, progress=note)
    assert read[0] == 49
    assert files(stopped) == files(whole)
    read.clear()
    again = extract(path, stopped, progress=note)
    assert again[0].endswith("(done before)")
    monkeypatch.setattr(version, "__version__", "0.0.1")
    assert not extract(path, stopped, progress=note)[0].endswith("(done before)")
    extract(path, stopped, progress=note, overwrite=True)
    assert read[0] == 7
    read.clear()
    extract(path, stopped, progress=note, rate=5.0)
    assert read


def test_the_registered_movie_of_suite2p_tells_its_rate_and_takes_its_rois(tmp_path):
    plane = tmp_path / "mouse" / "suite2p" / "plane0"
    recording = fluxseg.Recording("x", MOVIE.max(0), MASKS, tuple("123"))
    write_suite2p(plane, recording)
    stat = np.load(plane / "stat.npy", allow_pickle=True)
    stat[0]["lam"] = np.linspace(1, 2, len(stat[0]["lam"]), dtype=np.float32)
    np.save(plane / "stat.npy", stat)
    np.save(plane / "iscell.npy", [[1, 0.9], [0, 0.1], [1, 0.7]])
    ops = np.load(plane / "ops.npy", allow_pickle=True).item()
    np.save(plane / "ops.npy", ops | {"fs": 7.5, "nframes": 80})
    MOVIE.astype("<i2").tofile(plane / "data.bin")
    done = extract(tmp_path / "mouse", tmp_path / "out", plane)
    assert "90 frames of 48 x 60 px, 7.5 Hz: 2 ROIs" in done[0]
    assert "data.bin holds 90 whole frames, ops.npy declares 80" in done[1]
    pixels = MOVIE.reshape(90, -1)[:, MASKS[0].ravel()]
    expected = pixels @ (stat[0]["lam"] / stat[0]["lam"].sum())
    f = np.load(tmp_path / "out" / "suite2p" / "plane0" / "F.npy")
    np.testing.assert_allclose(f[0], expected, rtol=1e-5)
    assert find_movies([plane / "data.bin"])[0].name == "mouse"
    # Its own results are never written over.
    np.save(plane / "F.npy", np.ones((3, 90), np.float32))
    np.save(plane / "ops.npy", {k: v for k, v in ops.items() if k != "fluxseg"})
    with pytest.raises(WorkdirError, match="holds the results of Suite2p itself"):
        extract(plane, tmp_path / "mouse", plane)


@pytest.mark.parametrize("kind", ["labels", "cellpose", "imagej", "nwb", "neurofinder", "coco"])
def test_rois_of_every_format_are_taken(path, tmp_path, kind):
    alone = MASKS[[0, 2]]
    recording = fluxseg.Recording("x", MOVIE.max(0), alone, ("1", "2"))
    endings = {"labels": "x.tif", "cellpose": "x_seg.npy", "imagej": "x.zip", "nwb": "x.nwb"}
    rois = tmp_path / "rois" / endings.get(kind, "x.json")
    fluxseg.write_recording(rois, recording, kind)
    rois = rois.with_name("x_labels.tif") if kind == "labels" else rois
    extract(path, tmp_path / "out", rois)
    plane = tmp_path / "out" / "suite2p" / "plane0"
    np.testing.assert_array_equal(read_suite2p(plane).masks, alone)
    expected = fluxseg.extract(MOVIE, alone)
    np.testing.assert_array_equal(np.load(plane / "F.npy"), expected.f)


def bad_movie(kind, folder):
    """Write a movie that cannot be used, or ROIs that do not fit, and return both."""
    path, rois = folder / "bad.tif", find
    if kind == "damaged":
        tifffile.imwrite(path, MOVIE, photometric="minisblack", compression="zlib")
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            start = tiff.pages[50].dataoffsets[0]
        data[start : start + 400] = b"\x00" * 400
        path.write_bytes(data)
    elif kind == "channels":
        path = folder / "bad.h5"
        with h5py.File(path, "w") as file:
            file["movie"] = np.stack([MOVIE, MOVIE], 1)
            file["movie"].attrs["axes"] = "TCYX"
    elif kind == "cut":
        path = folder / "bad.npy"
        np.save(path, MOVIE)
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        tifffile.imwrite(path, MOVIE, photometric="minisblack")
        rois = folder / "rois.tif"
        labels = np.zeros(SHAPE if kind == "empty" else (60, 60), np.uint8)
        labels[0, 0] = kind != "empty"
        if kind == "outside":
            rois = folder / "regions.json"
            rois.write_text('[{"coordinates": [[3, 4], [500, 4]]}]')
        else:
            tifffile.imwrite(rois, labels)
    return path, rois


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("damaged", "bad.tif: "),
        ("channels", "holds 2 channels (1, 2); choose one with --channel"),
        ("cut", "must hold 518400 bytes of numbers"),
        ("empty", "rois.tif: holds no ROI"),
        ("unlike", "rois.tif: rois: are of a field of [60, 60] px, the movie has [48, 60] px"),
        ("outside", "lies outside of 48 x 60 px"),
    ],
)
def test_what_cannot_be_used_is_a_line_and_leaves_nothing(kind, words, tmp_path):
    path, rois = bad_movie(kind, tmp_path)
    with pytest.raises(RecordingError) as error:
        extract(path, tmp_path / "out", rois)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert all(name.startswith(".part-extract/") for name in files(tmp_path / "out"))


def test_a_changing_size_of_parts_and_no_neuron_are_told(path, tmp_path):
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, MOVIE[:, :30], photometric="minisblack")
    with pytest.raises(FluxsegError, match=r"has frames of \[30, 60\] px of uint16, unlike movie"):
        extract(Movie("both", (path, other)), tmp_path / "out")

    def nothing(image):
        return Found(create_footprints(np.zeros(SHAPE, int), SHAPE), (), np.zeros(0))

    with pytest.raises(RecordingError, match="no neuron is found: lower --min-confidence"):
        extract(path, tmp_path / "out", nothing)


def test_two_channels_of_which_one_is_picked_and_nan_and_three_frames(tmp_path):
    path = tmp_path / "two.tif"
    both = np.stack([MOVIE, MOVIE[::-1]], 1)
    tifffile.imwrite(path, both, imagej=True, metadata={"axes": "TCYX", "finterval": 0.1})
    extract_movie(
        find_movies([path], Pick("2"))[0], tmp_path / "out", find, formats=("npz",),
        write_page=write_traces_page, settings={}, pick=Pick("2"), progress=(silent, silent),
    )  # fmt: skip
    with np.load(tmp_path / "out" / "traces.npz") as found:
        np.testing.assert_array_equal(found["F"], fluxseg.extract(MOVIE[::-1], MASKS).f)
        assert found["rate"] == pytest.approx(10)
    frames = MOVIE[:3].astype(np.float32)
    frames[:, :, :5] = np.nan
    np.save(tmp_path / "few.npy", frames)
    done = extract(tmp_path / "few.npy", tmp_path / "few", pick=NO_PICK)
    told = " ".join(done)
    assert "3 frames are too few" in told
    assert "8.3% of the pixels are never finite" in told
    assert np.isfinite(np.load(tmp_path / "few/suite2p/plane0/F.npy")).all()


def test_traces_of_another_movie_of_the_name_are_kept(path, tmp_path):
    extract(path, tmp_path / "out" / "movie")
    before = files(tmp_path / "out")
    other = tmp_path / "day2" / "movie.tif"
    other.parent.mkdir()
    tifffile.imwrite(other, MOVIE[::-1], photometric="minisblack")
    with pytest.raises(RecordingError, match=f"another movie, {path}: give another --output"):
        extract(other, tmp_path / "out" / "movie")
    assert files(tmp_path / "out") == before
    extract(other, tmp_path / "out" / "movie", overwrite=True)
    extract(path, tmp_path / "out" / "movie", overwrite=True)
    other.rename(tmp_path / "moved.tif")
    extract(path, tmp_path / "out" / "movie", rate=20.0)
    # Suite2p's GUI writes what people choose there.
    chosen = tmp_path / "out" / "movie" / "suite2p" / "plane0" / "iscell.npy"
    np.save(chosen, np.load(chosen) * [[0, 1], [1, 1], [1, 1]])
    extract(path, tmp_path / "out" / "movie", rate=20.0)
    with pytest.raises(RecordingError, match=r"some are no cells .*--overwrite"):
        extract(path, tmp_path / "out" / "movie", rate=25.0)
    assert not np.load(chosen)[0, 0]


def test_the_command_finds_and_extracts(tmp_path):
    y, x = np.mgrid[:64, :64]
    cells = [(15, 15), (15, 45), (45, 20), (46, 48)]
    light = sum(np.exp(-(((y - r) ** 2 + (x - c) ** 2) / 24.0)) for r, c in cells)
    frames = np.random.default_rng(0).poisson(20 + 100 * light, (40, 64, 64)).astype(np.uint16)
    np.save(tmp_path / "m.npy", frames)
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\x00")
    out = tmp_path / "out"
    options = ("--output", out, "--rate", "10", "--min-confidence", "0")
    text = run("extract", tmp_path / "m.npy", bad, *options, code=1)
    assert "1 movies extracted" in text
    assert f"failed: {bad}" in text
    assert np.load(out / "m" / "suite2p" / "plane0" / "F.npy").shape[1] == 40
    text = run("extract", tmp_path / "m.npy", *options)
    assert "(done before)" in text
    folder = tmp_path / "folder"
    folder.mkdir()
    tifffile.imwrite(folder / "image.tif", frames[0])
    unused = f"not used: {folder / 'image.tif'}: one image, no movie"
    assert unused in run("extract", folder, *options, code=1)
    tifffile.imwrite(folder / "movie.tif", frames, photometric="minisblack")
    text = run("extract", folder, *options)
    assert unused in text
    assert "1 movies extracted" in text
    assert "tau must be above 0" in run(
        "extract", tmp_path / "m.npy", "--output", out, "--tau", "0", code=2
    )
