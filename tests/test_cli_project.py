"""`fluxseg project` in real processes."""

import h5py
import numpy as np
import pytest
import tifffile

from fluxseg.formats.images import read_image
from fluxseg.formats.projections import CorrelationImage
from tests.commands import run

MOVIE = np.random.default_rng(0).integers(0, 4000, (40, 24, 30)).astype(np.uint16)


def project(*arguments, code=0):
    return run("project", *arguments, code=code)


@pytest.fixture
def movie(tmp_path):
    path = tmp_path / "with blanks and umläuts.tif"
    tifffile.imwrite(path, MOVIE, imagej=True, resolution=(1 / 0.78, 1 / 0.78),
                     metadata={"unit": "um", "axes": "TYX"})  # fmt: skip
    return path


def test_all_projections_keep_size_and_pixel_size(movie, tmp_path):
    text = project(movie, "--output", tmp_path / "out", "--kind", "max", "mean", "correlation")
    assert "1 movies projected, 0 failed" in text
    found = {path.name: read_image(path) for path in sorted((tmp_path / "out").iterdir())}
    assert [name.rsplit("_")[-1] for name in found] == ["correlation.tif", "max.tif", "mean.tif"]
    assert all(name.startswith("with blanks and umläuts_") for name in found)
    correlation, largest, mean = (recording.image for recording in found.values())
    np.testing.assert_array_equal(largest, MOVIE.max(0), strict=True)
    np.testing.assert_array_equal(mean, MOVIE.mean(0).astype("f4"), strict=True)
    expected = CorrelationImage().add(MOVIE).result()
    np.testing.assert_allclose(correlation, expected, rtol=1e-6, atol=1e-7)
    assert correlation.dtype == np.float32
    for recording in found.values():
        assert recording.metadata["um_per_px"] == pytest.approx(0.78, rel=1e-6)


def test_the_maximum_alone_is_the_default_and_bins(movie, tmp_path):
    project(movie, "--output", tmp_path / "out", "--bin", "4")
    (path,) = (tmp_path / "out").iterdir()
    means = np.max([MOVIE[i : i + 4].mean(0) for i in range(37)], axis=0)
    np.testing.assert_allclose(tifffile.imread(path), means, atol=0.5)


def test_bad_movies_do_not_stop_the_others(movie, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(movie.read_bytes()[:5000])
    series = tmp_path / "series.h5"
    with h5py.File(series, "w") as file:
        file["first"], file["second"] = MOVIE, MOVIE[:5]
    out = tmp_path / "out"
    absent = tmp_path / "absent.tif"
    text = project(bad, series, movie, absent, "--output", out, code=1)
    assert "1 movies projected, 3 failed" in text
    for words in (f"failed: {bad}: ", "choose one with --key", f"failed: {absent}: "):
        assert words in text
    assert [path.name for path in out.iterdir()] == [f"{movie.stem}_max.tif"]
    project(series, "--output", out, "--key", "second")
    np.testing.assert_array_equal(tifffile.imread(out / "series_max.tif"), MOVIE[:5].max(0))
    project(series, "--output", out, "--key", "second", "--axes", "txy")
    np.testing.assert_array_equal(tifffile.imread(out / "series_max.tif"), MOVIE[:5].max(0).T)


def test_images_beside_movies_in_a_folder_are_not_projected(movie, tmp_path):
    out = movie.parent
    assert "1 movies projected" in project(movie.parent, "--output", out)
    text = project(movie.parent, "--output", out)
    assert f"not used: {out / movie.stem}_max.tif: one image, no movie" in text
    assert len(list(out.iterdir())) == 2
    project(out / f"{movie.stem}_max.tif", "--output", out / "named")
    movie.unlink()
    assert "0 movies projected" in project(out, "--output", out / "none", code=1)


def test_settings_that_suit_no_movie_are_errors(movie, tmp_path):
    (tmp_path / "a").mkdir()
    twin = tmp_path / "a" / movie.name
    (tmp_path / "b" / "c").mkdir(parents=True)
    text = project(tmp_path / "b", "--output", tmp_path, code=2)
    assert "; folders in it, such as c, must be named" in text
    assert "several movies are named" in project(movie, twin, "--output", tmp_path, code=2)
    assert "bin: must be 1 to" in project(movie, "--output", tmp_path, "--bin", "0", code=2)
