"""What the workdir of a run holds, read back for the report and checked field by field."""

import contextlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluxseg.errors import WorkdirError
from fluxseg.io.files import read_json
from fluxseg.io.names import is_plain_name
from fluxseg.model.score_names import CALIBRATION_SCORES, OBJECT_SCORES, PIXEL_SCORES
from fluxseg.report.tuning import check_tuning

ARRAYS = ("image", "label", "probability", "valid")
"""What the file of an example holds."""
MAX_BYTES = 2**31
"""Bytes that an example may take in memory; a small packed file can declare any number."""


class RunFiles(NamedTuple):
    """What a workdir says about its run; what it does not hold is None or empty.

    Attributes:
        workdir: the folder.
        config: nested settings; empty for an evaluation on other data.
        data: the data summary.
        history: one row for each epoch.
        checkpoint: epoch, step, monitor and value of the chosen checkpoint.
        point: temperature, threshold and the split that chose them.
        splits: the final scores, one entry for each split.
        examples: rows about the predictions of single recordings, with the `path` of their file.
        tuning: what a fine-tuning changed, see `check_tuning`.
    """

    workdir: Path
    config: dict[str, dict[str, Any]]
    data: dict[str, Any] | None
    history: list[dict[str, Any]]
    checkpoint: dict[str, Any]
    point: dict[str, Any]
    splits: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    tuning: dict[str, Any] | None = None


def read_run(workdir: Path) -> RunFiles:
    """Read the files of a run, or of an evaluation (scores without a config and a history).

    Raises:
        WorkdirError: naming the file that is missing or damaged.
    """
    config, data, scores = (
        read_json(path) if (path := workdir / f"{name}.json").exists() else None
        for name in ("config", "data", "scores")
    )
    if config is None and scores is None:
        raise WorkdirError(f"{workdir}: holds no run: neither config.json nor scores.json is there")
    with _well_formed(workdir / "config.json"):
        settings = {} if config is None else config
        settings = {section: dict(fields) for section, fields in settings.items()}
    with _well_formed(workdir / "data.json"):
        data = None if data is None else _check_data(data)
    with _well_formed(workdir / "scores.json"):
        scores = {"splits": {}} if scores is None else scores
        checkpoint = dict(scores.get("checkpoint") or {})
        if checkpoint:
            checkpoint = {name: checkpoint[name] for name in ("epoch", "step", "monitor", "value")}
            checkpoint["value"] = _finite(checkpoint["value"])
        point = _check_point(scores.get("operating_point"))
        splits = [_check_split(*item) for item in scores["splits"].items()]
        tuning = check_tuning(scores.get("finetune"))
    history = [] if config is None else read_history(workdir / "metrics.jsonl")
    path = workdir / "examples" / "examples.json"
    with _well_formed(path):
        examples = [
            {name: row[name] for name in ("id", "split", "rank")}
            | {"key": str(row.get("key", row["id"]))}
            | {"neuron_iou": _finite(row["neuron_iou"]), "path": path.parent / _plain(row["file"])}
            for row in (read_json(path) if path.exists() else [])
        ]
    return RunFiles(workdir, settings, data, history, checkpoint, point, splits, examples, tuning)


@contextlib.contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WorkdirError(
            f"{path}: is damaged, or not of this version ({type(error).__name__}: {error}); "
            "run the main job or `fluxseg evaluate` to write it again"
        ) from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: one JSON table a line, each with an `epoch`.

    Raises:
        WorkdirError: naming the file and the line, if it is missing or damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise WorkdirError(f"{path}: is not a text file: {error}") from error
    history = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WorkdirError(f"{path}: line {number} is not valid JSON: {error}") from error
        with _well_formed(path):
            history.append({name: _finite(value) for name, value in row.items()})
            history[-1] |= {name: int(row[name]) for name in ("epoch", "step")}
    return history


