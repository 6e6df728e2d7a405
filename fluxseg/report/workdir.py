"""What the workdir of a run holds, read back for the report and checked field by field."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fluxseg.errors import WorkdirError
from fluxseg.inference.field_scores import DETAILS
from fluxseg.io.arrays import read_arrays
from fluxseg.io.files import naming, read_json
from fluxseg.io.names import is_plain_name
from fluxseg.io.schema import from_plain
from fluxseg.model.score_names import CALIBRATION_SCORES, OBJECT_SCORES, PIXEL_SCORES, Score
from fluxseg.report.schema import DataFile, ExampleRow, HistoryRow, ScoresFile

ADVICE = "run the main job or `fluxseg evaluate` to write it again"
MAX_BYTES = 2**31  # of pictures in memory; a small packed file can declare any number


Picture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class RunFiles(NamedTuple):
    """What a workdir says about its run; what it does not hold is None or empty."""

    workdir: Path  # the folder
    config: dict[str, dict[str, Any]]  # nested settings; empty for an evaluation on other data
    data: dict[str, Any] | None  # the data summary
    history: list[dict[str, Any]]  # one row for each epoch
    checkpoint: dict[str, Any]  # epoch, step, monitor and value of the chosen checkpoint
    point: dict[str, Any]  # temperature, threshold and the split that chose them
    splits: list[dict[str, Any]]  # the final scores, one entry for each split
    examples: list[dict[str, Any]]  # predictions of single recordings, with their `path`
    tuning: dict[str, Any] | None = None  # what a fine-tuning changed


def read_run(workdir: Path) -> RunFiles:
    """Read the files of a run, or of an evaluation (scores without a config and a history).

    Raises `WorkdirError`, naming the file that is missing or damaged.
    """
    path, examples = workdir / "scores.json", workdir / "examples" / "examples.json"
    trained = (workdir / "config.json").exists()
    if not trained and not path.exists():
        raise WorkdirError(f"{workdir}: holds no run: neither config.json nor scores.json is there")
    scores = _read(path, ScoresFile, {"splits": {}})
    return RunFiles(
        workdir,
        _read(workdir / "config.json", dict[str, dict[str, Any]], {}),
        _read(workdir / "data.json", DataFile | None, None),
        read_history(workdir / "metrics.jsonl") if trained else [],
        scores["checkpoint"] or {},
        scores["operating_point"] or {},
        [_complete_split(path, name, split) for name, split in scores["splits"].items()],
        [
            {**row, "key": row["key"] or row["id"], "path": examples.parent / row["file"]}
            for row in _read(examples, list[ExampleRow], [])
        ],
        scores["finetune"] and _summarize_tuning(scores["finetune"]),
    )


def _read(path: Path, kind: Any, otherwise: Any) -> Any:
    """Return plain values of a JSON file, checked and completed; without a file, of `otherwise`."""
    values = _finite(read_json(path)) if path.exists() else otherwise
    return msgspec.to_builtins(from_plain(values, kind, str(path), ADVICE))


def _finite(value: Any) -> Any:
    """Return plain values with None for each number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: one JSON table a line, each with `epoch` and `step`.

    Raises `WorkdirError`, naming the file and the line, if it is missing or damaged.
    """
    if not path.exists():
        raise WorkdirError(f"{path}: is missing: the run has ended no epoch; run its command again")
    try:
        with naming(path, "cannot be read"):
            lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise WorkdirError(f"{path}: is not a text file: {error}") from error
    history = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WorkdirError(f"{path}: line {number} is not valid JSON: {error}") from error
        where = f"{path}, line {number}"
        counts = from_plain(row, HistoryRow, where, ADVICE)
        scores = from_plain(_finite(row), dict[str, float | None], where, ADVICE)
        history.append({**scores, "epoch": counts.epoch, "step": counts.step})
    return history


def read_example(path: Path) -> Picture:
    """Read image, label, probability and valid of an example, each `[H, W]`.

    Raises `WorkdirError`, naming the file, if it is missing or damaged.
    """
    names = ("image", "label", "probability", "valid")
    advice = "run `fluxseg evaluate` to write it again"
    image, label, probability, valid = _read_fields(path, names, advice)
    return image, label, probability, valid.astype(bool)


def read_picture(path: Path, number: int) -> Picture:
    """Read image, label, before and after of a field that a tuning held out, each `[H, W]`.

    Raises `WorkdirError`, naming the file, if it is missing or damaged.
    """
    names = [f"{part}_{number}" for part in ("image", "label", "before", "after")]
    return _read_fields(path, names, "run `fluxseg finetune` again in a new folder")


def _read_fields(path: Path, names: Sequence[str], advice: str) -> Picture:
    try:
        arrays = read_arrays(path, names, MAX_BYTES)
    except Exception as error:  # a damaged archive raises whatever zipfile and zlib come upon
        text = f"cannot be read ({type(error).__name__}: {error}); {advice}"
        raise WorkdirError(f"{path}: {text}") from error
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 2 or not arrays[0].size:
        listed = ", ".join(f"{n} {list(a.shape)}" for n, a in zip(names, arrays, strict=True))
        raise WorkdirError(f"{path}: must hold arrays [H, W] of one size, got {listed}; {advice}")
    first, second, third, fourth = arrays
    return first, second, third, fourth


def best_epoch(run: RunFiles) -> int | None:
    """Find the epoch whose checkpoint was chosen, or would be by now; None if none can be."""
    if run.checkpoint:
        return run.checkpoint.get("epoch")
    monitor = run.config.get("train", {}).get("monitor", "")
    rows = [row for row in run.history if row.get(monitor) is not None]
    if not rows:
        return None
    choose = min if monitor == "val_loss" else max
    return choose(rows, key=lambda row: row[monitor])["epoch"]


def is_simulated(run: RunFiles) -> bool:
    """Tell whether the recordings come from the simulator, whose labels have no limits."""
    if run.data and run.data["source"]:
        return bool(run.data["source"].get("kind") == "simulator")
    return bool(run.config.get("data", {}).get("source") == "simulator")


def _complete_split(path: Path, name: str, split: dict[str, Any]) -> dict[str, Any]:
    if not is_plain_name(name):
        # It becomes part of a path, which must not lead out of its folder.
        raise WorkdirError(f"{path}: is damaged ({name!r:.200} is no name of a split)")
    for row in split["recordings"]:
        counts = np.array(row.pop("confusion"), np.int64)
        row["scores"] = _named(row["scores"], PIXEL_SCORES)
        row["truth"] = tuple(counts.sum(1).tolist())
        row["neuron_share"] = counts[1].sum() / counts.sum() if counts.sum() else None
    objects, calibration = split["objects"], split["calibration"]
    parts: list[tuple[dict[str, Any], Sequence[Score]]] = [(split, PIXEL_SCORES)]
    if objects:
        parts.append((objects, OBJECT_SCORES))
        objects |= {**objects["counts"], "distance_unit": objects["distance_unit"] or "px"}
        objects["recordings"] = {
            row["key"]: _named(row["scores"], OBJECT_SCORES) for row in objects["recordings"]
        }
    if calibration:
        parts += [(calibration[when], CALIBRATION_SCORES) for when in ("before", "after")]
    for part, scores in parts:
        part["scores"] = _named(part["scores"], scores)
        part["intervals"] = {
            score: pair if pair and None not in pair else None
            for score, pair in _named(part["intervals"], scores).items()
        }
    return {**split, "name": name, "confusion": np.array(split["confusion"], np.int64)}


def _named(values: Mapping[str, Any], scores: Sequence[Score]) -> dict[str, Any]:
    return {score.name: values.get(score.name) for score in scores}


def _summarize_tuning(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange for the page what a tuning changed."""
    parts = [entry["before"], entry["after"]]
    known = None not in parts
    pairs = zip(*(part["recordings"] for part in parts), strict=True) if known else ()
    return {
        "name": entry["from"]["name"],
        "verdict": entry["verdict"],
        "better": entry["better"] is not False,
        "remarks": entry["remarks"],
        "rows": [
            (title, *(part["scores"].get(name) for part in parts))
            for name, title in (DETAILS.items() if known else ())
        ],
        "fields": [
            (before["id"], *(row["scores"].get("object_f1") for row in (before, after)))
            for before, after in pairs
        ],
    }
