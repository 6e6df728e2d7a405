"""Fine-tuning of a trained model on a few labelled fields, with scores before and after."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from fluxseg.config import AugmentConfig, Config, DataConfig, TrainConfig
from fluxseg.data.cache import CacheIndex
from fluxseg.data.splits import create_manifest
from fluxseg.errors import ConfigError, WorkdirError
from fluxseg.formats.sources import open_source
from fluxseg.inference.field_scores import SHOWN, score_fields, summarise_fields
from fluxseg.inference.model_file import write_model
from fluxseg.inference.predict import Predictor, create_predictor
from fluxseg.inference.run_model import (
    MODEL_NAME,
    training_pixel_size,
    training_summary,
    validation_threshold,
)
from fluxseg.io.files import read_json, write_json
from fluxseg.training.dataset import open_cache, prepare_dataset
from fluxseg.training.finetune import FEWEST_GROUPS, explain_groups, few_shot_epochs
from fluxseg.training.results import Callbacks, TrainResult
from fluxseg.training.resume import open_run
from fluxseg.training.train import train

logger = logging.getLogger(__name__)

HEAVIER = AugmentConfig(gain=0.3, offset=0.15, gamma=0.3, noise=0.07, blur=1.0)
"""With a handful of fields the network would soon know each pixel of them."""


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Settings of a fine-tuning; the defaults suit 1 to 20 fields of 512 x 512 px and two cores.

    Attributes:
        encoder: see `TrainConfig.encoder`.
        steps: optimiser steps in all, about; whatever the number of fields.
        epochs: checkpoints on the way.
        batch_size: crops of a step.
        learning_rate: peak learning rate of Adam, a fraction of that of training from scratch.
        held_out: share of the groups that only score; 0 learns from all of them.
        split_by: "recording" holds out sessions of tissue that is learnt from, which leaks.
        seed: seed of split, order, augmentation and dropout.
    """

    encoder: Literal["free", "discounted", "frozen"] = "discounted"
    steps: int = 120
    epochs: int = 4
    batch_size: int = 8
    learning_rate: float = 5e-4
    held_out: float = 0.25
    split_by: Literal["group", "recording"] = "group"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.epochs < 1:
            raise ConfigError(f"steps and epochs must be 1 or more, got {self.steps, self.epochs}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be 0 or more and below 1, got {self.held_out}")


