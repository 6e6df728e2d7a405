"""The scores of single neurons by the original programs, for comparison with fluxseg's own.

What: label images drawn with a fixed seed, scored by StarDist (`stardist.matching`), Cellpose
    (`cellpose.metrics.average_precision`) and Neurofinder (`neurofinder.centers`, `.shapes`).
    The images and figures are written as JSON; a test scores the same images with fluxseg.
Hardware: any; seconds. The programs belong into an environment of their own, as they want other
    versions than fluxseg; the networks that come with them are not needed.
Command: python3.11 -m venv ENV
    ENV/bin/pip install numba scipy tqdm scikit-image
    ENV/bin/pip install --no-deps stardist cellpose neurofinder regional
    ENV/bin/python experiments/studies/reference_scores.py tests/inference/reference_scores.json
"""

import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20260101
THRESHOLDS = [percent / 100 for percent in range(50, 100, 5)]
STRICT = 0.5 + 1e-6
"""Kirillov et al. want an IoU above 0.5, StarDist's own panoptic quality one of at least 0.5."""
DISTANCE = 5.0
PACKAGES = ("stardist", "cellpose", "neurofinder", "regional", "numpy", "scipy", "numba")


def draw_labels(rng: np.random.Generator, size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw true and predicted labels `[size, size]` uint8: some moved, missed, invented, split."""
    y, x = np.mgrid[:size, :size]
    true, found = np.zeros((2, size, size), np.uint8)
    number = 0
    for cell in range(1, cells + 1):
        row, column = rng.uniform(5, size - 5, 2)
        a, b = rng.uniform(4, 7, 2)
        true[((y - row) / a) ** 2 + ((x - column) / b) ** 2 < 1] = cell
        if rng.random() < 0.15:
            continue
        move, grow = rng.normal(0, 1.2, 2), rng.uniform(0.8, 1.2)
        distance = ((y - row - move[0]) / a) ** 2 + ((x - column - move[1]) / b) ** 2
        number += 1
        found[distance < grow] = number
        if rng.random() < 0.15:
            number += 1
            found[(distance < grow) & (x > column + move[1])] = number
    for _ in range(cells // 6):
        number += 1
        row, column = rng.uniform(5, size - 5, 2)
        found[(y - row) ** 2 + (x - column) ** 2 < 20] = number
    return renumber(true), renumber(found)


def renumber(labels: np.ndarray) -> np.ndarray:
    """Number labels from 1 without gaps, as StarDist wants them."""
    return np.unique(np.append(0, labels), return_inverse=True)[1][1:].reshape(labels.shape)


def draw_all() -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw all pairs of label images; the last ones have no object in one of them."""
    rng = np.random.default_rng(SEED)
    pairs = [draw_labels(rng, 64, cells) for cells in (4, 9, 14, 20, 26, 32)]
    empty = np.zeros((64, 64), pairs[0][0].dtype)
    return [*pairs, (pairs[0][0], empty), (empty, pairs[1][1])]


def load_alone(package: str, module: str, **stubs: dict[str, Any]) -> Any:
    """Load one module of a package without what surrounds it, such as torch.

    Stubs are content of modules that stand in for others; "_" in their name stands for a dot.
    """
    specification = importlib.util.find_spec(package)
    assert specification is not None
    assert specification.submodule_search_locations
    alone = types.ModuleType(package)
    alone.__path__ = list(specification.submodule_search_locations)
    sys.modules[package] = alone
    for name, content in stubs.items():
        stub = types.ModuleType(name.replace("_", "."))
        vars(stub).update(content)
        sys.modules[stub.__name__] = stub
    return importlib.import_module(f"{package}.{module}")


def fail(error: Exception) -> None:
    """Raise an error, as `csbdeep.utils._raise` does."""
    raise error


def load_neurofinder() -> tuple[Any, Any]:
    """Load `neurofinder` and `regional`; the name `numpy.NaN` that they use is gone in NumPy 2."""
    for name, value in (("NaN", np.nan), ("Inf", np.inf)):
        if not hasattr(np, name):
            setattr(np, name, value)
    return importlib.import_module("neurofinder"), importlib.import_module("regional")


def score_stardist(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Score with `matching` of each image and `matching_dataset` of all."""
    matching = load_alone("stardist", "matching", csbdeep={}, csbdeep_utils={"_raise": fail})
    fields = ("tp", "fp", "fn", "precision", "recall", "f1", "accuracy", "panoptic_quality")

    def plain(result: Any) -> dict[str, float]:
        return {name: float(getattr(result, name)) for name in fields}

    true, found = zip(*pairs, strict=True)
    return {
        "each": [[plain(matching.matching(*pair, thresh=t)) for t in THRESHOLDS] for pair in pairs],
        "all": [
            plain(matching.matching_dataset(true, found, thresh=t, show_progress=False))
            for t in THRESHOLDS
        ],
        "each_strict": [plain(matching.matching(*pair, thresh=STRICT)) for pair in pairs],
        "all_strict": plain(
            matching.matching_dataset(true, found, thresh=STRICT, show_progress=False)
        ),
    }


def score_cellpose(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Score with `average_precision`; its results are float32."""
    true, found = (list(part) for part in zip(*pairs, strict=True))
    metrics = load_alone("cellpose", "metrics", cellpose_utils={})
    precision, *counts = metrics.average_precision(true, found, THRESHOLDS)
    names = ("tp", "fp", "fn")
    return {"ap": precision.tolist()} | {
        name: count.astype(int).tolist() for name, count in zip(names, counts, strict=True)
    }


def score_neurofinder(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, float] | None]:
    """Score centres and shapes of each image; None where it cannot, without any object."""
    neurofinder, regional = load_neurofinder()
    rows: list[dict[str, float] | None] = []
    for pair in pairs:
        if not all(labels.any() for labels in pair):
            rows.append(None)
            continue
        regions = [
            regional.many([np.argwhere(labels == n).tolist() for n in range(1, labels.max() + 1)])
            for labels in pair
        ]
        recall, precision = neurofinder.centers(*regions, threshold=DISTANCE)
        inclusion, exclusion = neurofinder.shapes(*regions, threshold=DISTANCE)
        # The combined figure is that of its command line, `neurofinder evaluate`.
        both = recall + precision
        combined = 2 * recall * precision / both if both > 0 else 0.0
        values = (recall, precision, combined, inclusion, exclusion)
        names = ("recall", "precision", "combined", "inclusion", "exclusion")
        rows.append({n: round(float(v), 4) for n, v in zip(names, values, strict=True)})
    return rows


def main(path: Path) -> None:
    """Score and write the file."""
    pairs = draw_all()
    result = {
        "made_by": "experiments/studies/reference_scores.py",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": SEED,
        "thresholds": THRESHOLDS,
        "distance": DISTANCE,
        "stardist": score_stardist(pairs),
        "cellpose": score_cellpose(pairs),
        "neurofinder": score_neurofinder(pairs),
        # Run lengths along the rows: the figures must not hang on a generator of random numbers.
        "labels": [[encode(labels) for labels in pair] for pair in pairs],
        "size": 64,
    }
    path.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes, {result['versions']}")


def encode(labels: np.ndarray) -> list[list[int]]:
    """Encode labels as [label, length] of each run of equal pixels, along the rows."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.append(True, np.diff(flat) != 0))
    lengths = np.diff(np.append(starts, flat.size))
    return [[int(flat[start]), int(n)] for start, n in zip(starts, lengths, strict=True)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
