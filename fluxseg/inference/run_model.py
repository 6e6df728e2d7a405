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
    """Create the model of a run from its checkpoint, and its operating point (see there)."""
    point, scale = operating_point_of_run(run)
    info = training_summary(run.workdir, run.config, run.checkpoint)
    model = create_predictor(run.state, run.config, info=info, um_per_px=scale)
    return at_point(model, point)


def at_point(model: Predictor, point: OperatingPoint) -> Predictor:
    """Return the model with another temperature, threshold and least confidence."""
    return dataclasses.replace(
        model, temperature=point.temperature, threshold=point.threshold,
        min_confidence=point.min_confidence,
    )  # fmt: skip


def operating_point_of_run(run: "TrainedRun") -> tuple[OperatingPoint, float | None]:
    """Choose temperature and threshold on the validation crops of a run.

    The least confidence is that of its model file. Without its prepared crops, its split or a
    validation split all are those of its model file, else the defaults, which the log says. Returns
    both, and the pixel size that all training recordings state, um, or None.
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
    point, stored = choose_operating_point(histogram), _stored_point(run, "val")
    return dataclasses.replace(point, min_confidence=stored.min_confidence), scale


def _stored_point(run: "TrainedRun", split: str | None) -> OperatingPoint:
    model = read_stored_model(run.workdir, run.checkpoint)
    if model is None or (model.temperature, model.threshold) == (1.0, 0.5):
        return OperatingPoint()
    return OperatingPoint(model.temperature, model.threshold, split, model.min_confidence)


def update_run_model(run: "TrainedRun", point: OperatingPoint) -> None:
    """Write the model file of a run, if it has one, again where its operating point is another."""
    model = read_stored_model(run.workdir, run.checkpoint)
    if model and any(
        getattr(model, name) != getattr(point, name)
        for name in ("temperature", "threshold", "min_confidence")
    ):
        write_model(run.workdir / MODEL_NAME, at_point(model, point))
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
    """Write the model file of a finished run into its workdir, and return its path.

    `state` is that of the best checkpoint, `scores` the content of `scores.json`, and `um_per_px`
    from `training_pixel_size`.
    """
    info = training_summary(workdir, config, scores["checkpoint"])
    model = create_predictor(state, config, info=info, um_per_px=um_per_px)
    write_model(workdir / MODEL_NAME, at_point(model, point))
    return workdir / MODEL_NAME


def training_summary(
    workdir: Path, config: Config, checkpoint: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Summarise as plain values how a run was trained, for the header of its model file.

    Of the records in the workdir, those that are there are used; scores only of this checkpoint.
    """
    data, scores, versions = (
        _read_record(workdir / name) for name in ("data.json", "scores.json", "versions.json")
    )
    source = config.data.source
    same = scores.get("checkpoint") == (dict(checkpoint) if checkpoint else None)
    splits = scores.get("splits", {}) if same else {}
    return {
        "checkpoint": dict(checkpoint or {}),
        "data": {
            # Only the name: the folders above it are nobody else's business.
            "source": source if source == "simulator" else Path(source).resolve().name,
            "recordings": data.get("n_used"),
            "split_by": config.data.split_by,
            "splits": data.get("splits", {}),
        },
        "scores": {split: row["scores"] for split, row in splits.items()},
        "seed": config.train.seed,
        "versions": versions,
    }


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FluxsegError:
        return {}
