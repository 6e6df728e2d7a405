"""Fine-tuning of a trained model on a few labelled fields, with scores before and after."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax

from fluxseg.adapt.fields import FEWEST_GROUPS, explain_groups
from fluxseg.adapt.verdict import judge
from fluxseg.config import AugmentConfig, Config, DataConfig, TrainConfig
from fluxseg.data.cache import CacheIndex
from fluxseg.data.recording import annotated_masks
from fluxseg.errors import ConfigError, WorkdirError
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.own import MARK
from fluxseg.formats.sources import open_source
from fluxseg.inference import field_scores
from fluxseg.inference.model_file import MODEL_NAME, TUNING_NAME, write_model
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import training_pixel_size, training_summary
from fluxseg.io.files import atomic_path, read_json, write_json
from fluxseg.io.progress import Progressed
from fluxseg.training.dataset import open_cache, prepare_dataset
from fluxseg.training.progress import Callbacks, TrainResult
from fluxseg.training.resume import open_run
from fluxseg.training.train import train

logger = logging.getLogger(__name__)

HEAVIER = AugmentConfig(gain=0.3, offset=0.15, gamma=0.3, noise=0.07, blur=1.0)
"""With a handful of fields the network would soon know each pixel of them."""
AVERAGED = 0.98  # decay of the averaged parameters: good at any length, with no schedule to plan
STEPS = (150, 400)
"""Least and most optimiser steps, unless they are given."""
STEPS_PER_FIELD = 45
LEAST_SHARE = 0.5
"""Share of the tuned parameters in the result, with few fields; the rest are those that the tuning
began from: so the network keeps what it knew of other fields (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models"). Measured by `experiments/studies/few_labels.py`."""
ALL_TUNED = 8  # fields from which on the tuned parameters are the result
PICTURES = "before_after.npz"  # file with pictures of held-out fields, before and after
PICTURED = 3  # fields of which there are such pictures


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Settings of a fine-tuning; the defaults suit 1 to 20 fields of 512 x 512 px and two cores."""

    encoder: Literal["free", "discounted", "frozen"] = "free"  # see `TrainConfig.encoder`
    steps: int = 0  # optimiser steps in all, about; 0: 45 for each field, see `STEPS`
    batch_size: int = 4  # crops of a step
    learning_rate: float = 5e-4  # peak, a fraction of that of training from scratch
    held_out: float = 0.25  # share of the groups that only score; 0 learns from all of them
    # "recording" holds out sessions of tissue that is learnt from, which leaks.
    split_by: Literal["group", "recording"] = "group"
    share: float = 0.0  # of the tuned parameters in the result; 0: by the number of fields
    seed: int = 0  # seed of split, order, augmentation and dropout
    pick: str = ""  # see `DataConfig.pick`

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be 0 or more, got {self.steps}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be 0 or more and below 1, got {self.held_out}")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must be 0 to 1, got {self.share}")


def create_config(model: Predictor, data: str, output: Path, settings: FewShot) -> Config:
    """Create the config of a fine-tuning, which is one epoch; see `finetune` for the arguments.

    Without `settings.steps` its length is that of `set_length`.
    """
    return Config(
        data=DataConfig(
            source=data,
            pick=settings.pick,
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
            epochs=1,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            schedule="constant",
            warmup_steps=min(20, settings.steps // 5) if settings.steps else 20,
            ema_decay=AVERAGED,
            encoder=settings.encoder,
            seed=settings.seed,
        ),
    )


def set_length(config: Config, fields: int) -> Config:
    """Give a fine-tuning that learns from so many fields its length, unless it has one."""
    if config.train.steps:
        return config
    steps = int(np.clip(STEPS_PER_FIELD * fields, *STEPS))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def tuned_share(fields: int) -> float:
    """Return the share of the tuned parameters where so many fields were learnt from."""
    return min(max(fields / ALL_TUNED, LEAST_SHARE), 1.0)


def field_units(index: CacheIndex, split_by: str) -> dict[str, str]:
    """Return key -> what must not be divided between learning and scoring, of every field."""
    return {e.key: e.group if split_by == "group" else e.key for e in index.entries}


def train_on(
    model: Predictor,
    config: Config,
    workdir: Path,
    callbacks: Callbacks | None = None,
    share: float = 0.0,
) -> tuple[TrainResult, Predictor]:
    """Fine-tune in a workdir by what `create_config` gave, or go on there.

    Returns what training returned, and the model: its parameters blended with the old ones (`share`
    of them the new ones; 0: see `tuned_share`), and all else as it was. The threshold stays, as the
    best one on fields held out hardly moves, and fields that a network was tuned on would choose
    one that suits them alone (see `experiments/studies/few_labels.py`).
    """
    callbacks = callbacks or Callbacks()
    with open_run(config, workdir, init=True) as checkpoints:
        dataset = prepare_dataset(config, workdir, callbacks.on_prepare)
        result = train(config, workdir, dataset, checkpoints, callbacks, model.params)
    scale = training_pixel_size(dataset.index, dataset.crops("train"))
    # A model that brings images to a size of its own says nothing about their pixels.
    scale = None if model.diameter_px else scale or model.um_per_px
    share = share or tuned_share(len({key for key, _ in result.dataset.crops("train")}))
    params = optax.incremental_update(result.state.eval_params, model.params, share)
    return result, dataclasses.replace(model, params=params, um_per_px=scale)


def finetune(
    model: Predictor,
    name: str,
    data: str,
    output: Path,
    settings: FewShot,
    callbacks: Callbacks | None = None,
) -> tuple[TrainResult, dict[str, Any]]:
    """Fine-tune a model on the labelled recordings of a folder, `data`; the same call resumes it.

    Some groups are held out (`settings.held_out`) and score the model before and after, each time
    as whole fields. There is no validation split: the length is fixed, and the last state is the
    result. The records call the model to start from `name`. The folder `output` gets what training
    writes, `model.safetensors` and `before_after.npz`; the split "test" of `scores.json` is that of
    the whole fields held out, and it has the further entry `finetune`.

    Returns what training returned, and the entry `finetune`: "from", "settings", "before", "after"
    (None if nothing is held out), "better" and "verdict" (see `judge`), "remarks", and "curve":
    whether there are enough groups for a learning curve. Raises `WorkdirError` if the folder holds
    another run, or one that began from another model; and `FluxsegError` as `train` does.
    """
    callbacks = callbacks or Callbacks()
    origin = describe_origin(model, name)
    claim_folder(output, origin)
    config, remarks, enough = plan_finetuning(model, data, output, settings, callbacks.on_prepare)
    result, tuned = train_on(model, config, output, callbacks, settings.share)
    held = sorted({key for key, _ in result.dataset.crops("test")})
    before, after = _compare(model, tuned, config, held, output / PICTURES)
    better, verdict = judge(before, after, name)
    entry = {
        "from": origin,
        "settings": dataclasses.asdict(settings),
        "before": field_scores.summarise_fields(before) if held else None,
        "after": field_scores.summarise_fields(after) if held else None,
        "better": better,
        "verdict": verdict,
        "remarks": remarks,
        "curve": enough,
    }
    splits = {"test": field_scores.split_of_fields(after, tuned.threshold)} if held else {}
    scores = {**result.scores, "splits": splits, "finetune": entry}
    write_json(output / "scores.json", scores)
    info = training_summary(output, config, scores["checkpoint"]) | {"finetuned": _short(entry)}
    write_model(output / MODEL_NAME, dataclasses.replace(tuned, info=info))
    return result._replace(scores=scores), entry


def _compare(
    model: Predictor, tuned: Predictor, config: Config, keys: Sequence[str], pictures: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score both models on whole fields, and keep pictures of the first ones."""
    source = open_source(config)
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    kept: dict[str, np.ndarray] = {MARK: np.array(1)}
    for number, key in enumerate(keys):
        recording = source.read(key)
        shown = {"image": model.normalize(recording.image)}
        for name, scored, part in zip(("before", "after"), (model, tuned), rows, strict=True):
            found = field_scores.find_in_field(scored, recording)
            part.append(
                field_scores.score_field(
                    recording, key, found.probability, found.rois, scored.threshold
                )
            )
            shown[name] = found.rois.labels
        if number < PICTURED:
            shown["label"] = merge_labels(annotated_masks(recording))
            kept |= {f"{name}_{number}": array for name, array in shown.items()}
    with atomic_path(pictures) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **kept)
    return rows


