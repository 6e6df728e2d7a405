"""Every reader of files that may come from elsewhere, as a function of a folder."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fluxseg.errors import FluxsegError
from tests.fuzz import seeds
from tests.fuzz.folders import Files

MOST_KEYS = 4
"""Recordings of a folder that are read."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        read: called with the folder of the files and one for what it writes.
        seeds: whole files to begin with; those of a workdir are given one.
        needs_run: whether `seeds` needs the workdir of a run.
        examples: altered inputs that the suite tries.
    """

    read: Callable[[Path, Path], None]
    seeds: Callable[..., list[Files]]
    needs_run: bool = False
    examples: int = 60

    def create_seeds(self, run: Path) -> list[Files]:
        """Create the whole files, of a run where they are needed."""
        return self.seeds(run) if self.needs_run else self.seeds()


def read_arrays(folder: Path, output: Path) -> None:
    """Read each file as one array."""
    from fluxseg.formats.npy import read_npy

    for path in _files(folder):
        read_npy(path)


def read_recordings(folder: Path, output: Path) -> None:
    """Do as `fluxseg convert` of a folder does: read what is found, and write it by its id."""
    from fluxseg.formats.convert import write_recording
    from fluxseg.formats.sources import FolderSource
    from fluxseg.io.names import distinct_name, safe_name

    source = FolderSource(str(folder))
    taken: set[str] = set()

    def convert(key: str) -> None:
        source.stamp(key)
        recording = source.read(key)
        name = distinct_name(safe_name(recording.id), taken)
        write_recording(output / f"{name}.npz", recording)
        if recording.masks is not None:
            write_recording(output / f"{name}.json", recording)

    _do_all(functools.partial(convert, key) for key in source.keys()[:MOST_KEYS])


def read_any_file(folder: Path, output: Path) -> None:
    """Read each file by its content, as `fluxseg convert FILE` does, whatever its name."""
    from fluxseg.formats.convert import read_recording

    reads = [functools.partial(read_recording, path) for path in _files(folder)]
    _do_all([*reads, functools.partial(read_recordings, folder, output)])


def read_images(folder: Path, output: Path) -> None:
    """Do as `fluxseg predict` does with images, and read them as labels besides."""
    from fluxseg.formats.pixels import read_pixels
    from fluxseg.inference.inputs import plan_jobs, read_input

    jobs = plan_jobs([str(folder)])[0][: 2 * MOST_KEYS]
    reads: list[Callable[[], Any]] = []
    for job in jobs:
        assert "/" not in job.name
        assert not job.name.startswith(".")
        reads.append(functools.partial(read_input, job.path))
        reads.append(functools.partial(read_pixels, job.path, labels=True))
    _do_all([*reads, functools.partial(read_recordings, folder, output)])


def read_movies(folder: Path, output: Path) -> None:
    """Go through the frames of each file, as `fluxseg project` does."""
    from fluxseg.formats.movies import iterate_frames, read_movie_facts
    from fluxseg.formats.pick import Pick

    pick = Pick(channel="1", plane="1")
    for path in _files(folder):
        read_movie_facts(path, pick)
        for block in itertools.islice(iterate_frames(path, 0, pick), 50):
            assert block.ndim == 3


def read_recorded(folder: Path, output: Path) -> None:
    """Read a folder of ThorImage or PrairieView as `fluxseg project` and `predict` do."""
    from fluxseg.formats.movie_files import find_movies
    from fluxseg.formats.movies import iterate_frames
    from fluxseg.formats.pick import Pick
    from fluxseg.inference.inputs import plan_jobs

    pick = Pick(channel="1", plane="1")
    plan_jobs([str(folder)], pick)
    for movie in find_movies([folder], pick):
        for block in itertools.islice(iterate_frames(movie.paths, 0, pick), 50):
            assert block.ndim == 3


def read_models(folder: Path, output: Path) -> None:
    """Read each file as a model."""
    from fluxseg.inference.model_file import read_model

    for path in _files(folder):
        read_model(path)


def read_workdir(folder: Path, output: Path) -> None:
    """Read settings, split, scores and examples of a run, and write its report elsewhere."""
    from fluxseg.config import config_from_dict
    from fluxseg.data.splits import manifest_from_json
    from fluxseg.io.files import read_json
    from fluxseg.report.html import render_page
    from fluxseg.report.workdir import best_epoch, is_simulated, read_example, read_run

    def whole_run() -> None:
        run = read_run(folder)
        best_epoch(run)
        is_simulated(run)
        for row in run.examples:
            read_example(row["path"])
        page = render_page(run, {"curves": [], "scores": [], "reliability": [], "examples": []}, {})
        assert "<script" not in page
        assert "<img src=x" not in page

    _do_all(
        [
            lambda: config_from_dict(read_json(folder / "config.json")),
            lambda: manifest_from_json(read_json(folder / "split.json")),
            whole_run,
        ]
    )


@functools.cache
def _state_like() -> Any:
    """A state of the tiny run's structure."""
    import numpy as np

    from fluxseg.training.state import create_train_state
    from tests.conftest import TINY, with_data, with_train

    return create_train_state(with_data(with_train(TINY, epochs=2), tile=32), np.ones(2), 10)