def read_example(path: Path) -> list[np.ndarray]:
    """Read the arrays of an example: image, label, probability and valid, each `[H, W]`.

    Raises:
        WorkdirError: naming the file, if it is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"it would take {size} bytes, the limit is {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            arrays = [np.asarray(file[name]) for name in ARRAYS]
    except Exception as error:  # a damaged archive raises whatever zipfile and zlib come upon
        raise WorkdirError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); "
            "run `fluxseg evaluate` to write it again"
        ) from error
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2 or not arrays[0].size:
        listed = ", ".join(f"{n} {list(a.shape)}" for n, a in zip(ARRAYS, arrays, strict=True))
        raise WorkdirError(f"{path}: must hold arrays [H, W] of one size, got {listed}")
    return [*arrays[:3], arrays[3].astype(bool)]


def best_epoch(run: RunFiles) -> int | None:
    """Find the epoch whose checkpoint was chosen, or would be by now; None if none can be."""
    if run.checkpoint:
        return run.checkpoint.get("epoch")
    monitor = run.config.get("train", {}).get("monitor", "")
    rows = [row for row in run.history if row.get(monitor) is not None]
    if not rows:
        return None
    choose = min if monitor == "val_loss" else max
    epoch: int = choose(rows, key=lambda row: row[monitor])["epoch"]
    return epoch


def is_simulated(run: RunFiles) -> bool:
    """Tell whether the recordings come from the simulator, whose labels have no limits."""
    if run.data and run.data["source"]:
        return bool(run.data["source"].get("kind") == "simulator")
    return bool(run.config.get("data", {}).get("source") == "simulator")


def _check_data(data: Mapping[str, Any]) -> dict[str, Any]:
    counts = ("recordings", "groups", "crops")
    return {
        "source": dict(data["source"]),
        "n_files": int(data["n_files"]),
        "n_used": int(data["n_used"]),
        "left_out": [(str(row["key"]), str(row["reason"])) for row in data["left_out"]],
        "remarks": [(str(row["key"]), str(row["remark"])) for row in data.get("remarks", [])],
        "split_by": str(data["split_by"]),
        "leaks": bool(data["leaks"]),
        "moved": [str(name) for name in data.get("moved", [])],
        "splits": {
            str(name): {key: int(split[key]) for key in counts}
            | {"neuron_share": _finite(split["neuron_share"])}
            for name, split in data["splits"].items()
        },
        "straddling": [
            {name: str(row[name]) for name in ("first", "second")}
            | {"similarity": float(row["similarity"]), "splits": [str(s) for s in row["splits"]]}
            for row in data.get("straddling", [])
        ],
    }


def _check_split(name: str, split: Mapping[str, Any]) -> dict[str, Any]:
    recordings = []
    for row in split["recordings"]:
        counts = np.array(row["confusion"], np.int64).reshape(2, 2)
        recordings.append(
            {key: str(row[key]) for key in ("id", "key", "group")}
            | {"scores": _check_scores(row["scores"])}
            | {"truth": tuple(counts.sum(1).tolist())}
            | {"neuron_share": counts[1].sum() / counts.sum() if counts.sum() else None}
        )
    return {
        "name": _plain(name),
        "loss": _finite(split["loss"]),
        "confusion": np.array(split["confusion"], np.int64).reshape(2, 2),
        "scores": _check_scores(split["scores"]),
        "intervals": {
            score: _interval(split["intervals"].get(score)) for score, _, _ in PIXEL_SCORES
        },
        "confidence": float(split["confidence"]),
        "n_groups": int(split["n_groups"]),
        "n_recordings": int(split["n_recordings"]),
        "recordings": recordings,
        "objects": _check_objects(split.get("objects")),
        "calibration": _check_calibration(split.get("calibration")),
    }


def _check_point(point: Mapping[str, Any] | None) -> dict[str, Any]:
    if point is None:
        return {}
    chosen = point["chosen_on"]
    return {name: float(point[name]) for name in ("temperature", "threshold")} | {
        "chosen_on": None if chosen is None else str(chosen)
    }


def _check_calibration(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    names = [name for name, _, _ in CALIBRATION_SCORES]
    return {"confidence": float(calibration["confidence"])} | {
        when: {
            "scores": {name: _finite(calibration[when]["scores"].get(name)) for name in names},
            "intervals": {
                name: _interval(calibration[when]["intervals"].get(name)) for name in names
            },
            "curve": [
                {"pixels": int(row["pixels"])}
                | {name: _finite(row[name]) for name in ("low", "high", "confidence", "share")}
                for row in calibration[when]["curve"]
            ],
        }
        for when in ("before", "after")
    }


def _check_objects(objects: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if objects is None:
        return None
    names = [name for name, _, _ in OBJECT_SCORES]
    return {
        "scores": {name: _finite(objects["scores"].get(name)) for name in names},
        "intervals": {name: _interval(objects["intervals"].get(name)) for name in names},
        "n_true": int(objects["counts"]["n_true"]),
        "n_predicted": int(objects["counts"]["n_predicted"]),
        "threshold": float(objects.get("threshold", 0.5)),
        "chosen_on": str(objects.get("chosen_on") or ""),
        "distance_unit": str(objects.get("distance_unit") or "px"),
        "recordings": {
            str(row["key"]): {name: _finite(row["scores"].get(name)) for name in names}
            for row in objects.get("recordings", [])
        },
    }


def _check_scores(scores: Mapping[str, Any]) -> dict[str, float | None]:
    return {score: _finite(scores.get(score)) for score, _, _ in PIXEL_SCORES}


def _plain(name: str) -> str:
    # It becomes part of a path, which must not lead out of its folder.
    if not is_plain_name(name):
        raise ValueError(f"{name!r} is not a plain name")
    return name


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _interval(value: Any) -> tuple[float, float] | None:
    low, high = (None, None) if value is None else (_finite(value[0]), _finite(value[1]))
    return None if low is None or high is None else (low, high)
