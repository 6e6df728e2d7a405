"""Prediction of files: what becomes of each, what went wrong with which, and where to go on."""

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from fluxseg import version
from fluxseg.data.resample import choose_zoom
from fluxseg.errors import ConfigError, FluxsegError, RecordingError, WorkdirError
from fluxseg.formats.formats import PredictFormat
from fluxseg.formats.own import MARK
from fluxseg.inference.inputs import Job, read_input
from fluxseg.inference.outputs import Prediction, write_prediction
from fluxseg.inference.predict import Predictor
from fluxseg.inference.shown import find_doubts
from fluxseg.io.files import read_json, stamp_file, write_json
from fluxseg.io.names import safe_name
from fluxseg.io.progress import Progressed
from fluxseg.io.schema import from_plain
from fluxseg.processes import current_process, gather_values, run_in_all, run_in_first, share_of

SUMMARY = "predictions.json"  # file in the output folder that says what became of each input
AT_ONCE = 2  # images in work: one is read, taken apart and written while the network sees the other
SAVED_EVERY = 10.0  # seconds after which `SUMMARY` is written again, as the process may be killed

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job, a row of `predictions.json`."""

    input: str  # path of the image, of several of one field the first
    pick: str  # which channel, plane or array of it was read
    name: str  # begin of the names of its files
    files: tuple[str, ...] = ()  # names of the files that were written
    neurons: int | None = None  # number of neurons; None if it failed
    diameter_px: float | None = None  # of the cells; None if the model takes images as they are
    warnings: tuple[str, ...] = ()  # what makes the result doubtful
    error: str | None = None  # why it failed; None if it did not
    stamp: str = ""  # size and time of change of the input; empty if it has none
    more: tuple[str, ...] = ()  # paths of the other images of the field


def predict_files(
    model: Predictor,
    jobs: Sequence[Job],
    output: Path,
    formats: Sequence[PredictFormat] = ("labels", "overlay", "table", "probability"),
    *,
    threshold: float | None = None,
    tta: bool | None = None,
    tile: int | None = None,
    diameter: float | None = None,
    min_confidence: float | None = None,
    numbers: bool = False,
    overwrite: bool = False,
    progress: Progressed | None = None,
) -> list[Outcome]:
    """Predict images and write what was asked for; a bad one does not stop the others.

    In a job of several processes each calls this, and predicts its part of the jobs. What the same
    call has done before, and what it had done when it was stopped, is not done again.

    Args:
        model: the model, or several; then each image also gets `NAME_std.tif`, float32, where
            they disagree.
        jobs: from `plan_jobs`.
        output: folder to write to; it also gets `predictions.json`.
        formats: what to write for each image.
        threshold: least probability of a neuron pixel; None for the model's own.
        tta: see `Predictor.predict`.
        tile: see `Predictor.predict`.
        diameter: see `Predictor.predict`.
        min_confidence: least confidence of a neuron; None for the model's own.
        numbers: whether overlays show the number of each neuron.
        overwrite: predict again what is done. Files that are not fluxseg's stay in any case.
        progress: called with (images done, images in all), of this process's part.

    Returns the outcome of each job, in their order, whichever process has predicted it. Raises
    `ConfigError` if a setting is out of its range; and `WorkdirError` if the output folder cannot
    be written.
    """
    settings: dict[str, Any] = {
        "made_by": MARK, "version": version.__version__, "model": model.digest,
        "threshold": model.threshold if threshold is None else threshold,
        "min_confidence": model.min_confidence if min_confidence is None else min_confidence,
        "tta": model.tta if tta is None else tta, "tile": tile, "diameter": diameter,
        "formats": list(formats), "numbers": numbers,
    }  # fmt: skip
    _check_settings(settings, model.diameter_px)
    _check_agreement(jobs)
    earlier = {} if overwrite else _read_earlier(output, settings)
    if good := sum(not job.error and not _find_earlier(job, output, earlier) for job in jobs):
        what = "1 image" if good == 1 else f"{good} images"
        logger.info("Predicting %s; the first takes longer than the others", what)
    kept = read_names(output)

    def save(outcomes: Sequence[Outcome]) -> None:
        # A name that is not UTF-8 cannot stand in a file that is.
        rows = [dataclasses.asdict(one) | _paths(one) for one in outcomes]
        done = {Path(one.input).resolve(): one.name for one in outcomes if not one.error}
        named = {_plain(os.path.relpath(path, output.resolve())): name
                 for path, name in (kept | done).items()}  # fmt: skip
        write_json(output / SUMMARY, {**settings, "images": rows, "names": named})

    def predict() -> list[Outcome]:
        outcomes: list[Outcome] = []
        mine = share_of(jobs)
        alone, saved = current_process()[1] == 1, time.monotonic()

        def one(job: Job) -> Outcome:
            return _find_earlier(job, output, earlier) or _predict_job(model, job, output, settings)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for number, outcome in enumerate(pool.map(one, mine), 1):
                    outcomes.append(outcome)
                    if progress:
                        progress(number, len(mine))
                    _tell(outcome, given=diameter is not None)
                    if alone and time.monotonic() - saved > SAVED_EVERY:
                        save(outcomes)
                        saved = time.monotonic()
            except BaseException:
                # Stopped: what is done is kept, and the same call goes on from here.
                pool.shutdown(wait=False, cancel_futures=True)
                if alone and outcomes:
                    save(outcomes)
                raise
        return outcomes

    mine = run_in_all(predict, "its part of the images")
    parts = gather_values([dataclasses.asdict(one) for one in mine], "what became of the images")
    # The processes have dealt out the jobs in turn.
    rows = [parts[number % len(parts)][number // len(parts)] for number in range(len(jobs))]
    outcomes = [
        Outcome(**row | {name: tuple(row[name]) for name in ("files", "warnings", "more")})
        for row in rows
    ]
    run_in_first(lambda: save(outcomes), f"writing {SUMMARY}")
    return outcomes


def read_names(output: Path) -> dict[Path, str]:
    """Return the names of results in a folder by the whole paths of their images, if still there.

    So an image keeps its name in later calls, and another of that name does not replace it.
    """
    try:
        named = from_plain(read_json(output / SUMMARY)["names"], dict[str, str])
        found = {(output / path).resolve(strict=True): name for path, name in named.items()
                 if (output / path).exists()}  # fmt: skip
    except (FluxsegError, KeyError, TypeError, ValueError, OSError):
        return {}
    return {path: name for path, name in found.items() if safe_name(name) == name}


def _check_settings(settings: Mapping[str, Any], trained_px: float | None) -> None:
    if not 0 <= settings["min_confidence"] <= 1:
        raise ConfigError(f"min_confidence must be 0 to 1, got {settings['min_confidence']}")
    if not 0 < settings["threshold"] <= 1:
        raise ConfigError(f"threshold must be above 0 and at most 1, got {settings['threshold']}")
    if unknown := sorted(set(settings["formats"]) - set(get_args(PredictFormat))):
        raise ConfigError(f"there is no format {unknown[0]!r}")
    if not settings["formats"]:
        raise ConfigError("formats must name at least one format")
    if settings["diameter"] is not None and trained_px is not None:
        choose_zoom(settings["diameter"], trained_px)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _paths(outcome: Outcome) -> dict[str, Any]:
    return {"input": _plain(outcome.input), "more": tuple(map(_plain, outcome.more))}


def _tell(outcome: Outcome, *, given: bool) -> None:
    if outcome.error:
        logger.warning("failed: %s: %s", outcome.input, outcome.error)
        return
    text = "1 neuron" if outcome.neurons == 1 else f"{outcome.neurons} neurons"
    if outcome.diameter_px is not None:
        how = "given" if given else "estimated"
        text = f"{text}, diameter {outcome.diameter_px:.1f} px ({how})"
    more = f" and {len(outcome.more)} more of one field" if outcome.more else ""
    logger.info("%s%s: %s", outcome.input, more, text)
    for warning in outcome.warnings:
        logger.warning("%s: %s", Path(outcome.input).name, warning)


def _begin(job: Job) -> Outcome:
    return Outcome(str(job.path), str(job.pick), job.name, more=tuple(map(str, job.more)))


def _predict_job(model: Predictor, job: Job, output: Path, settings: Mapping[str, Any]) -> Outcome:
    outcome = _begin(job)
    if job.error:
        return dataclasses.replace(outcome, error=job.error)
    given = settings["diameter"]
    chosen = ("threshold", "min_confidence", "tta", "tile", "diameter")
    try:
        image, scale, remarks = read_input(job.path, job.pick)
        more = [_read_same(path, job, image.shape) for path in job.more]
        found = model.find_neurons(
            [image, *more] if more else image,
            um_per_px=scale,
            **{name: settings[name] for name in chosen},
        )
    except RecordingError as error:
        # The line that tells of it names the file already.
        text = str(error).removeprefix(str(job.path)).lstrip(": ")
        return dataclasses.replace(outcome, error=text)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first = (str(error) or "no memory is left").splitlines()[0]
        return dataclasses.replace(
            outcome, error=f"cannot be predicted, try smaller tiles: {first}"
        )
    mask = np.where(found.probability >= settings["threshold"], np.uint8(255), np.uint8(0))
    prediction = Prediction(job.name, image, found.rois, {**found.maps, "mask": mask})
    files, kept = write_prediction(
        output, prediction, settings["formats"], numbers=settings["numbers"]
    )
    doubts = find_doubts(image, found.rois, given, model.diameter_px)
    return dataclasses.replace(
        outcome,
        files=files,
        neurons=len(found.rois),
        diameter_px=None if found.diameter is None else round(found.diameter, 2),
        warnings=(*remarks, *doubts, *kept),
        stamp=_stamp(job),
    )


def _read_same(path: Path, job: Job, shape: tuple[int, ...]) -> np.ndarray:
    image, _, _ = read_input(path, job.pick)
    if image.shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (image.shape, shape)]
        why = f"has {sizes[0]} px, {job.path.name} has {sizes[1]}: no image of the same field"
        raise RecordingError(str(path), why)
    return image


def _stamp(job: Job) -> str:
    try:
        return " ".join(stamp_file(path) for path in (job.path, *job.more))
    except OSError:
        return ""


def _read_earlier(output: Path, settings: Mapping[str, Any]) -> dict[tuple[str, ...], Outcome]:
    """Return what an earlier call with the same settings has done, by input, pick and name."""
    try:
        summary = read_json(output / SUMMARY)
        if any(summary[name] != value for name, value in settings.items()):
            return {}
        rows = from_plain(summary["images"], list[Outcome])
    except (FluxsegError, KeyError, TypeError):
        return {}
    done = (row for row in rows if not row.error and row.stamp)
    return {(row.input, row.pick, row.name, *row.more): row for row in done}


def _find_earlier(
    job: Job, output: Path, earlier: Mapping[tuple[str, ...], Outcome]
) -> Outcome | None:
    own = _begin(job)
    found = earlier.get((_plain(own.input), own.pick, own.name, *map(_plain, own.more)))
    if found is None or found.stamp != _stamp(job):
        return None
    if any(path.is_dir() for path in (job.path, *job.more)):
        return None
    if not all((output / file).exists() for file in found.files):
        return None
    return dataclasses.replace(found, input=own.input, more=own.more)


def _check_agreement(jobs: Sequence[Job]) -> None:
    """Raise in every process if they are about to predict different images."""
    text = "\n".join(f"{job.path} {job.more} {job.name} {job.error}" for job in jobs)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    everyone = gather_values([digest, len(jobs)], "listing the images")
    for number, (other, count) in enumerate(everyone):
        if other != everyone[0][0]:
            raise WorkdirError(
                f"the processes of this job see different images: process 0 lists "
                f"{everyone[0][1]}, process {number} {count}; all must see the same folders"
            )