def plan_finetuning(
    model: Predictor, data: str, output: Path, settings: FewShot, progress: Progressed | None = None
) -> tuple[Config, list[str], bool]:
    """Prepare the crops, and choose what is held out.

    Returns the config, remarks on what the scores cannot say, and whether there are enough groups
    for a learning curve.
    """
    config = create_config(model, data, output, settings)
    index = open_cache(open_source(config), output / "cache", config.data, progress)
    units = field_units(index, settings.split_by)
    remarks = [text] if (text := explain_groups(list(units.values()))) else []
    if len(set(units.values())) == 1 and settings.held_out:
        whole = dataclasses.replace(config.data, train_fraction=1.0)
        config = dataclasses.replace(config, data=whole)
    elif not settings.held_out:
        remarks.append("No field was held out (held_out is 0): there are no scores.")
    if settings.split_by != "group":
        remarks.append(
            f"Held out by {settings.split_by}: the same tissue may be in both parts, so the "
            "scores are too good, and say nothing about other tissue."
        )
    for remark in remarks:
        logger.warning("%s", remark)
    config = set_length(config, round(len(index.entries) * config.data.train_fraction))
    return config, remarks, len(set(units.values())) >= FEWEST_GROUPS


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the single recordings, whose names are nobody else's business."""
    parts = {
        part: None if entry[part] is None else {k: entry[part][k] for k in ("scores", "n_groups")}
        for part in ("before", "after")
    }
    return {**entry, **parts}


def describe_origin(model: Predictor, name: str) -> dict[str, Any]:
    """Describe the model that a fine-tuning starts from, as plain values."""
    kept = {key: model.info[key] for key in ("checkpoint", "data", "scores") if key in model.info}
    return {"name": name, "parameters_sha256": model.digest, **kept}


def claim_folder(output: Path, origin: Mapping[str, Any]) -> None:
    """Note in `finetune.json` which model a folder's run begins from.

    Raises `WorkdirError` if it holds a run that began from another one, or from none.
    """
    path = output / TUNING_NAME
    if path.exists():
        if read_json(path).get("parameters_sha256") != origin["parameters_sha256"]:
            raise WorkdirError(
                f"{output}: holds a fine-tuning of another model; use another folder"
            )
    elif (output / "config.json").exists():
        raise WorkdirError(f"{output}: holds a run that is no fine-tuning; use another folder")
    write_json(path, dict(origin))
