"""Movies of every storage that microscopes' software writes, in blocks."""

import zlib

import h5py
import numpy as np
import pytest
import tifffile

from fluxseg.errors import RecordingError
from fluxseg.formats import movies
from fluxseg.formats.movie_files import find_movies
from fluxseg.formats.movies import iterate_frames, read_movie_facts
from fluxseg.formats.pick import Pick
from tests.formats.refusal import refused

MOVIE = np.random.default_rng(0).integers(0, 4000, (11, 9, 14)).astype(np.uint16)


def save_tiff(path, movie=MOVIE, **options):
    tifffile.imwrite(path, movie, **{"photometric": "minisblack", **options})
    return path


def save_hdf5(path, name="mov", movie=MOVIE, **options):
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=movie, **options)
    return path


def read_all(path, chunk=4, **options):
    blocks = list(iterate_frames(path, chunk, Pick(**options)))
    assert all(len(block) <= chunk for block in blocks)
    return np.concatenate(blocks)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8", ">u2", "<i4"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"metadata": None}, {"imagej": True}, {"bigtiff": True, "metadata": None},
        {"compression": "zlib"}, {"compression": "zlib", "predictor": True, "metadata": None},
        {"byteorder": ">", "metadata": None}, {"rowsperstrip": 2, "metadata": None},
        {"ome": True}, {"metadata": {"axes": "TYX"}},
    ],
)  # fmt: skip
def test_tiff_movies_are_read_exactly(tmp_path, dtype, options):
    movie = MOVIE.astype(dtype)
    if options.get("imagej") and np.dtype(dtype).str[1:] in ("f8", "i4", "i2"):
        pytest.skip("ImageJ has no such pixels")
    path = save_tiff(tmp_path / "movie.tif", movie, **options)
    facts = read_movie_facts(path)
    assert (facts.frames, facts.shape) == (11, (9, 14))
    found = read_all(path)
    assert found.dtype == facts.dtype == movie.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, movie)


def test_imagej_stacks_of_one_page_are_read(tmp_path):
    path = save_tiff(tmp_path / "movie.tif", imagej=True, resolution=(1.25, 1.25),
                     metadata={"unit": "um", "frames": 11})  # fmt: skip
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        following = tiff.pages[0].offset + 2 + 12 * len(tiff.pages[0].tags)
        assert len(tiff.pages) == 1 or int.from_bytes(data[following : following + 4], "big")
        data[following : following + 4] = bytes(4)
    path.write_bytes(data)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    facts = read_movie_facts(path)
    assert (facts.frames, facts.um_per_px) == (11, 0.8)
    np.testing.assert_array_equal(read_all(path), MOVIE)
    path.write_bytes(data[: MOVIE.nbytes])
    with pytest.raises(RecordingError, match=r"movie\.tif: is truncated"):
        read_all(path)


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        (
            (4, 2, 9, 14),
            {"imagej": True, "metadata": {"axes": "TCYX"}},
            r"2 channels \(1, 2\); choose with --channel",
        ),
        ((4, 2, 9, 14), {"imagej": True, "metadata": {"axes": "TZYX"}}, "2 planes"),
        ((4, 2, 9, 14), {"ome": True, "metadata": {"axes": "TCYX"}}, "2 channels"),
        ((4, 2, 9, 14), {}, r"\[4, 2\] images: say what is what, as --axes TZCYX"),
        ((4, 9, 14, 3), {"photometric": "rgb", "metadata": None}, r"channels \(red, green, blue\)"),
        ((4, 9, 14), {"metadata": None, "dtype": "c8"}, "real numbers"),
    ],
)
def test_channels_are_not_mixed(tmp_path, shape, options, reason):
    dtype = options.pop("dtype", "u2")
    path = save_tiff(tmp_path / "movie.tif", np.resize(MOVIE, shape).astype(dtype), **options)
    with pytest.raises(RecordingError, match=reason):
        read_all(path)


