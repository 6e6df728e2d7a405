import h5py
import numpy as np
import pytest

import fluxseg
from fluxseg import plot
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.simulation.activity import simulate_movie
from fluxseg.simulation.sessions import simulate_session
from fluxseg.traces.masks import create_footprints
from fluxseg.traces.quality import MovieCheck, find_doubts
from fluxseg.traces.sums import create_matrix, sum_blocks

SHAPE = (48, 60)


def labels():
    found = np.zeros(SHAPE, np.uint16)
    found[4:12, 4:12], found[20:30, 30:40], found[40:48, 50:60] = 1, 2, 3
    return found


def movie(frames=70, dtype=np.uint16):
    return np.random.default_rng(1).integers(0, 4000, (frames, *SHAPE)).astype(dtype)


def plain(frames, rois):
    """What `extract` computes, in the plainest way."""
    matrix = create_matrix(create_footprints(rois, SHAPE)).toarray().astype(np.float64)
    sums = frames.reshape(len(frames), -1).astype(np.float64) @ matrix.T
    return sums.T[: len(sums.T) // 2], sums.T[len(sums.T) // 2 :]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, ">u2", np.float32, np.float64])
def test_sums_are_those_of_a_dense_product(dtype):
    frames = movie().astype(dtype)
    traces = fluxseg.extract(frames, labels())
    f, neuropil = plain(frames, labels())
    np.testing.assert_allclose(traces.f, f, rtol=1e-5)
    np.testing.assert_allclose(traces.neuropil, neuropil, rtol=1e-5)
    assert traces.f.dtype == np.float32
    assert traces.rate == 30


def test_anything_that_slices_is_a_movie_and_blocks_change_no_bit(tmp_path):
    frames = movie()
    expected = fluxseg.extract(frames, labels())
    np.save(tmp_path / "movie.npy", frames)
    with h5py.File(tmp_path / "movie.h5", "w") as file:
        file["movie"] = frames
        file["movie"].attrs["rate"] = 12.5
        for one in (file["movie"], np.load(tmp_path / "movie.npy", mmap_mode="r")):
            np.testing.assert_array_equal(fluxseg.extract(one, labels()).f, expected.f)
    for path in (tmp_path / "movie.npy", tmp_path / "movie.h5"):
        found = fluxseg.extract(path, labels())
        np.testing.assert_array_equal(found.neuropil, expected.neuropil)
        assert found.rate == (12.5 if path.suffix == ".h5" else 30)
    matrix = create_matrix(create_footprints(labels(), SHAPE))
    for size in (1, 7, 64):
        blocks = (frames[start : start + size] for start in range(0, len(frames), size))
        sums = np.concatenate(list(sum_blocks(blocks, matrix)))
        np.testing.assert_array_equal(sums[:, :3].T, expected.f)


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_arrays_in_chunks_are_movies(kind):
    frames = movie()
    library = pytest.importorskip(
        {"zarr": "zarr", "dask": "dask.array"}[kind], reason=f"{kind} is not installed"
    )
    if kind == "zarr":
        chunked = library.array(frames, chunks=(16, 32, 32))
    else:
        chunked = library.from_array(frames, chunks=(16, 32, 32))
    expected = fluxseg.extract(frames, labels())
    np.testing.assert_array_equal(fluxseg.extract(chunked, labels()).f, expected.f)


def test_pixels_that_are_not_finite_are_missing():
    frames = movie(dtype=np.float32)
    expected = fluxseg.extract(frames, labels())
    frames[:, 4:6, 4:12] = np.nan
    frames[20, 20:30, 30:40] = np.inf
    found = fluxseg.extract(frames, labels())
    inner = frames[:, 6:12, 4:12].mean((1, 2))
    np.testing.assert_allclose(found.f[0], inner, rtol=1e-5)
    np.testing.assert_allclose(found.f[1, 20], expected.f[1, [19, 21]].mean(), rtol=1e-5)
    assert "1 frames (1.4%) have ROIs without a finite pixel" in found.remarks[0]
    gone = fluxseg.extract(np.full((5, *SHAPE), np.nan, np.float32), labels())
    assert (gone.f == 0).all()
    assert (gone.dff == 0).all()


def test_three_frames_one_roi_and_none():
    traces = fluxseg.extract(movie(3), labels(), tau=1.0)
    assert traces.dff.shape == traces.spikes.shape == (3, 3)
    assert all(np.isfinite(values).all() for values in traces.measures.values())
    none = fluxseg.extract(movie(3), np.zeros(SHAPE, np.uint8))
    assert none.f.shape == (0, 3)
    assert none.measures["skew"].shape == (0,)
    assert none.remarks == ("there are no ROIs: no traces",)


def test_rois_without_pixels_of_their_own_are_named():
    masks = np.zeros((2, *SHAPE), bool)
    masks[0, 4:12, 4:12] = masks[1, 4:12, 4:20] = True
    traces = fluxseg.extract(movie(4), masks)
    assert (traces.f[0] == 0).all()
    assert "1 ROIs have no pixel of their own" in traces.remarks[0]
    covered = fluxseg.extract(movie(4), np.ones((1, *SHAPE), bool))
    assert (covered.neuropil == 0).all()
    assert "no neuropil" in covered.remarks[0]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((5, 2, *SHAPE)), r"must be \[T, H, W\], got \[5, 2, 48, 60\]: choose a channel"),
        (np.zeros((0, *SHAPE)), r"must be \[T, H, W\]"),
        (np.zeros((5, *SHAPE), complex), "real numbers"),
        ([1, 2], "got list"),
    ],
)
def test_what_is_no_movie_is_refused(frames, words):
    with pytest.raises(RecordingError, match=words):
        fluxseg.extract(frames, labels())


