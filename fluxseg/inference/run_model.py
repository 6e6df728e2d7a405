"""The model of a run: its best checkpoint, with a threshold chosen on its validation split."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxseg import pretrained
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.inference.calibrate import (
    OperatingPoint,
    choose_operating_point,
    group_histograms,
    pool_histograms,
)
from fluxseg.inference.model_file import MODEL_NAME, read_model, read_stored_model, write_model
from fluxseg.inference.predict import Predictor, create_predictor
from fluxseg.io.files import read_json

if TYPE_CHECKING:
    from fluxseg.data.cache import CacheIndex
    from fluxseg.inference.evaluate import TrainedRun
    from fluxseg.training.state import TrainState

logger = logging.getLogger(__name__)


def load_model(path: str | Path = pretrained.NAME) -> Predictor:
    """Load a model file, the best checkpoint of a run, or the model that comes with fluxseg.

    Args:
        path: file that `write_model` wrote, workdir of a run, which may still be training, or
            "pretrained": a network trained on simulated fields alone, see its model card,
            `fluxseg/pretrained/card.md`. A folder of that name is "./pretrained".

    Returns:
        The model.

    Raises:
        FluxsegError: naming the path, if it is neither.
    """
    enable_compilation_cache()
    if path == pretrained.NAME:
        return read_model(pretrained.PATH, known=True)
    path = Path(path)
    if not path.is_dir():
        return read_model(path)
    from fluxseg.inference.evaluate import load_run

    run = load_run(path)
    return read_stored_model(run.workdir, run.checkpoint) or model_of_run(run)


def model_of_run(run: "TrainedRun") -> Predictor:
    """Create the model of a run from its checkpoint, its prepared crops and its split.

    Args:
        run: from `load_run`. Without its prepared crops or its split temperature and threshold
            are the defaults, which the log says.

    Returns:
        The model.
    """
    point, scale = operating_point_of_run(run)
    info = training_summary(run.workdir, run.config, run.checkpoint)
    return create_predictor(
        run.state, run.config, point.threshold, info, scale, temperature=point.temperature
    )


def operating_point_of_run(run: "TrainedRun") -> tuple[OperatingPoint, float | None]:
    """Choose temperature and threshold on the validation crops of a run.

    Args:
        run: from `load_run`. Without its prepared crops, its split or a validation split they are
            those of its model file, else the defaults, which the log says.

    Returns:
        Both, and the pixel size that all training recordings state, um, or None.
    """
    from fluxseg.inference.evaluate import run_crops, run_index

    try:
        crops, index = run_crops(run), run_index(run)
    except WorkdirError as error:
        point = _stored_point(run, None)
        logger.warning(
            "The threshold is %.3f, as there are no validation crops: %s", point.threshold, error
        )
        return point, None
    scale = training_pixel_size(index, crops["train"])
    if not crops["val"]:
        # A fine-tuning has no validation split and chooses by what it was tuned on.
        point = _stored_point(run, "train")
        logger.info("The threshold is %.3f, as there is no validation split", point.threshold)
        return point, scale
    histogram = pool_histograms(group_histograms(run.state, index, crops["val"]))
    return choose_operating_point(histogram), scale


def _stored_point(run: "TrainedRun", split: str | None) -> OperatingPoint:
    model = read_stored_model(run.workdir, run.checkpoint)
    if model is None or (model.temperature, model.threshold) == (1.0, 0.5):
        return OperatingPoint()
    return OperatingPoint(model.temperature, model.threshold, split)


def update_run_model(run: "TrainedRun", point: OperatingPoint) -> None:
    """Write the model file of a run again if its scores are now made at another operating point.

    Args:
        run: from `load_run`; without a model file of its checkpoint nothing happens.
        point: what its scores are made with.
    """
    model = read_stored_model(run.workdir, run.checkpoint)
    temperature, threshold = point.temperature, point.threshold
    if model and (model.temperature, model.threshold) != (temperature, threshold):
        model = dataclasses.replace(model, temperature=temperature, threshold=threshold)
        write_model(run.workdir / MODEL_NAME, model)
        logger.info("The model file has this temperature and threshold now")


def training_pixel_size(index: "CacheIndex", crops: list[tuple[str, int]]) -> float | None:
    """Return the pixel size that all recordings of these crops state, um, else None."""
    from fluxseg.data.cache import common_pixel_size

    keys = {key for key, _ in crops}
    return common_pixel_size(entry for entry in index.entries if entry.key in keys)


def write_run_model(
    workdir: Path,
    config: Config,
    state: "TrainState",
    scores: Mapping[str, Any],
    point: OperatingPoint,
    um_per_px: float | None = None,
) -> Path:
    """Write the model file of a finished run into its workdir.

    Args:
        workdir: folder of the run.
        config: its settings.
        state: state of its best checkpoint.
        scores: content of `scores.json`.
        point: temperature and threshold, chosen on validation.
        um_per_px: see `training_pixel_size`.

    Returns:
        Path of the file.
    """
    info = training_summary(workdir, config, scores["checkpoint"])
    model = create_predictor(
        state, config, point.threshold, info, um_per_px, temperature=point.temperature
    )
    write_model(workdir / MODEL_NAME, model)
    return workdir / MODEL_NAME


def training_summary(
    workdir: Path, config: Config, checkpoint: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Summarise how a run was trained, for the header of its model file.

    Args:
        workdir: folder of the run; of its records, those that are there are used.
        config: its settings.
        checkpoint: epoch, step, monitored figure and its value.

    Returns:
        Plain values: where the data came from (the last part of its path only), recordings,
        groups and crops of each split, scores, checkpoint, seed, versions.
    """
    data, scores, versions = (
        _read_record(workdir / name) for name in ("data.json", "scores.json", "versions.json")
    )
    source = config.data.source
    return {
        "checkpoint": dict(checkpoint or {}),
        "data": {
            # Only the name: the folders above it are nobody else's business.
            "source": source if source == "simulator" else Path(source).resolve().name,
            "recordings": data.get("n_used"),
            "split_by": config.data.split_by,
            "splits": data.get("splits", {}),
        },
        "scores": _scores(scores, checkpoint),
        "seed": config.train.seed,
        "versions": versions,
    }


def _scores(scores: Mapping[str, Any], checkpoint: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the scores of each split, if they are of this checkpoint."""
    if scores.get("checkpoint") != (dict(checkpoint) if checkpoint else None):
        return {}
    return {split: row["scores"] for split, row in scores.get("splits", {}).items()}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FluxsegError:
        return {}
