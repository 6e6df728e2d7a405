import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from fluxseg.errors import RecordingError
from fluxseg.formats.movie_files import find_movies
from fluxseg.formats.movies import iterate_frames, read_movie_facts
from fluxseg.formats.pick import Pick
from fluxseg.formats.series import FEWEST, find_frames, split_series
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.inputs import plan_jobs


def field(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(96, 128)), 2)
    return 1000 + 8000 * (smooth - smooth.min())


def write_image(path, image):
    if path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image)


def write(folder, name, fields, noise=2000.0):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(9)
    for number, image in enumerate(fields):
        values = image + rng.normal(0, noise, image.shape)
        write_image(folder / name.format(number), values.clip(0, 65535).astype("u2"))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "fr_{:05}.tif",
        "{}.tiff",
        "img_{:09}_Default_000.tif",
        "T_Cycle00001_Ch2_{:06}.ome.TIF",
        "frame{:04}.png",
    ],
)
def test_frames_of_one_movie_get_one_hint(tmp_path, name):
    folder = write(tmp_path / "frames", name, [field(0)] * 12)
    jobs, unused = plan_jobs([str(folder)])
    assert len(jobs) == 1
    assert "12 files" in jobs[0].error
    assert "fluxseg project" in jobs[0].error
    assert len(unused) == 11
    # However they are named: by a pattern, or by the shell.
    assert plan_jobs([str(folder / "*")]) == (jobs, unused)
    assert plan_jobs([str(path) for path in sorted(folder.iterdir())])[0][0].error == jobs[0].error
    source = FolderSource(str(folder))
    assert len(source.keys()) == 1
    with pytest.raises(RecordingError, match="frames of one movie"):
        source.read(source.keys()[0])
    with pytest.raises(RecordingError, match=r"frames or parts of a movie$"):
        source.read(next(iter(unused)).name)
    # One of them by its name is an image, and so are all if the user says so.
    one = str(next(folder.iterdir()))
    assert not plan_jobs([one])[0][0].error
    assert [job.error for job in plan_jobs([str(folder)], Pick(axes="yx"))[0]] == [""] * 12
    source = FolderSource(str(folder), Pick(axes="YX"))
    assert source.read(source.keys()[0]).image.shape == (96, 128)


def test_images_of_different_fields_are_no_frames(tmp_path):
    folder = write(tmp_path / "fields", "mouse_{:03}.tif", map(field, range(12)), noise=100)
    assert find_frames(sorted(folder.iterdir())) == {}
    few = write(tmp_path / "few", "day_{:02}.tif", [field(0)] * (FEWEST - 1))
    assert len(plan_jobs([str(few)])[0]) == FEWEST - 1


def test_parts_of_a_movie_get_one_hint(tmp_path):
    folder = write(tmp_path / "parts", "run_{:05}.tif", [np.stack([field(0)] * 2)] * 12)
    (job,), unused = plan_jobs([str(folder)])
    assert "12 files" in job.error
    assert "parts of one movie" in job.error
    assert len(unused) == 11


def test_channels_and_planes_are_never_frames_of_each_other(tmp_path):
    names = [f"{kind}_{number:04}.tif" for kind in ("ChanA", "ChanB") for number in range(3)]
    names += [f"run_Ch{channel}_z{plane}.tif" for channel in (1, 2) for plane in (1, 2)]
    series = split_series([tmp_path / name for name in names])
    assert sorted((name, len(paths)) for name, paths, _ in series) == [
        ("ChanA", 3), ("ChanB", 3), *((f"run_Ch{c}_z{z}", 1) for c in (1, 2) for z in (1, 2)),
    ]  # fmt: skip


def test_frames_as_png_are_one_movie(tmp_path):
    folder = write(tmp_path / "frames", "frame{:04}.png", [field(0)] * 4)
    (movie,) = find_movies([folder])
    assert movie.name == "frame"
    facts = read_movie_facts(movie.paths)
    assert (facts.frames, facts.shape, facts.dtype) == (4, (96, 128), np.dtype("u2"))
    frames = np.concatenate(list(iterate_frames(movie.paths, chunk=3)))
    expected = [np.asarray(Image.open(path)) for path in movie.paths]
    np.testing.assert_array_equal(frames, expected)
