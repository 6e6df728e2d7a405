"""Prediction of files: what becomes of each, what went wrong with which, and where to go on."""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from fluxseg.data.resample import choose_zoom
from fluxseg.errors import ConfigError, FluxsegError, RecordingError, WorkdirError
from fluxseg.formats.own import MARK
from fluxseg.inference.ensemble import Ensemble
from fluxseg.inference.inputs import Job, read_input, without_path
from fluxseg.inference.outputs import DEFAULT_FORMATS, OutputFormat, Prediction, write_prediction
from fluxseg.inference.predict import Predictor
from fluxseg.io.files import read_json, stamp_file, write_json
from fluxseg.processes import (
    current_process,
    gather_values,
    run_in_all,
    run_in_first,
    share_of,
)

SUMMARY = "predictions.json"
"""File in the output folder that says what became of each input."""
AT_ONCE = 2
"""Images in work: one is read, taken apart and written while the network sees the other."""
SAVED_EVERY = 10.0
"""Seconds after which `SUMMARY` is written again, as the process may be killed."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        files: names of the files that were written.
        neurons: number of neurons; None if it failed.
        error: why it failed; empty if it did not.
        diameter: typical diameter of the cells, px, that was given or estimated; None for a model
            that takes images as they are.
        warnings: what makes the result doubtful.
        stamp: size and time of change of the input; empty if it has none.
    """

    job: Job
    files: tuple[str, ...] = ()
    neurons: int | None = None
    error: str = ""
    diameter: float | None = None
    warnings: tuple[str, ...] = ()
    stamp: str = ""


