"""Scores of a trained run: on its own splits again, or on other recordings."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import CLASSES, Config, config_from_dict
from fluxseg.data.cache import CacheIndex, read_index
from fluxseg.data.duplicates import near_duplicates
from fluxseg.data.fingerprint import decode_fingerprint
from fluxseg.data.splits import SPLITS, manifest_from_json
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.formats.sources import open_source
from fluxseg.inference.model_file import TUNING_NAME, read_stored_model
from fluxseg.io.files import read_json, write_json
from fluxseg.io.progress import Progressed
from fluxseg.training.checkpoints import open_checkpoints, restore_checkpoint
from fluxseg.training.dataset import open_cache
from fluxseg.training.evaluation import score_crops, split_scores_to_json
from fluxseg.training.sharding import make_eval_step, make_mesh, replicate
from fluxseg.training.state import TrainState, create_train_state

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The best state of a run, ready to be applied."""

    workdir: Path  # folder of the run
    config: Config  # its settings
    state: TrainState  # state of the best checkpoint, on `mesh`
    mesh: Mesh  # the devices of this process
    checkpoint: Mapping[str, Any]  # epoch, step, monitored figure and its value


def load_run(workdir: str | Path) -> TrainedRun:
    """Load the best checkpoint of a run.

    Raises `WorkdirError` if the folder holds no run, or no checkpoint yet.
    """
    enable_compilation_cache()
    workdir = Path(workdir)
    path = workdir / "config.json"
    if not path.exists():
        raise WorkdirError(f"{workdir}: holds no run (config.json is missing)")
    config = config_from_dict(read_json(path))
    checkpoints = open_checkpoints(workdir)
    try:
        if checkpoints.best.latest_step() is None:
            raise WorkdirError(f"{workdir}: the run has no checkpoint yet; train at least an epoch")
        mesh = make_mesh(jax.local_devices())
        # Only the structure matters here: every array is replaced by the checkpoint's.
        state = replicate(create_train_state(config, np.ones(len(CLASSES)), 1), mesh)
        state, progress = restore_checkpoint(checkpoints.best, state)
    finally:
        checkpoints.close()
    best = progress["best"] or {}
    # A tuned network is blended with the one that it began from; its model file holds that.
    if (workdir / TUNING_NAME).exists() and (model := read_stored_model(workdir, best)):
        state = state.replace(ema_params=replicate(model.params, mesh))
    return TrainedRun(workdir, config, state, mesh, best)


def run_index(run: TrainedRun) -> CacheIndex:
    """Open the prepared crops that a run was trained on; `WorkdirError` if they are gone."""
    cache, own = run.config.data.cache, run.workdir / "cache"
    # The setting may be relative to a folder that only the training was started in.
    return open_index(own if own.exists() or not cache else Path(cache))


def open_index(cache: Path) -> CacheIndex:
    """Open prepared crops; `WorkdirError` if they are gone."""
    index = read_index(cache)
    if index is None:
        raise WorkdirError(f"{cache}: the prepared crops are gone; run the main job again")
    return index


def run_crops(run: TrainedRun) -> dict[str, list[tuple[str, int]]]:
    """Return split -> (key, crop number) of the crops of a run; `WorkdirError` if it is gone."""
    path = run.workdir / "split.json"
    manifest = manifest_from_json(read_json(path), str(path))
    return {split: manifest.crops(split) for split in SPLITS}


def index_crops(index: CacheIndex) -> list[tuple[str, int]]:
    """Return (key, crop number) of all prepared crops."""
    return [(e.key, number) for e in index.entries for number in range(len(e.valid_pixels))]


def _score(run: TrainedRun, index: CacheIndex, crops: list[tuple[str, int]]) -> dict[str, Any]:
    # Any batch size gives the same scores; here it only has to suit the devices at hand.
    size = -(-run.config.train.batch_size // run.mesh.size) * run.mesh.size
    scores = score_crops(
        make_eval_step(run.mesh), run.state, index, crops, run.mesh, size,
        threads=run.config.data.threads,
    )  # fmt: skip
    assert scores is not None  # noqa: S101  # Nothing can stop it.
    ids = {entry.key: (entry.id, entry.group) for entry in index.entries}
    return split_scores_to_json(scores, ids)


def evaluate_run(run: TrainedRun) -> dict[str, Any]:
    """Score the validation and test splits of a run with its best checkpoint: `scores.json`, anew.

    Raises `WorkdirError` if the split or the prepared crops are gone.
    """
    index = run_index(run)
    splits = {
        split: _score(run, index, crops)
        for split, crops in run_crops(run).items()
        if crops and split != "train"
    }
    scores = {"checkpoint": dict(run.checkpoint), "splits": splits}
    write_json(run.workdir / "scores.json", scores)
    return scores


def evaluate_data(
    run: TrainedRun, data: str, output: Path, progress: Progressed | None = None
) -> dict[str, Any]:
    """Score all annotated recordings of a folder, or "simulator", that the run has not seen.

    Recordings that show a field of view that the run was trained on are named in the log and in
    `data.json`: their scores are too good. `output` gets it, `scores.json` and the prepared crops.
    Returns the same as `evaluate_run`, with the one split "external". Raises `FluxsegError` if no
    recording is usable.
    """
    config = dataclasses.replace(run.config.data, source=data)
    source = open_source(dataclasses.replace(run.config, data=config))
    index = open_cache(source, output / "cache", config, progress)
    crops = index_crops(index)
    if not crops:
        raise FluxsegError(f"{data}: holds no annotated recording")
    splits = {"external": _score(run, index, crops)}
    scores = {"checkpoint": dict(run.checkpoint), "splits": splits}
    _write_data_summary(run, index, output)
    write_json(output / "scores.json", scores)
    return scores


def _write_data_summary(run: TrainedRun, index: CacheIndex, output: Path) -> None:
    seen = _seen_in_training(run, index)
    for row in seen[:10]:
        text = "%s shows a field of view that the run was trained on (%s, similarity %.2f)"
        logger.warning(text, row["second"], row["first"], row["similarity"])
    neuron = sum(sum(entry.neuron_pixels) for entry in index.entries)
    valid = sum(sum(entry.valid_pixels) for entry in index.entries)
    split = {
        "recordings": len(index.entries),
        "groups": len({entry.group for entry in index.entries}),
        "crops": len(index_crops(index)),
        "neuron_share": neuron / valid if valid else None,
    }
    summary = {
        "source": dict(index.source),
        "n_files": len(index.stamps),
        "n_used": len(index.entries),
        "left_out": [{"key": key, "reason": reason} for key, reason in index.left_out],
        "remarks": [{"key": e.key, "remark": r} for e in index.entries for r in e.remarks],
        "split_by": "none",
        "leaks": False,
        "splits": {"external": split},
        "straddling": seen,
    }
    write_json(output / "data.json", summary)


def _seen_in_training(run: TrainedRun, index: CacheIndex) -> list[dict[str, Any]]:
    trained = {key for key, _ in run_crops(run)["train"]}
    entries = [entry for entry in run_index(run).entries if entry.key in trained]
    compared = [*entries, *index.entries]
    pairs = near_duplicates([decode_fingerprint(entry.fingerprint) for entry in compared])
    return [
        {
            "first": compared[pair.first].key,
            "second": compared[pair.second].key,
            "similarity": pair.similarity,
            "splits": ["train", "external"],
        }
        for pair in pairs
        if pair.first < len(entries) <= pair.second
    ]