def test_pages_that_differ_and_damaged_files_are_said(tmp_path):
    path = tmp_path / "movie.tif"
    with tifffile.TiffWriter(path) as writer:
        for frame in (MOVIE[0], MOVIE[1], MOVIE[2, :4]):
            writer.write(frame, metadata=None, photometric="minisblack")
    np.testing.assert_array_equal(read_all(path), MOVIE[:2])
    assert read_movie_facts(path).remarks == ("1 smaller or other pages are left out",)
    with tifffile.TiffWriter(path) as writer:
        for frame in (MOVIE[0], MOVIE[1], MOVIE[2, :4], MOVIE[3]):
            writer.write(frame, metadata=None, photometric="minisblack")
    with pytest.raises(RecordingError, match=r"page 3 is .* unlike the first"):
        read_all(path)
    # tifffile's own files have all frames as one, before any other page.
    data = save_tiff(path).read_bytes()
    path.write_bytes(data[: MOVIE.nbytes - 100])
    with pytest.raises(RecordingError, match="truncated"):
        read_all(path)
    data = save_tiff(path, metadata=None).read_bytes()
    for size in (0, 3, 8, 100, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        with refused(path):
            read_all(path)
    with pytest.raises(RecordingError, match="cannot be read"):
        read_all(tmp_path / "absent.tif")


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (3, 9, 14)}, {"chunks": True, "compression": "gzip", "shuffle": True},
     {"compression": "lzf"}, {"dtype": ">u2"}],
)  # fmt: skip
def test_hdf5_movies_are_read_exactly(tmp_path, options):
    path = save_hdf5(tmp_path / "movie.h5", "group/mov", **options)
    facts = read_movie_facts(path)
    assert (facts.frames, facts.shape) == (11, (9, 14))
    found = read_all(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, MOVIE)
    np.testing.assert_array_equal(read_all(path, axes="TXY"), MOVIE.transpose(0, 2, 1))


def test_the_dataset_is_chosen_or_the_only_one(tmp_path):
    path = save_hdf5(tmp_path / "movie.h5", "first")
    save_hdf5(path, "more/second", MOVIE[:3])
    save_hdf5(path, "mean", MOVIE[0])
    with pytest.raises(
        RecordingError, match=r"holds 2 keys \(first, more/second\); choose one with --key"
    ):
        read_all(path)
    assert len(read_all(path, key="more/second")) == 3
    with pytest.raises(RecordingError, match="has no key 'third'"):
        read_all(path, key="third")
    with pytest.raises(RecordingError, match=r"must be \[T, H, W\]"):
        read_all(path, key="mean")
    with pytest.raises(RecordingError, match="holds no movie"):
        read_all(save_hdf5(tmp_path / "none.h5", "a", MOVIE[0]))


def test_nwb_series_have_their_x_axis_first_and_a_pixel_size(tmp_path):
    path = tmp_path / "movie.nwb"
    with h5py.File(path, "w") as file:
        series = file.create_group("acquisition/TwoPhotonSeries")
        series.attrs["neurodata_type"] = "TwoPhotonSeries"
        series["data"] = MOVIE.transpose(0, 2, 1)
        plane = file.create_group("general/optophysiology/ImagingPlane")
        plane["grid_spacing"] = [0.8e-6, 0.8e-6]
        series["imaging_plane"] = h5py.SoftLink("/general/optophysiology/ImagingPlane")
        masks = file.create_group("processing/ophys/ImageSegmentation/PlaneSegmentation")
        masks["image_mask"] = np.zeros((3, 14, 9))
    assert read_movie_facts(path).um_per_px == 0.8
    np.testing.assert_array_equal(read_all(path), MOVIE)
    found = read_all(path, key="acquisition/TwoPhotonSeries", axes="TYX")
    np.testing.assert_array_equal(found, MOVIE.transpose(0, 2, 1))


def test_no_other_file_is_opened(tmp_path):
    other = save_hdf5(tmp_path / "other.h5")
    raw = tmp_path / "raw"
    raw.write_bytes(MOVIE.tobytes())
    path = tmp_path / "movie.h5"
    with h5py.File(path, "w") as file:
        file["linked"] = h5py.ExternalLink(str(other), "mov")
        file["soft"] = h5py.SoftLink("/linked")
        file["ring"] = h5py.SoftLink("/ring")
        file.create_dataset("external", MOVIE.shape, MOVIE.dtype, external=str(raw))
        layout = h5py.VirtualLayout(MOVIE.shape, MOVIE.dtype)
        layout[:] = h5py.VirtualSource(str(other), "mov", MOVIE.shape)
        file.create_virtual_dataset("virtual", layout)
    for name, reason in (
        ("linked", "in another file"),
        ("soft", "in another file"),
        ("ring", "linked in a ring"),
        ("external", "lies in another file"),
        ("virtual", "lies in another file"),
    ):
        with pytest.raises(RecordingError, match=reason):
            read_all(path, key=name)


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(movies, "MAX_CHUNK", 2**20)
    path = tmp_path / "movie.h5"
    with h5py.File(path, "w") as file:
        chunk = file.create_dataset("bomb", (2, 8, 8), "u1", chunks=(1, 8, 8), compression="gzip")
        chunk.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**28), 9))
        file.create_dataset("wide", (2, 8, 8), "u1", chunks=(2**10, 2**6, 2**6),
                            maxshape=(None, None, None))  # fmt: skip
        file.create_dataset("huge", (2, 2**14, 2**14), "u1", chunks=(1, 64, 64))
        file.create_dataset("twice", (2, 8, 8), "u1", compression="gzip", chunks=(1, 8, 8))
    for name, reason in (("bomb", "damaged"), ("wide", "limit"), ("huge", "more than")):
        with refused(path, reason, memory=2**22):
            read_all(path, key=name)