def predict_files(
    model: Predictor | Ensemble,
    jobs: Sequence[Job],
    output: Path,
    formats: Sequence[OutputFormat] = DEFAULT_FORMATS,
    *,
    threshold: float | None = None,
    tta: bool | None = None,
    tile: int | None = None,
    diameter: float | None = None,
    min_confidence: float | None = None,
    numbers: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Predict images and write what was asked for; a bad one does not stop the others.

    In a job of several processes each calls this, and predicts its part of the jobs. What the same
    call has done before, and what it had done when it was stopped, is not done again.

    Args:
        model: the model, or several; then each image also gets `NAME_std.tif`, float32, where
            they disagree (see `Ensemble.predict`).
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

    Returns:
        The outcome of each job, in their order, whichever process has predicted it.

    Raises:
        ConfigError: if a setting is out of its range.
        WorkdirError: if the output folder cannot be written.
    """
    threshold = model.threshold if threshold is None else threshold
    cut = model.min_confidence if min_confidence is None else min_confidence
    if not 0 <= cut <= 1:
        raise ConfigError(f"min_confidence must be 0 to 1, got {cut}")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must be above 0 and at most 1, got {threshold}")
    if unknown := sorted(set(formats) - set(get_args(OutputFormat))):
        raise ConfigError(f"there is no format {unknown[0]!r}")
    if not formats:
        raise ConfigError("formats must name at least one format")
    if diameter is not None and model.diameter_px is not None:
        choose_zoom(diameter, model.diameter_px)
    _check_agreement(jobs)
    tta = model.tta if tta is None else tta
    settings = {
        "made_by": MARK, "model": _digest(model), "threshold": threshold, "min_confidence": cut,
        "tta": tta, "tile": tile, "diameter": diameter, "formats": list(formats),
        "numbers": numbers,
    }  # fmt: skip
    earlier = {} if overwrite else _read_earlier(output, settings)
    if good := sum(not job.error for job in jobs):
        what = "1 image" if good == 1 else f"{good} images"
        logger.info("Predicting %s; the first takes longer than the others", what)

    def predict() -> list[Outcome]:
        outcomes: list[Outcome] = []
        mine = share_of(jobs)
        alone, saved = current_process()[1] == 1, time.monotonic()

        def one(job: Job) -> Outcome:
            return _find_earlier(job, output, earlier) or _predict_job(
                model, job, output, formats, settings
            )

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for number, outcome in enumerate(pool.map(one, mine), 1):
                    outcomes.append(outcome)
                    if progress:
                        progress(number, len(mine))
                    _tell(outcome, given=diameter is not None)
                    if alone and time.monotonic() - saved > SAVED_EVERY:
                        _save(output, settings, outcomes)
                        saved = time.monotonic()
            except BaseException:
                # Stopped: what is done is kept, and the same call goes on from here.
                pool.shutdown(wait=False, cancel_futures=True)
                if alone and outcomes:
                    _save(output, settings, outcomes)
                raise
        return outcomes

    outcomes = _gather(jobs, run_in_all(predict, "its part of the images"))
    run_in_first(lambda: _save(output, settings, outcomes), f"writing {SUMMARY}")
    return outcomes


def format_outcome(outcome: Outcome, *, given: bool = False) -> str:
    """Format what became of a job as a line of text."""
    where = str(outcome.job.path)
    if outcome.error:
        return f"failed: {where}: {outcome.error}"
    count = "1 neuron" if outcome.neurons == 1 else f"{outcome.neurons} neurons"
    if outcome.diameter is None:
        return f"{where}: {count}"
    how = "given" if given else "estimated"
    return f"{where}: {count}, diameter {outcome.diameter:.1f} px ({how})"


def _tell(outcome: Outcome, *, given: bool) -> None:
    if outcome.error:
        logger.warning("%s", format_outcome(outcome))
        return
    logger.info("%s", format_outcome(outcome, given=given))
    for warning in outcome.warnings:
        logger.warning("%s: %s", outcome.job.path.name, warning)


def _predict_job(
    model: Predictor | Ensemble,
    job: Job,
    output: Path,
    formats: Sequence[OutputFormat],
    settings: Mapping[str, Any],
) -> Outcome:
    if job.error:
        return Outcome(job, error=job.error)
    try:
        image, scale, remarks = read_input(job.path, job.pick)
        given = settings["diameter"]
        diameter = model.find_diameter(image) if given is None else given
        chosen = {"tta": settings["tta"], "tile": settings["tile"], "diameter": diameter}
        probability, maps = _predict(model, image, chosen)
    except RecordingError as error:
        return Outcome(job, error=without_path(error, job.path))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first = (str(error) or "no memory is left").splitlines()[0]
        return Outcome(job, error=f"cannot be predicted, try smaller tiles: {first}")
    found = Prediction(
        job.name,
        image,
        probability,
        maps,
        (settings["threshold"], settings["min_confidence"]),
        scale or model.um_per_px,
        diameter,
        given is not None,
        model.diameter_px,
    )
    files, neurons, warnings = write_prediction(output, found, formats, numbers=settings["numbers"])
    return Outcome(job, files, neurons, "", diameter, (*remarks, *warnings), _stamp(job))


def _predict(
    model: Predictor | Ensemble, image: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if isinstance(model, Ensemble):
        mean, std = model.predict(image, **settings)
        return mean, {"std": std}
    return model.predict(image, **settings), {}


def _digest(model: Predictor | Ensemble) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for one in model.models if isinstance(model, Ensemble) else (model,):
        for leaf in jax.tree.leaves(one.params):
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _stamp(job: Job) -> str:
    try:
        return stamp_file(job.path)
    except OSError:
        return ""


def _read_earlier(
    output: Path, settings: Mapping[str, Any]
) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Return what an earlier call with the same settings has done, by input, pick and name."""
    try:
        summary = read_json(output / SUMMARY)
        if any(summary[name] != value for name, value in settings.items()):
            return {}
        return {
            (row["input"], row["pick"], row["name"]): row
            for row in summary["images"]
            if row["error"] is None and row["stamp"]
        }
    except (FluxsegError, KeyError, TypeError):
        return {}


def _find_earlier(
    job: Job, output: Path, earlier: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> Outcome | None:
    own = _row(Outcome(job))
    row = earlier.get((own["input"], own["pick"], own["name"]))
    if row is None or row["stamp"] != _stamp(job) or job.path.is_dir():
        return None
    if not all((output / file).exists() for file in row["files"]):
        return None
    return Outcome(
        job, tuple(row["files"]), row["neurons"], "", row["diameter_px"], tuple(row["warnings"]),
        row["stamp"],
    )  # fmt: skip


def _save(output: Path, settings: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    write_json(output / SUMMARY, {**settings, "images": [_row(outcome) for outcome in outcomes]})


def _check_agreement(jobs: Sequence[Job]) -> None:
    """Raise in every process if they are about to predict different images."""
    text = "\n".join(f"{job.path} {job.name} {job.error}" for job in jobs)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    everyone = gather_values([digest, len(jobs)], "listing the images")
    for number, (other, count) in enumerate(everyone):
        if other != everyone[0][0]:
            raise WorkdirError(
                f"the processes of this job see different images: process 0 lists "
                f"{everyone[0][1]}, process {number} {count}; all must see the same folders"
            )


def _gather(jobs: Sequence[Job], mine: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of all processes in the order of the jobs."""
    names = [field.name for field in dataclasses.fields(Outcome) if field.name != "job"]
    values = [[getattr(outcome, name) for name in names] for outcome in mine]
    parts = gather_values(values, "what became of the images")
    outcomes = []
    for number, job in enumerate(jobs):
        row = dict(zip(names, parts[number % len(parts)][number // len(parts)], strict=True))
        row |= {"files": tuple(row["files"]), "warnings": tuple(row["warnings"])}
        outcomes.append(Outcome(job, **row))
    return outcomes


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "input": str(outcome.job.path).encode("utf-8", "replace").decode(),
        "pick": str(outcome.job.pick),
        "name": outcome.job.name,
        "files": list(outcome.files),
        "neurons": outcome.neurons,
        "diameter_px": None if outcome.diameter is None else round(outcome.diameter, 2),
        "warnings": list(outcome.warnings),
        "error": outcome.error or None,
        "stamp": outcome.stamp,
    }
