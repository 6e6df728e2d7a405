"""Scoring a set of crops: every crop once, sums fetched late, recordings stitched together."""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fluxseg.data.cache import CacheIndex
from fluxseg.data.pipeline import CropSource, iterate_evaluation
from fluxseg.io.files import read_json, write_json
from fluxseg.model.metrics import Totals, bootstrap_intervals, plain_scores, scores_from_confusion
from fluxseg.processes import gather_values, is_first_process, run_in_first
from fluxseg.training.dataset import Dataset
from fluxseg.training.sharding import put_batch
from fluxseg.training.state import TrainState

logger = logging.getLogger(__name__)

REPORTED = ("accuracy", "macro_iou", "neuron_iou")  # of each epoch and split
CONFIDENCE = 0.95  # probability that an interval is to cover
IN_FLIGHT = 8  # batches whose results may still be on the device


@dataclasses.dataclass(frozen=True)
class SplitScores:
    """Scores of a set of recordings."""

    totals: Totals  # loss and confusion matrix over all pixels
    # Key -> confusion matrix `[2, 2]` int64 of the whole field of view (or of those of its crops
    # that belong to the split).
    recordings: Mapping[str, np.ndarray]


def score_crops(
    eval_step: Callable[..., Any],
    state: TrainState,
    index: CacheIndex,
    crops: Sequence[tuple[str, int]],
    mesh: Mesh,
    batch_size: int,
    *,
    threads: int = -1,
    stop: Callable[[], bool] = lambda: False,
) -> SplitScores | None:
    """Score crops, (key, crop number), with the state's evaluation parameters, each exactly once.

    `eval_step` is from `make_eval_step` of the same mesh, and the state lies on it. The mesh is of
    the devices of all processes, which then call this together, or of this process alone, which
    then scores the crops by itself. `batch_size`, crops per global batch, is a multiple of the
    number of devices. `stop` is asked before each batch; if it says True, scoring is abandoned:
    None.
    """
    totals = Totals()
    recordings: dict[str, np.ndarray] = {}
    pending: deque[tuple[int, Any]] = deque()

    def fetch() -> None:
        nonlocal totals
        first, (metrics, each) = pending.popleft()
        metrics, each = jax.device_get((metrics, each))
        totals = totals.merge(
            Totals.from_device(metrics.loss_sum, metrics.weight_sum, metrics.confusion)
        )
        for (key, _), confusion in zip(crops[first : first + batch_size], each, strict=False):
            recordings[key] = recordings.get(key, 0) + confusion.astype(np.int64)

    alone = all(device.process_index == jax.process_index() for device in mesh.devices.flat)
    process = (0, 1) if alone else (jax.process_index(), jax.process_count())
    source = CropSource(index, list(crops))
    batches = iterate_evaluation(source, batch_size, threads=threads, process=process)
    for number, batch in enumerate(batches):
        if stop():
            return None
        pending.append((number * batch_size, eval_step(state, put_batch(batch, mesh))))
        if len(pending) > IN_FLIGHT:
            fetch()
    while pending:
        fetch()
    return SplitScores(totals, recordings)


def epoch_figures(split: str, totals: Totals) -> dict[str, float | None]:
    """Return what the row of an epoch holds for a split: `val_loss`, `val_neuron_iou` and so on."""
    scores = totals.scores()
    figures = {"loss": totals.mean_loss, **{name: scores[name] for name in REPORTED}}
    return {f"{split}_{name}": value for name, value in plain_scores(figures).items()}


def score_best(
    workdir: Path,
    dataset: Dataset,
    checkpoint: Mapping[str, Any] | None,
    score: Callable[[str], SplitScores | None],
) -> dict[str, Any] | None:
    """Score the validation and test splits with the best state, once, and write `scores.json`.

    `checkpoint` are its epoch, step, monitored figure and value; scores of it that were written
    before are used again. `score` scores a split with that state. Returns the content of the file;
    None if the run was asked to stop meanwhile.
    """
    path = workdir / "scores.json"
    # What the first process sees decides for all.
    written = is_first_process() and path.exists()
    known: Any = gather_values(read_json(path) if written else None, "reading scores.json")[0]
    if known and known.get("checkpoint") == checkpoint:
        logger.info("This run is finished; train.epochs can be raised to train on")
        return dict(known)
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        if dataset.crops(split):
            result = score(split)
            if result is None:
                return None
            splits[split] = split_scores_to_json(result, dataset.ids())
    scores = {"checkpoint": checkpoint, "splits": splits}
    run_in_first(lambda: write_json(path, scores), "writing scores.json")
    return scores


def split_scores_to_json(scores: SplitScores, ids: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return the scores of a split as plain values, with bootstrap intervals over groups.

    `ids` are key -> (id, group) of each recording. Returns loss, confusion, scores, intervals,
    counts, and one row for each recording; undefined scores are None.
    """
    keys = sorted(scores.recordings)
    groups = [ids[key][1] for key in keys]
    intervals: dict[str, Any] = {}
    if keys:
        confusions = np.stack([scores.recordings[key] for key in keys])
        rng = np.random.default_rng(0)
        intervals = bootstrap_intervals(confusions, groups, rng, confidence=CONFIDENCE)
    rows = [
        {
            "id": ids[key][0],
            "key": key,
            "group": ids[key][1],
            "confusion": scores.recordings[key].tolist(),
            "scores": plain_scores(scores_from_confusion(scores.recordings[key])),
        }
        for key in keys
    ]
    return {
        **plain_scores({"loss": scores.totals.mean_loss}),
        "confusion": scores.totals.confusion.tolist(),
        "scores": plain_scores(scores.totals.scores()),
        "intervals": {
            k: None if v is None else [float(x) for x in v] for k, v in intervals.items()
        },
        "confidence": CONFIDENCE,
        "n_groups": len(set(groups)),
        "n_recordings": len(keys),
        "recordings": rows,
    }