def read_checkpoint(folder: Path, output: Path) -> None:
    """Restore the newest checkpoint, as a run that goes on does."""
    from fluxseg.errors import WorkdirError
    from fluxseg.training.checkpoints import open_checkpoints, restore_newest

    checkpoints = open_checkpoints(folder)
    try:
        found = restore_newest(checkpoints.last, _state_like())
    finally:
        checkpoints.close()
    if found is None:
        raise WorkdirError("holds no checkpoint")


def read_cache(folder: Path, output: Path) -> None:
    """Read the index of prepared crops, and all crops."""
    from fluxseg.data.cache import find_damage, read_crops, read_index
    from fluxseg.errors import WorkdirError

    index = read_index(folder)
    if index is None:
        raise WorkdirError("holds no cache")
    for name in list(index.shards)[:MOST_KEYS]:
        find_damage(index, name)
    for entry in index.entries[:MOST_KEYS]:
        for _ in itertools.islice(read_crops(index, entry), 20):
            pass


def read_review(folder: Path, output: Path) -> None:
    """Apply a review, as `fluxseg review --apply` does."""
    from fluxseg.adapt.review.apply import apply_review

    path = folder / "review.json"
    try:
        review = json.loads(path.read_bytes())
        if review["source"] == "recordings":
            # The file names a folder; where this one lies differs from input to input.
            path.write_text(json.dumps({**review, "source": str(folder / "recordings")}))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    apply_review(folder, output, remove_doubtful=True)


def _do_all(reads: Iterable[Callable[[], object]]) -> None:
    """Do all of it, whatever fails, and raise the first error."""
    errors: list[FluxsegError] = []
    for read in reads:
        try:
            read()
        except FluxsegError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())[: 2 * MOST_KEYS]


READERS = {
    "npy": Reader(read_arrays, seeds.array_files),
    "pickled": Reader(read_recordings, seeds.pickled_files),
    "npz": Reader(read_recordings, seeds.npz_files),
    "tiff": Reader(read_images, seeds.tiff_files),
    "png": Reader(read_images, lambda: seeds.picture_files(".png")),
    "jpeg": Reader(read_images, lambda: seeds.picture_files(".jpg")),
    "nwb": Reader(read_any_file, seeds.hdf5_files, examples=50),
    "movie": Reader(read_movies, seeds.movie_files),
    "microscope": Reader(read_recorded, seeds.microscope_files),
    "suite2p": Reader(read_recordings, seeds.suite2p_files),
    "cellpose": Reader(read_recordings, seeds.cellpose_files),
    "json": Reader(read_any_file, seeds.json_files),
    "imagej": Reader(read_any_file, seeds.imagej_files),
    "mat": Reader(read_any_file, seeds.mat_files),
    "model": Reader(read_models, seeds.model_files, examples=50),
    "workdir": Reader(read_workdir, seeds.run_files, needs_run=True, examples=30),
    "checkpoint": Reader(read_checkpoint, seeds.checkpoint_files, needs_run=True, examples=30),
    "cache": Reader(read_cache, seeds.cache_files, needs_run=True),
    "review": Reader(read_review, seeds.review_files, needs_run=True),
}
"""Name of each reader, for `--targets`."""