def test_blocks_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(movies, "BLOCK_BYTES", MOVIE[:2].nbytes)
    for path in (
        save_tiff(tmp_path / "movie.tif"),
        save_hdf5(tmp_path / "movie.h5"),
        save_hdf5(tmp_path / "large_chunks.h5", chunks=(3, 9, 14)),
    ):
        blocks = list(iterate_frames(path))
        assert {len(block) for block in blocks[:-1]} in ({2}, {3})
        np.testing.assert_array_equal(np.concatenate(blocks), MOVIE)


@pytest.mark.parametrize(
    ("attributes", "axes"),
    [
        ({"axes": "YXT"}, "YXT"),
        ({"axistags": '{"axes": [{"key": "x"}, {"key": "t"}, {"key": "y"}]}'}, "XTY"),
        ({"axes": ["time", "height", "width"]}, "TYX"),
    ],
)
def test_hdf5_files_tell_which_axis_is_time(tmp_path, attributes, axes):
    movie = MOVIE.transpose(["TYX".index(axis) for axis in axes])
    path = save_hdf5(tmp_path / "movie.h5", movie=movie)
    with h5py.File(path, "a") as file:
        file["mov"].attrs.update(attributes)
        file["mov"].attrs["fr"] = 15.0
    facts = read_movie_facts(path)
    assert (facts.frames, facts.shape, facts.rate) == (11, (9, 14), 15.0)
    np.testing.assert_array_equal(read_all(path), MOVIE)


def test_axes_that_cannot_be_guessed_are_asked_for(tmp_path):
    square = np.random.default_rng(1).integers(0, 99, (8, 8, 20))
    path = save_hdf5(tmp_path / "square.h5", movie=square)
    with pytest.raises(RecordingError, match=r"say which axis is time \(T\), as --axes"):
        read_all(path)
    np.testing.assert_array_equal(read_all(path, axes="YXT"), square.transpose(2, 0, 1))
    five = np.random.default_rng(1).integers(0, 99, (5, 2, 3, 8, 9))
    path = save_hdf5(tmp_path / "five.h5", movie=five)
    with pytest.raises(RecordingError, match="holds 3 channels"):
        read_all(path, axes="TZCYX", plane="2")
    found = read_all(path, axes="TZCYX", plane="2", channel="3")
    np.testing.assert_array_equal(found, five[:, 1, 2])


def test_frames_in_files_of_their_own_are_one_movie(tmp_path):
    for number, frame in enumerate(MOVIE):
        save_tiff(tmp_path / f"fr_{number:05d}.tif", frame)
        save_tiff(tmp_path / f"other{number}.tif", frame // 2)
    movies = find_movies([tmp_path])
    assert [(movie.name, len(movie.paths)) for movie in movies] == [("fr", 11), ("other", 11)]
    np.testing.assert_array_equal(read_all(movies[0].paths), MOVIE)
    np.testing.assert_array_equal(read_all(movies[1].paths), MOVIE // 2)
    assert find_movies([tmp_path / "fr_*.tif"]) == find_movies(sorted(tmp_path.glob("fr_*.tif")))
    with pytest.raises(RecordingError, match="matches no file"):
        find_movies([tmp_path / "x*.tif"])
    save_tiff(tmp_path / "fr_00005.tif", MOVIE[0, :5])
    with pytest.raises(RecordingError, match=r"fr_00005\.tif: has frames of \[5, 14\]"):
        read_movie_facts(movies[0].paths)


def test_a_folder_without_a_movie_says_what_is_missing(tmp_path):
    (tmp_path / "plane0").mkdir()
    for name in ("stat.npy", "iscell.npy", "data.bin"):
        (tmp_path / "plane0" / name).write_bytes(b"")
    with pytest.raises(RecordingError, match=r"Suite2p folder without ops\.npy"):
        find_movies([tmp_path / "plane0"])


def test_numbered_parts_in_a_folder_are_one_movie_and_named_files_are_not(tmp_path):
    for number, part in enumerate((MOVIE[:6], MOVIE[6:])):
        save_tiff(tmp_path / f"rec_{number + 1:05d}.tif", part)
        save_tiff(tmp_path / f"mouse {number + 1}.tif", part)
    found = {movie.name: movie.paths for movie in find_movies([tmp_path])}
    assert sorted(found) == ["mouse 1", "mouse 2", "rec"]
    np.testing.assert_array_equal(read_all(found["rec"]), MOVIE)
    files = [tmp_path / "rec_00001.tif", tmp_path / "rec_00002.tif"]
    assert [movie.name for movie in find_movies(files)] == ["rec_00001", "rec_00002"]
