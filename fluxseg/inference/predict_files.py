"""Prediction of files: what is written for each, and what went wrong with which."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.data.resample import choose_zoom
from fluxseg.errors import ConfigError, RecordingError, WorkdirError
from fluxseg.formats.formats import ENDINGS
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.pixels import write_image_tiff
from fluxseg.inference.ensemble import Ensemble, EnsembleMaps
from fluxseg.inference.inputs import Job, read_input, without_path
from fluxseg.inference.predict import Predictor
from fluxseg.io.files import atomic_path, write_json
from fluxseg.processes import find_disagreement, gather_values, run_in_all, run_in_first, share_of

OutputFormat = Literal[
    "probability", "labels", "mask", "npz", "suite2p", "cellpose", "imagej", "nwb", "neurofinder",
    "coco",
]  # fmt: skip
"""probability: `NAME_probability.tif`, float32. labels: `NAME_labels.tif`, one number a neuron, 0
is background. mask: `NAME_mask.tif`, 255 where a neuron is. npz: `NAME_prediction.npz`, all three
and the measures of each neuron. The others: the neurons in the format of that tool, see
`fluxseg.formats.formats`."""
SUMMARY = "predictions.json"
"""File in the output folder that says what became of each input."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        files: names of the files that were written.
        neurons: number of neurons; None if nobody asked for them, or it failed.
        error: why it failed; empty if it did not.
        diameter: typical diameter of the cells, px, that was given or estimated; None for a model
            that takes images as they are.
    """

    job: Job
    files: tuple[str, ...] = ()
    neurons: int | None = None
    error: str = ""
    diameter: float | None = None


def predict_files(
    model: Predictor | Ensemble,
    jobs: Sequence[Job],
    output: Path,
    formats: Sequence[OutputFormat] = ("probability", "labels"),
    *,
    threshold: float | None = None,
    tta: bool | None = None,
    tile: int | None = None,
    diameter: float | None = None,
    min_confidence: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Predict images and write what was asked for; a bad one does not stop the others.

    In a job of several processes each calls this, and predicts its part of the jobs.

    Args:
        model: the model, or several; then each image also gets `NAME_std.tif`, `NAME_entropy.tif`
            and `NAME_information.tif`, where they disagree (see `EnsembleMaps`), float32.
        jobs: from `plan_jobs`.
        output: folder to write to; it also gets `predictions.json`.
        formats: what to write for each image.
        threshold: least probability of a neuron pixel; None for the model's own.
        tta: see `Predictor.predict`.
        tile: see `Predictor.predict`.
        diameter: see `Predictor.predict`.
        min_confidence: least confidence of a neuron; None for the model's own.
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
    settings = {"tta": tta, "tile": tile, "diameter": diameter}

    def predict() -> list[Outcome]:
        outcomes: list[Outcome] = []
        mine = share_of(jobs)
        for number, job in enumerate(mine, 1):
            outcomes.append(_predict_job(model, job, output, formats, (threshold, cut), settings))
            if outcomes[-1].error:
                logger.warning("failed: %s: %s", job.path, outcomes[-1].error)
            if progress:
                progress(number, len(mine))
        return outcomes

    outcomes = _gather(jobs, run_in_all(predict, "its part of the images"))
    rows = [_row(outcome) for outcome in outcomes]
    summary = {"threshold": threshold, "min_confidence": cut, "tta": tta, "images": rows}
    run_in_first(lambda: write_json(output / SUMMARY, summary), f"writing {SUMMARY}")
    return outcomes


def _predict_job(
    model: Predictor | Ensemble,
    job: Job,
    output: Path,
    formats: Sequence[OutputFormat],
    limits: tuple[float, float],
    settings: Mapping[str, Any],
) -> Outcome:
    if job.error:
        return Outcome(job, error=job.error)
    try:
        image, scale = read_input(job.path, job.pick)
        diameter = settings["diameter"]
        diameter = model.find_diameter(image) if diameter is None else diameter
        probability, maps = _predict(model, image, {**settings, "diameter": diameter})
    except RecordingError as error:
        return Outcome(job, error=without_path(error, job.path))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first = (str(error) or "no memory is left").splitlines()[0]
        return Outcome(job, error=f"cannot be predicted, try smaller tiles: {first}")
    scale = scale or model.um_per_px
    found = _Found(job.name, image, probability, limits, scale, diameter)
    files, neurons = _write(output, found, formats)
    if maps is not None:
        files = (*files, *_write_maps(output, job.name, maps, scale))
    return Outcome(job, files, neurons, diameter=diameter)


def _predict(
    model: Predictor | Ensemble, image: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, EnsembleMaps | None]:
    if isinstance(model, Ensemble):
        maps = model.predict(image, **settings)
        return maps.mean, maps
    return model.predict(image, **settings), None


def _write_maps(
    output: Path, name: str, maps: EnsembleMaps, um_per_px: float | None
) -> tuple[str, ...]:
    """Write where the members of an ensemble disagree; return the names of the files."""
    kinds = ("std", "entropy", "information")
    for kind in kinds:
        path = output / f"{name}_{kind}.tif"
        write_image_tiff(path, getattr(maps, kind), um_per_px, compress=True)
    return tuple(f"{name}_{kind}.tif" for kind in kinds)


def _check_agreement(jobs: Sequence[Job]) -> None:
    """Raise in every process if they are about to predict different images."""
    items = [f"{job.path} {job.name} {job.error}" for job in jobs]
    found = find_disagreement(items, "listing the images")
    if found:
        raise WorkdirError(
            f"the processes of this job see different images: process 0 lists {found[0]}, process "
            f"{found[1]} {found[2]}; all must see the same folders"
        )


def _gather(jobs: Sequence[Job], mine: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of all processes in the order of the jobs."""
    values = [[outcome.files, outcome.neurons, outcome.error, outcome.diameter] for outcome in mine]
    parts = gather_values(values, "what became of the images")
    return [
        Outcome(job, tuple(files), neurons, error, diameter)
        for number, job in enumerate(jobs)
        for files, neurons, error, diameter in [parts[number % len(parts)][number // len(parts)]]
    ]


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "input": str(outcome.job.path).encode("utf-8", "replace").decode(),
        "files": list(outcome.files),
        "neurons": outcome.neurons,
        "diameter_px": None if outcome.diameter is None else round(outcome.diameter, 2),
        "error": outcome.error or None,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    name: str
    image: np.ndarray
    probability: np.ndarray
    limits: tuple[float, float]
    um_per_px: float | None
    diameter: float | None = None


def _write(
    output: Path, found: _Found, formats: Sequence[OutputFormat]
) -> tuple[tuple[str, ...], int | None]:
    """Write the files of one image; return their names and the number of neurons."""
    name, probability = found.name, found.probability
    threshold, min_confidence = found.limits
    um_per_px = found.um_per_px
    files: list[str] = []
    arrays: dict[str, np.ndarray] = {"probability": probability}
    arrays["mask"] = np.where(probability >= threshold, np.uint8(255), np.uint8(0))
    neurons = None
    if set(formats) - {"probability", "mask"}:
        from fluxseg.inference.objects.rois import find_rois

        rois = find_rois(
            probability,
            threshold=threshold,
            um_per_px=um_per_px,
            diameter=found.diameter,
            min_confidence=min_confidence,
        )
        neurons = len(rois)
        measures = ("area", "centroid", "quality", "confidence")
        arrays |= {"labels": rois.labels} | {key: getattr(rois, key) for key in measures}
        arrays["mean_probability"] = rois.probability
    for kind in dict.fromkeys(formats):
        if kind in ENDINGS and kind not in ("labels", "npz"):
            files.append(_write_format(output, found, arrays, kind))
            continue
        file = f"{name}_prediction.npz" if kind == "npz" else f"{name}_{kind}.tif"
        files.append(file)
        if kind == "npz":
            with atomic_path(output / file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, **arrays)
        else:
            write_image_tiff(output / file, arrays[kind], um_per_px, compress=True)
    return tuple(files), neurons


def _write_format(output: Path, found: _Found, arrays: Mapping[str, np.ndarray], kind: Any) -> str:
    """Write the neurons in the format of another tool; return the name of the file or folder."""
    from fluxseg.formats.convert import write_recording

    masks, names = masks_from_labels(arrays["labels"])
    metadata: dict[str, Any] = {"roi_quality": np.round(arrays["confidence"], 4).tolist()}
    if found.um_per_px is not None:
        metadata["um_per_px"] = found.um_per_px
    recording = Recording(found.name, found.image, masks, names, metadata=metadata)
    file = found.name + ENDINGS[kind]
    for remark in write_recording(output / file, recording, kind, overwrite=True):
        logger.debug("%s: %s", file, remark)
    return file