def create_config(model: Predictor, data: str, output: Path, settings: FewShot) -> Config:
    """Create the config of a fine-tuning; its length follows once the crops are known.

    Args:
        model: gives architecture, percentiles of the normalisation, the side of the crops and the
            size of cells that recordings are brought to.
        data: folder of labelled recordings, or "simulator".
        output: folder of the run; the prepared crops lie in it.
        settings: the rest.
    """
    return Config(
        data=DataConfig(
            source=data,
            cache=str(output / "cache"),
            tile=model.tile,
            low_percentile=model.low_percentile,
            high_percentile=model.high_percentile,
            diameter_px=model.diameter_px or 0.0,
            split_by=settings.split_by,
            train_fraction=1 - settings.held_out,
            val_fraction=0.0,
            split_seed=settings.seed,
        ),
        augment=HEAVIER,
        model=model.config,
        train=TrainConfig(
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=min(20, settings.steps // 5),
            encoder=settings.encoder,
            seed=settings.seed,
        ),
    )


def with_length(config: Config, crops: int, steps: int, epochs: int) -> Config:
    """Return the config with `epochs` and `repeats` that give about `steps` steps."""
    epochs, repeats = few_shot_epochs(crops, config.train.batch_size, steps, epochs)
    train = dataclasses.replace(config.train, epochs=epochs, repeats=repeats)
    return dataclasses.replace(config, train=train)


def field_units(index: CacheIndex, split_by: str) -> dict[str, str]:
    """Return key -> what must not be divided between learning and scoring, of every field."""
    return {e.key: e.group if split_by == "group" else e.key for e in index.entries}


def train_on(
    model: Predictor, config: Config, workdir: Path, callbacks: Callbacks | None = None
) -> tuple[TrainResult, Predictor]:
    """Fine-tune in a workdir, or go on there.

    Args:
        model: to start from.
        config: from `create_config` and `with_length`.
        workdir: folder of the run.
        callbacks: see `fluxseg.training.train.train`.

    Returns:
        What training returned, and the model, which averages over turns if the first one did. Its
        threshold is chosen on the fields that it was tuned on, as no others may be spared.
    """
    callbacks = callbacks or Callbacks()
    with open_run(config, workdir, init=True) as checkpoints:
        dataset = prepare_dataset(config, workdir, callbacks.on_prepare)
        result = train(config, workdir, dataset, checkpoints, callbacks, model.params)
    crops = result.dataset.crops("train")
    threshold = validation_threshold(result.state, result.dataset.index, crops)
    scale = training_pixel_size(result.dataset.index, crops) or model.um_per_px
    tuned = create_predictor(result.state, config, threshold, um_per_px=scale)
    return result, dataclasses.replace(tuned, tta=model.tta)


def finetune(
    model: Predictor,
    name: str,
    data: str,
    output: Path,
    settings: FewShot,
    callbacks: Callbacks | None = None,
) -> tuple[TrainResult, dict[str, Any]]:
    """Fine-tune a model on the labelled recordings of a folder; the same call resumes it.

    Some groups are held out (`settings.held_out`) and score the model before and after, each
    time with its own threshold. There is no validation split: the length is fixed, and the
    last state is the result.

    Args:
        model: to start from.
        name: how the records call it.
        data: folder of labelled recordings, or "simulator".
        output: folder of the run: gets all that training writes, and
            `model.safetensors`; `scores.json` has the further entry `finetune`.
        settings: how.
        callbacks: see `fluxseg.training.train.train`.

    Returns:
        What training returned, and the entry `finetune`: "from", "settings", "before", "after"
        (None if nothing is held out), "thresholds", "remarks", and "curve": whether there are
        enough groups for a learning curve.

    Raises:
        WorkdirError: if the folder holds another run, or one that began from another model.
        FluxsegError: see `fluxseg.training.train.train`.
    """
    callbacks = callbacks or Callbacks()
    origin = describe_origin(model, name)
    claim_folder(output, origin)
    config, remarks, enough = plan_finetuning(model, data, output, settings, callbacks.on_prepare)
    result, tuned = train_on(model, config, output, callbacks)
    held = sorted({key for key, _ in result.dataset.crops("test")})
    source = open_source(config)
    before, after = (
        summarise_fields(score_fields(scored, source, held)) if held else None
        for scored in (model, tuned)
    )
    entry = {
        "from": origin,
        "settings": dataclasses.asdict(settings),
        "before": before,
        "after": after,
        "thresholds": {"before": model.threshold, "after": tuned.threshold},
        "remarks": remarks,
        "curve": enough,
    }
    scores = {**result.scores, "finetune": entry}
    write_json(output / "scores.json", scores)
    checkpoint = scores["checkpoint"]
    info = training_summary(output, config, checkpoint) | {"finetuned": _short(entry)}
    licence = model.licence
    write_model(output / MODEL_NAME, dataclasses.replace(tuned, info=info, licence=licence))
    return result._replace(scores=scores), entry


def plan_finetuning(
    model: Predictor,
    data: str,
    output: Path,
    settings: FewShot,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Config, list[str], bool]:
    """Prepare the crops and choose split and length.

    Returns:
        The config, remarks on what the scores cannot say, and whether there are enough groups
        for a learning curve.
    """
    config = create_config(model, data, output, settings)
    index = open_cache(open_source(config), output / "cache", config.data, progress)
    units = field_units(index, settings.split_by)
    remarks = [text] if (text := explain_groups(list(units.values()))) else []
    if len(set(units.values())) == 1 and settings.held_out:
        config = _with_data(config, train_fraction=1.0)
    elif not settings.held_out:
        remarks.append("No field was held out (held_out is 0): there are no scores.")
    if settings.split_by != "group":
        remarks.append(
            f"Held out by {settings.split_by}: the same tissue may be in both parts, so the "
            "scores are too good, and say nothing about other tissue."
        )
    for remark in remarks:
        logger.warning("%s", remark)
    data_ = config.data
    items = [entry.split_item for entry in index.entries]
    manifest = create_manifest(
        items, data_.split_by, data_.train_fraction, data_.val_fraction, data_.split_seed
    )
    crops = len(manifest.crops("train"))
    enough = len(set(units.values())) >= FEWEST_GROUPS
    return with_length(config, crops, settings.steps, settings.epochs), remarks, enough


def _with_data(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the single recordings, whose names are nobody else's business."""
    parts = {
        part: None if entry[part] is None else {k: entry[part][k] for k in ("scores", "n_groups")}
        for part in ("before", "after")
    }
    return {**entry, **parts}


def describe_origin(model: Predictor, name: str) -> dict[str, Any]:
    """Describe the model that a fine-tuning starts from, as plain values."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf, np.float32).tobytes())
    kept = {key: model.info[key] for key in ("checkpoint", "data", "scores") if key in model.info}
    return {"name": name, "parameters_sha256": digest.hexdigest(), **kept}


def claim_folder(output: Path, origin: Mapping[str, Any]) -> None:
    """Note in `finetune.json` which model a folder's run begins from.

    Raises:
        WorkdirError: if it holds a run that began from another one, or from none.
    """
    path = output / "finetune.json"
    if path.exists():
        if read_json(path).get("parameters_sha256") != origin["parameters_sha256"]:
            raise WorkdirError(
                f"{output}: holds a fine-tuning of another model; use another folder"
            )
    elif (output / "config.json").exists():
        raise WorkdirError(f"{output}: holds a run that is no fine-tuning; use another folder")
    write_json(path, dict(origin))


def format_scores(entry: Mapping[str, Any]) -> list[str]:
    """Format the scores before and after as lines; none if nothing was held out.

    Args:
        entry: from `finetune`.
    """
    before, after = entry["before"], entry["after"]
    if before is None or after is None:
        return ["No scores, as nothing was held out."]
    lines = [
        f"Scores on {len(after['recordings'])} field(s) of {after['n_groups']} group(s) held out, "
        "before -> after:"
    ]
    for name, title in SHOWN.items():
        values = [part["scores"][name] for part in (before, after)]
        shown = ["undefined" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"  {title:<11} {shown[0]} -> {shown[1]}")
    return lines
