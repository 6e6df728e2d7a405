"""Predictions of the best, the median and the worst recording of a split, for people to look at."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.cache import CacheEntry, CacheIndex, read_crops
from fluxseg.data.tiles import join_grid
from fluxseg.formats.own import MARK
from fluxseg.inference.probability import neuron_probability
from fluxseg.io.files import atomic_path, write_json
from fluxseg.training.state import TrainState


def choose_examples(recordings: list[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Choose the best, the median and the worst recording by neuron IoU: (rank, row) pairs.

    Rows of `scores.json` without a defined neuron IoU are passed over.
    """
    scored = [row for row in recordings if row["scores"]["neuron_iou"] is not None]
    ordered = sorted(scored, key=lambda row: (-row["scores"]["neuron_iou"], row["key"]))
    # Of one or two recordings one is several of them.
    ranks = {len(ordered) - 1: "worst", len(ordered) // 2: "median", 0: "best"} if ordered else {}
    return [(ranks[place], ordered[place]) for place in sorted(ranks)]


def stitch_recording(
    state: TrainState, index: CacheIndex, entry: CacheEntry, temperature: float = 1.0
) -> dict[str, np.ndarray]:
    """Predict a whole field of view from its prepared crops, just as its pixels are scored.

    Returns image and probability `[H, W]` float32, label (0 and 1) and valid `[H, W]` uint8, of the
    shape and magnification of `entry`.
    """
    crops = [np.stack(part) for part in zip(*read_crops(index, entry), strict=True)]
    arrays = dict(zip(("image", "label", "valid"), crops, strict=True))
    images = arrays["image"][..., None]
    probability = neuron_probability(state.apply_fn, state.eval_params, images, temperature)
    arrays["probability"] = np.asarray(probability)
    return {name: join_grid(array, entry.shape) for name, array in arrays.items()}


def write_examples(
    state: TrainState,
    index: CacheIndex,
    scores: Mapping[str, Any],
    output: Path,
    temperature: float = 1.0,
) -> list[dict[str, Any]]:
    """Predict whole fields of view for the report, stitched from their crops.

    The folder `examples` in `output` gets one `.npz` each (image, label, probability, valid; see
    `stitch_recording`) for the last split of the scores (test), and `examples.json`, whose rows are
    returned.
    """
    folder = output / "examples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = {entry.key: entry for entry in index.entries}
    rows: list[dict[str, Any]] = []
    for split in list(scores["splits"])[-1:]:
        for rank, recording in choose_examples(scores["splits"][split]["recordings"]):
            entry = entries[recording["key"]]
            arrays: dict[str, Any] = {MARK: np.array(1)}  # So that it is never taken for an input.
            arrays |= stitch_recording(state, index, entry, temperature)
            filename = f"{len(rows):03d}.npz"
            with atomic_path(folder / filename) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
            row = {"id": entry.id, "key": entry.key, "split": split, "rank": rank}
            iou = recording["scores"]["neuron_iou"]
            rows.append({**row, "neuron_iou": iou, "file": filename})
    write_json(folder / "examples.json", rows)
    return rows
