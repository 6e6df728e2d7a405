"""The model of a run: its best checkpoint, with a threshold chosen on its validation split."""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fluxseg.config import Config
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.files import read_json
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.predict import Predictor, create_predictor, neuron_probability
from fluxseg.model.thresholds import BINS, choose_threshold, probability_histogram

if TYPE_CHECKING:
    from fluxseg.data.cache import CacheIndex
    from fluxseg.inference.evaluate import TrainedRun
    from fluxseg.training.state import TrainState

MODEL_NAME = "model.safetensors"
"""Name of the model file in a workdir."""
BATCH = 8
"""Crops that are predicted at once."""

logger = logging.getLogger(__name__)


def load_model(path: str | Path) -> Predictor:
    """Load a model file, or the best checkpoint of a run.

    Args:
        path: file that `write_model` wrote, or workdir of a run, which may still be training.

    Returns:
        The model.

    Raises:
        FluxsegError: naming the path, if it is neither.
    """
    path = Path(path)
    if not path.is_dir():
        return read_model(path)
    from fluxseg.inference.evaluate import load_run

    run = load_run(path)
    if (path / MODEL_NAME).exists():
        model = read_model(path / MODEL_NAME)
        if model.info.get("checkpoint") == dict(run.checkpoint):
            return model
    return model_of_run(run)


def model_of_run(run: "TrainedRun") -> Predictor:
    """Create the model of a run from its checkpoint, its prepared crops and its split.

    Args:
        run: from `load_run`. Without its prepared crops or its split the threshold is 0.5, which
            the log says.

    Returns:
        The model.
    """
    from fluxseg.data.splits import manifest_from_json
    from fluxseg.inference.evaluate import run_index

    path = run.workdir / "split.json"
    threshold, crops = 0.5, []
    try:
        crops = manifest_from_json(read_json(path), str(path)).crops("val")
        if crops:
            threshold = validation_threshold(run.state, run_index(run), crops)
    except WorkdirError as error:
        logger.warning("The threshold is 0.5, as there are no validation crops: %s", error)
    if not crops:
        logger.info("The threshold is 0.5, as there is no validation split")
    info = training_summary(run.workdir, run.config, run.checkpoint)
    return create_predictor(run.state, run.config, threshold, info)


def write_run_model(
    workdir: Path,
    config: Config,
    state: "TrainState",
    index: "CacheIndex",
    crops: list[tuple[str, int]],
    scores: Mapping[str, Any],
) -> Path:
    """Write the model file of a finished run into its workdir.

    Args:
        workdir: folder of the run.
        config: its settings.
        state: state of its best checkpoint.
        index: its prepared crops.
        crops: those of the validation split, by which the threshold is chosen; may be empty.
        scores: content of `scores.json`.

    Returns:
        Path of the file.
    """
    threshold = validation_threshold(state, index, crops) if crops else 0.5
    logger.info("The threshold is %.3f, %s", threshold, "by validation" if crops else "untuned")
    info = training_summary(workdir, config, scores["checkpoint"])
    write_model(workdir / MODEL_NAME, create_predictor(state, config, threshold, info))
    return workdir / MODEL_NAME


def validation_threshold(
    state: "TrainState", index: "CacheIndex", crops: list[tuple[str, int]]
) -> float:
    """Choose the threshold with the best neuron IoU, pooled over crops.

    Args:
        state: its `eval_params` are used.
        index: the prepared crops.
        crops: (key, crop number) of those to choose by; each pixel counts once.

    Returns:
        See `choose_threshold`.
    """
    from fluxseg.data.pipeline import CropSource, iterate_evaluation

    total = np.zeros((2, BINS), np.int64)
    for batch in iterate_evaluation(CropSource(index, crops), BATCH):
        arrays = (batch["image"], batch["label"], batch["valid"])
        total += np.asarray(_histogram(state.apply_fn, state.eval_params, *arrays))
    return choose_threshold(total)


@functools.partial(jax.jit, static_argnums=0)
def _histogram(
    apply_fn: Any, params: Any, images: jax.Array, label: jax.Array, valid: jax.Array
) -> jax.Array:
    return probability_histogram(neuron_probability(apply_fn, params, images), label, valid)


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