def test_settings_are_checked():
    for settings in ({"rate": 0}, {"tau": -1}, {"rate": float("nan")}):
        with pytest.raises(ConfigError, match="must be above 0"):
            fluxseg.extract(movie(3), labels(), **settings)


@pytest.fixture(scope="module")
def activity():
    field, _ = simulate_session((3, 0), 0, (112, 112))
    return simulate_movie(np.random.default_rng(0), field, 400, 10.0)


def test_change_follows_the_true_activity(activity):
    traces = fluxseg.extract(activity.movie, activity.masks, rate=10.0, tau=1.0)
    alone = (activity.masks & (activity.masks.sum(0) == 1)).sum((1, 2)) > 40
    assert alone.sum() >= 5

    def follow(values, truth):
        pairs = zip(values[alone], truth[alone], strict=True)
        return np.median([np.corrcoef(one, other)[0, 1] for one, other in pairs])

    assert follow(traces.dff, activity.change) > 0.95
    assert follow(traces.dff, activity.change) > follow(traces.f, activity.change) + 0.02
    assert follow(traces.spikes, activity.spikes) > 0.7
    # Half of the resting light for a spike; what blurs into the ROI makes it a little less.
    slopes = [np.polyfit(t, d, 1)[0] for t, d in zip(activity.change, traces.dff, strict=True)]
    assert 0.7 < np.median(slopes) < 1.2


def test_pictures_and_notebooks_show_them(activity):
    traces = fluxseg.extract(activity.movie[:50], activity.masks, rate=10.0)
    assert len(plot.traces(traces, [0, 2], ["$a_", "b"]).lines) == 2
    assert "10 Hz, 5 s" in traces._repr_html_()


def doubts(frames):
    check = MovieCheck(len(frames))
    for start in range(0, len(frames), 16):
        check.add(frames[start : start + 16])
    return " ".join(find_doubts(check, frames.mean(0, dtype=float), frames.max(0)))


def test_quality_is_told(activity):
    good = activity.movie
    assert doubts(good) == ""
    steps = np.arange(len(good)) // 40
    assert "looks unregistered" in doubts(
        np.stack([np.roll(frame, step, 1) for frame, step in zip(good, steps, strict=True)])
    )
    assert "saturated" in doubts(np.minimum(good, 500))
    fading = (good * np.linspace(1, 0.5, len(good))[:, None, None]).astype(np.uint16)
    assert "brightness changes by -" in doubts(fading)
    lost = good.copy()
    lost[100], lost[200], lost[16] = 0, lost[199], lost[15]
    assert "3 of 400 frames (0.8%) look lost" in doubts(lost)
    assert "3 frames are too few" in doubts(good[:3])
