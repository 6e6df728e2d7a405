"""The whole job, in order: from recordings to a scored network, its model file and a report.

Pure functions merge the masks of a recording (OR), normalise its image and cut both into crops
(a 512 x 512 px field into four quarters of 256 px): `prepare_dataset`, which also splits them by
group. A Grain loader feeds the crops into a Flax U-Net, whose training step is jit-compiled and
ready for pmap; it uses optax Adam and the weighted cross-entropy, and computes IoU and the
confusion matrix as jitted reductions on the device: `train`. What follows is the same whether the
network was just trained or is evaluated again: `score_network`.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config
from fluxseg.errors import WorkdirError
from fluxseg.model.score_table import score_table
from fluxseg.processes import gather_values, run_in_all, run_in_first
from fluxseg.training.dataset import prepare_dataset
from fluxseg.training.progress import Callbacks, TrainResult
from fluxseg.training.resume import open_run
from fluxseg.training.state import TrainState
from fluxseg.training.train import train

if TYPE_CHECKING:
    from fluxseg.data.cache import CacheIndex
    from fluxseg.data.recording import Source
    from fluxseg.inference.calibrate import OperatingPoint

__all__ = ["Callbacks", "evaluate", "score_network", "train_and_evaluate"]

logger = logging.getLogger(__name__)

Crops = Mapping[str, Sequence[tuple[str, int]]]
"""Split -> (key, crop number) of its crops."""


def train_and_evaluate(
    config: Config,
    workdir: str | Path,
    callbacks: Callbacks | None = None,
    *,
    profile: bool = False,
) -> TrainResult:
    """Run the whole job in a workdir, or go on with the one that was begun there.

    The same call on the same machine resumes an interrupted run and ends with the same bits. In a
    job of several processes (`jax.distributed`) each calls this with the same arguments and a
    workdir that all of them see; each trains on its rows of every batch, and the first one
    prepares, writes and scores.

    The workdir gets `config.json`, `versions.json`, `cache`, `split.json`, `data.json`,
    `metrics.jsonl`, `metrics.csv`, `tensorboard`, `checkpoints`, `scores.json`, `examples`,
    `model.safetensors`, `figures` and `report.html`.

    Args:
        config: all settings.
        workdir: folder of the run; it is created.
        callbacks: functions that are told how it goes.
        profile: trace some steps of the first epoch; the trace goes to the folder `profile`.

    Returns:
        The best state, the history, the scores, and where model file and report are.

    Raises:
        WorkdirError: if the workdir holds a run with other settings or other data, is in use by
            another one, or cannot be written.
        TrainingError: if the loss is not finite.
        InterruptedRunError: after SIGINT or SIGTERM, when everything is saved.
        FluxsegError: for unusable data or settings.
    """
    enable_compilation_cache()
    workdir, callbacks = Path(workdir), callbacks or Callbacks()
    with open_run(config, workdir) as checkpoints:
        # The parameters that the network begins with; None: random ones, or its checkpoint's.
        new = checkpoints.last.latest_step() is None
        init = run_in_all(lambda: _load_start(config), "reading the start") if new else None
        # Recordings -> crops: image, label, valid [N, T, T] uint8 on the disk, split by group.
        dataset = prepare_dataset(config, workdir, callbacks.on_prepare)
        # Batches of crops [B, T, T, 1] -> the state of the best epoch; scores of its pixels.
        trained = train(config, workdir, dataset, checkpoints, callbacks, init, profile=profile)
        # Scores of neurons, model file and report are written once, by the first process.
        scores = run_in_first(lambda: _finish(config, workdir, trained), "the report")
    scores = gather_values(scores, "the scores")[0]
    model, report = workdir / "model.safetensors", workdir / "report.html"
    return trained._replace(scores=scores, model=model, report=report)


def _load_start(config: Config) -> Any:
    # Imported only here: a run that is resumed needs none of it.
    from fluxseg.inference.start import load_start

    return load_start(config)


def _finish(config: Config, workdir: Path, trained: TrainResult) -> dict[str, Any]:
    # Imported only now, so that training begins sooner.
    from fluxseg.formats.sources import open_source
    from fluxseg.inference.run_model import training_pixel_size, write_run_model
    from fluxseg.report.html import write_report

    state, dataset = trained.state, trained.dataset
    crops = {split: dataset.crops(split) for split in ("train", *trained.scores["splits"])}
    scores, point = score_network(
        config, state, dataset.index, crops, trained.scores, open_source(config), workdir
    )
    scale = training_pixel_size(dataset.index, crops["train"])
    model = write_run_model(workdir, config, state, scores, point, scale)
    page = write_report(workdir)
    _log_scores(scores)
    logger.info("Model: %s", model)
    logger.info("Report: %s", page)
    return scores


def score_network(
    config: Config,
    state: TrainState,
    index: "CacheIndex",
    crops: Crops,
    scores: Mapping[str, Any],
    source: "Source",
    folder: Path,
    point: "OperatingPoint | None" = None,
) -> tuple[dict[str, Any], "OperatingPoint"]:
    """Add what a network's probabilities and neurons are worth to the scores of its pixels.

    Args:
        config: settings of the run.
        state: its `eval_params` are used.
        index: the prepared crops; the source has the recordings, whose single masks they lack.
        crops: those of all splits of the scores, and of "train" where they are there.
        scores: content of `scores.json`: the scores of pixels.
        source: the recordings.
        folder: gets `scores.json` and `examples`.
        point: temperature, threshold and least confidence; None: they are chosen here, on "val".
    """
    from fluxseg.inference.calibrate import calibrate
    from fluxseg.inference.examples import write_examples
    from fluxseg.inference.objects.run_scores import choose_cut, write_object_scores

    # log-odds [B, T, T] of the validation crops -> temperature and threshold; reliability.
    scores, chosen = calibrate(state, index, crops, scores, folder, point)
    if "external" in scores["splits"] or config.data.split_by != "crop":
        # Probability [H, W] of whole fields -> single neurons, against the true masks [N, H, W].
        # Cells that a border between two splits cuts in two would be counted wrongly.
        if point is None:
            chosen = choose_cut(state, index, scores, source, chosen)
        scores = write_object_scores(state, index, scores, source, folder, chosen)
    write_examples(state, index, scores, folder, chosen.temperature)
    return scores, chosen


def evaluate(
    workdir: Path,
    data: str = "",
    output: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Score the best checkpoint of a run again, on its own splits or on other recordings.

    Args:
        workdir: folder of the run.
        data: folder of annotated recordings that the run has not seen; empty: its own validation
            and test splits.
        output: folder for the scores and the report of other recordings; default:
            `evaluations/NAME` in the workdir.
        progress: called with (recordings prepared, recordings in all).

    Returns:
        Content of `scores.json`, and the path of the report.

    Raises:
        WorkdirError: if the folder holds no run, its crops are gone, or it holds a fine-tuning,
            whose own splits have been scored as whole fields.
        FluxsegError: if no recording is usable.
    """
    from fluxseg.formats.sources import open_source
    from fluxseg.inference import evaluate as steps
    from fluxseg.inference.model_file import TUNING_NAME
    from fluxseg.inference.run_model import operating_point_of_run, update_run_model
    from fluxseg.report.html import write_report

    if not data and (workdir / TUNING_NAME).exists():
        # Scores of crops would take the place of those before and after.
        told = "is a fine-tuning, and report.html has its scores before and after"
        raise WorkdirError(f"{workdir}: {told}; score it on other fields with --data FOLDER")
    run = steps.load_run(workdir)
    config, folder, crops = run.config, workdir, dict(steps.run_crops(run))
    point = None
    if data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
        folder = output or workdir / "evaluations" / (Path(data).resolve().name or "data")
        scores = steps.evaluate_data(run, data, folder, progress)
        index = steps.open_index(folder / "cache")
        crops = {"external": steps.index_crops(index)}
    else:
        scores, index = steps.evaluate_run(run), steps.run_index(run)
    if data or not crops["val"]:
        # The run's own validation split has chosen; the other data are only scored.
        point, _ = operating_point_of_run(run)
    scores, point = score_network(
        config, run.state, index, crops, scores, open_source(config), folder, point
    )
    if not data:
        update_run_model(run, point)
    page = write_report(folder)
    _log_scores(scores)
    return scores, page


def _log_scores(scores: Mapping[str, Any]) -> None:
    """Log the table of scores."""
    if scores["checkpoint"]:
        logger.info("Scores of the checkpoint of epoch %s:", scores["checkpoint"]["epoch"])
    # Plain characters, as not every terminal has others.
    for line in str(score_table(scores)).replace("–", "-").splitlines():
        logger.info("  %s", line)
