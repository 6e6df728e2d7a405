"""Which recordings a model may review: by default none that it was trained on."""

import dataclasses
from pathlib import Path

from fluxseg.config import Config, DataConfig, config_from_dict
from fluxseg.data.recording import Source
from fluxseg.data.splits import SPLITS, manifest_from_json
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.pick import NO_PICK, Pick, pick_data
from fluxseg.formats.sources import open_source
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model
from fluxseg.io.files import read_json


@dataclasses.dataclass(frozen=True)
class ReviewPlan:
    """What is to be reviewed."""

    model: Predictor  # whose opinion it is
    source: Source  # where the recordings are
    config: Config  # how the source is opened again
    keys: tuple[str, ...]  # which of them, sorted
    remarks: tuple[str, ...]  # what the choice means for the honesty of the result


def plan_review(
    path: Path | None, data: str = "", everything: bool = False, pick: Pick = NO_PICK
) -> ReviewPlan:
    """Choose the recordings to review.

    Of a run those of its validation and test splits: on the others the model has learnt what the
    labels leave out. Of other data, a folder or "simulator", those whose group the run has not been
    trained on. `everything` adds those too.

    `path` is the workdir of a run, or a model file; None, with data: the model that comes with
    fluxseg. `pick` is by default that of the run. Raises `ConfigError` if nothing is left to
    review, or a model file comes without data; and `FluxsegError` as `load_model` does.
    """
    model = load_model(path) if path else load_model()
    is_run = path is not None and path.is_dir()
    trained: dict[str, str] = {}
    config = Config(data=DataConfig(source=data or "simulator"))
    if path and is_run:
        config = config_from_dict(read_json(path / "config.json"))
        manifest = manifest_from_json(read_json(path / "split.json"), str(path / "split.json"))
        trained = {key: str(manifest.items[key]["group"]) for key, _ in manifest.crops("train")}
        others = {key for split in SPLITS[1:] for key, _ in manifest.crops(split)}
    elif not data:
        raise ConfigError(f"{path} is a model file: name the recordings to review with --data")
    remarks = []
    if path and not is_run:
        remarks.append("It is not known whether the model was trained on these recordings.")
    if data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
    config = pick_data(config, pick)
    if data:
        source = open_source(config)
        keys = source.keys()
        groups = set(trained.values())
        seen = [key for key in keys if _group(source, key) in groups] if groups else []
    else:
        source, seen = open_source(config), sorted(trained)
        keys = sorted(set(trained) | others)
        shared = {str(manifest.items[key]["group"]) for key in others} & set(trained.values())
        if shared:
            remarks.append(
                "The split of this run is not by group: what is reviewed shows tissue that the "
                "model was trained on, in other recordings."
            )
    if seen and everything:
        remarks.append(
            f"{len(seen)} of {len(keys)} recordings show tissue that the model was trained on: "
            "there it has learnt what the labels leave out, and finds less than it could."
        )
    elif seen:
        keys = [key for key in keys if key not in set(seen)]
        remarks.append(
            f"{len(seen)} recordings that the model was trained on are left out, as it has learnt "
            "there what the labels leave out; all of them with --all."
        )
    if not keys:
        raise ConfigError(f"{data or path}: nothing to review: " + " ".join(remarks))
    return ReviewPlan(model, source, config, tuple(keys), tuple(remarks))


def _group(source: Source, key: str) -> str:
    try:
        return source.read(key).group
    except (RecordingError, OSError):
        # Reviewing it will say why.
        return ""
