"""Models scored on real fields with human labels, source by source: the yardstick.

What: any number of models over a folder whose subfolders are sources (laboratories), each with the
    settings that `fluxseg predict` uses by default. Sources are averaged, never pooled; the mean is
    given again with each source left out. No network that ships learns from such fields: they
    choose between networks, and set thresholds and cuts.
    Columns: F1, precision and recall at IoU 0.5 (Hungarian); F1 at the best cut of the confidence;
    average precision of the ranking by it; recall of the labels that can be seen in the image
    (`fluxseg.simulation.visibility`, at least 0.5) and of the others; median area of the matched
    ROIs over that of their labels; macro and neuron IoU; estimated over true diameter.
    `main` is the mean over sources without `columbia_03` and the means of `janelia_00`, where
    labels of silent cells make low recall right; `all` is that over all.
Output: `scores.json`, `index.html` with tables and overlays (label green, found red, both yellow),
    and the networks' probabilities, so that a second run takes seconds.
Hardware: 2 CPU cores, about a minute for a model.
Command: python -m experiments.pretrained.real_fields --data FOLDER --output runs/real
    --model first=FILE today=FILE ... [--fields 2] [--views 4] [--zooms 1 0.5] [--magnify 2]
    [--one-field]
"""

import argparse
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.pretrained.ranking import compare_objects, score_ranking
from fluxseg import pretrained
from fluxseg.data.recording import Recording, outline_masks
from fluxseg.data.resample import median_diameter, resample_image, zoomed_shape
from fluxseg.data.transforms import normalize_image
from fluxseg.formats.sources import FolderSource
from fluxseg.inference import probability, scale
from fluxseg.inference.objects.levels import UNSURE
from fluxseg.inference.objects.rois import Rois, choose_rois, find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model
from fluxseg.io.files import write_json
from fluxseg.model.metrics import scores_from_confusion
from fluxseg.simulation.grids import patch_index
from fluxseg.simulation.visibility import measure_visibility

VISIBLE = 0.5
"""Least visibility of a label that can be seen."""
MEANS = "_mean"
"""End of the keys of averages over a whole recording."""
ASIDE = ("columbia_03" + MEANS, "janelia_00" + MEANS)
"""Rows that `main` leaves out."""
COLUMNS = (
    "f1", "precision", "recall", "best_f1", "average_precision", "recall_seen", "recall_unseen",
    "area_ratio", "macro_iou", "neuron_iou", "diameter_ratio",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledField:
    """A real field.

    Attributes:
        source: name of the laboratory's folder.
        key: name of the field in it.
        recording: image and masks.
        visibility: `[N]` of the labels, see `label_visibility`.
        more: other images `[H, W]` of the same field.
    """

    source: str
    key: str
    recording: Recording
    visibility: np.ndarray
    more: tuple[np.ndarray, ...] = ()

    @property
    def row(self) -> str:
        """Name of the row of the table: the source, its averages apart."""
        return self.source + (MEANS if self.key.endswith(MEANS) else "")


def read_fields(folder: Path) -> list[LabelledField]:
    """Read the fields of all sources, `folder/SOURCE/FIELD`."""
    fields = []
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = FolderSource(str(source))
        for key in files.keys():  # noqa: SIM118
            recording = files.read(key)
            if recording.masks is not None:
                seen = label_visibility(recording.image, recording.masks)
                fields.append(LabelledField(source.name, Path(key).stem, recording, seen))
    return fields


def join_fields(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """Join the images of one field, `0200_max` and `0200_mean`; those with one image are left out.

    The maximum comes first: it tells the size of the cells.
    """
    joined: dict[tuple[str, str], LabelledField] = {}
    for field in fields:
        place = (field.source, field.key.split("_")[0])
        first = joined.setdefault(place, field)
        if first is not field:
            more = (*first.more, field.recording.image)
            joined[place] = dataclasses.replace(first, more=more)
    return [field for field in joined.values() if field.more]


def label_visibility(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Measure how well labelled cells can be seen, as the simulator does with its own.

    Args:
        image: `[H, W]`.
        masks: `[N, H, W]` bool.

    Returns:
        `[N]` float32.
    """
    centres = np.array([np.argwhere(mask).mean(0) for mask in masks])
    radius = (median_diameter(masks) or 2.0) / 2
    reach = int(np.ceil(3 * radius))
    side = 2 * reach + 1
    corner = np.rint(centres).astype(int) - reach
    index = patch_index((image.shape[0], image.shape[1]), corner, side)
    framed = np.pad(masks, ((0, 0), (side, side), (side, side)))
    inside = np.stack([one.take(at) for one, at in zip(framed, index, strict=True)])
    outline = np.where(inside, np.float32(0.8), np.float32(1.5))
    light, bodies = inside.astype(np.float32), np.asarray(masks.any(0), np.float32)
    return measure_visibility(image.astype(np.float32), index, light, outline, bodies, radius)[0]


def cache_name(place: str, tta: bool, magnify: float = 1.0) -> str:
    """Return what the predictions of a model file, as it is used now, are stored under."""
    path = pretrained.PATH if place == pretrained.NAME else Path(place)
    zooms = "_".join(map(str, scale.ZOOMS))
    views = probability.VIEWS if tta else 1
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}-{views}-{zooms}-{magnify}"


def predict_field(
    model: Predictor, digest: str, field: LabelledField, cache: Path, magnify: float = 1.0
) -> tuple[np.ndarray, float | None]:
    """Return the probability `[H, W]` and the diameter, px, at default settings, from the cache.

    The model sees the image magnified by `magnify`; what it finds is brought back.
    """
    path = cache / digest / field.source / f"{field.key}{'+' * len(field.more)}.npz"
    if not path.exists():
        height, width = field.recording.image.shape
        images = [
            resample_image(one.astype(np.float32), zoomed_shape((height, width), magnify))
            for one in (field.recording.image, *field.more)
        ]
        diameter = model.find_diameter(images[0])
        probability = model.predict(images, diameter=diameter)
        probability = resample_image(probability, (height, width))
        diameter = diameter and diameter / magnify
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{field.key}.tmp.npz")
        np.savez(temporary, probability=probability, diameter=diameter or np.nan)
        temporary.replace(path)
    with np.load(path) as content:
        diameter = float(content["diameter"])
        return content["probability"], diameter if np.isfinite(diameter) else None


def score_field(
    model: Predictor, field: LabelledField, probability: np.ndarray, diameter: float | None
) -> dict[str, float]:
    """Score a model on a field, see `COLUMNS`; undefined scores are NaN."""
    masks = field.recording.masks
    assert masks is not None
    every = find_rois(
        probability, threshold=model.threshold, diameter=diameter,
        min_confidence=min(UNSURE, model.min_confidence),
    )  # fmt: skip
    agreement = compare_objects(masks, every.labels)
    ranking = score_ranking(agreement.matched, every.confidence, len(masks))
    rois = choose_rois(every, every.confidence >= model.min_confidence)
    agreement = compare_objects(masks, rois.labels)
    seen = field.visibility >= VISIBLE
    truth, found = masks.any(0), rois.labels > 0
    pixels = scores_from_confusion(
        np.bincount((2 * truth + found).ravel(), minlength=4).reshape(2, 2)
    )
    hits = int(agreement.matched.sum())
    return {
        "f1": 2 * hits / (len(masks) + len(rois)),
        "precision": hits / len(rois) if len(rois) else np.nan,
        "recall": hits / len(masks),
        "best_f1": ranking.best_f1,
        "average_precision": ranking.average_precision,
        "recall_seen": float(agreement.found[seen].mean()) if seen.any() else np.nan,
        "recall_unseen": float(agreement.found[~seen].mean()) if (~seen).any() else np.nan,
        "area_ratio": agreement.area_ratio,
        "macro_iou": pixels["macro_iou"],
        "neuron_iou": pixels["neuron_iou"],
        "diameter_ratio": (diameter or np.nan) / (median_diameter(masks) or np.nan),
        "visible": float(seen.mean()),
        "labels": len(masks),
        "cells": len(rois),
    }


def average(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average each column, leaving out what is undefined."""
    rows = list(scores)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        name: float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan
        for name, values in columns.items()
    }


def summarise(
    rows: Sequence[tuple[LabelledField, dict[str, float]]],
) -> dict[str, dict[str, float]]:
    """Average the fields of each row of the table, and then the sources.

    Returns:
        By row: the scores; `main` and `all` as the module's docstring says, and `main without
        SOURCE`.
    """
    names = sorted({field.row for field, _ in rows})
    table = {name: average(s for field, s in rows if field.row == name) for name in names}

    def by_source(keep: Sequence[str]) -> dict[str, dict[str, float]]:
        sources = sorted({field.source for field, _ in rows if field.row in keep})
        return {
            source: average(s for field, s in rows if field.source == source and field.row in keep)
            for source in sources
        }

    main = by_source([name for name in names if name not in ASIDE])
    result = {**table, "main": average(main.values()), "all": average(by_source(names).values())}
    for source in main if len(main) > 1 else ():
        result[f"main without {source}"] = average(
            values for other, values in main.items() if other != source
        )
    return result


def format_table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Format a summary as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, scores in summary.items():
        lines.append(f"| {name} | " + " | ".join(f"{scores[c]:.3f}" for c in COLUMNS) + " |")
    return "\n".join(lines)


def draw_overlay(field: LabelledField, rois: Rois) -> np.ndarray:
    """Draw labels green, found cells red and both yellow over the image, twice as large.

    Returns:
        `[2H, 2W, 3]` uint8; intensities as their square root, so that dim cells are seen.
    """
    masks = field.recording.masks
    assert masks is not None
    shown = np.sqrt(np.clip(normalize_image(field.recording.image), 0, 1))
    picture = np.repeat((shown * 255).astype(np.uint8)[..., None], 3, -1).repeat(2, 0).repeat(2, 1)
    label = outline_masks(masks.repeat(2, 1).repeat(2, 2))
    found = outline_masks((rois.labels == np.arange(1, len(rois) + 1)[:, None, None])
                          .repeat(2, 1).repeat(2, 2))  # fmt: skip
    picture[label | found] = 0
    picture[label, 1] = 255
    picture[found, 0] = 255
    return picture


def write_page(output: Path, tables: Mapping[str, str], pictures: Sequence[Path]) -> None:
    """Write a page with the tables and the overlays."""
    parts = ["<!doctype html><meta charset='utf-8'><title>Real fields</title><h1>Real fields</h1>"]
    parts += ["<p>Label green, found red, both yellow.</p>"]
    for name, table in tables.items():
        parts.append(f"<h2>{html.escape(name)}</h2><pre>{html.escape(table)}</pre>")
    for path in pictures:
        name = html.escape(path.relative_to(output).as_posix())
        parts.append(f"<h3>{name}</h3><img src='{name}' alt='{name}' loading='lazy'>")
    (output / "index.html").write_text("\n".join(parts), "utf-8")


def main() -> None:
    """Score the models; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["shipped=pretrained"])
    parser.add_argument(
        "--fields", type=int, default=0, help="overlays of this many of each source"
    )
    parser.add_argument("--views", type=int, help="flips averaged over; default the model's own")
    parser.add_argument("--zooms", type=float, nargs="+", default=scale.ZOOMS, help="looked at")
    parser.add_argument("--magnify", type=float, default=1.0, help="the images, before all else")
    parser.add_argument("--one-field", action="store_true", help="all images of a field together")
    arguments = parser.parse_args()
    probability.VIEWS = arguments.views or probability.VIEWS
    scale.ZOOMS = tuple(arguments.zooms)
    fields = read_fields(arguments.data)
    fields = join_fields(fields) if arguments.one_field else fields
    tables: dict[str, str] = {}
    scores: dict[str, Any] = {}
    pictures: list[Path] = []
    for text in arguments.model:
        name, _, place = text.rpartition("=")
        model = load_model(place)
        if arguments.views:
            model = dataclasses.replace(model, tta=arguments.views > 1)
        digest = cache_name(place, model.tta, arguments.magnify)
        rows, drawn = [], dict.fromkeys((field.row for field in fields), 0)
        for field in fields:
            found = predict_field(
                model, digest, field, arguments.output / "cache", arguments.magnify
            )
            rows.append((field, score_field(model, field, *found)))
            if drawn[field.row] < arguments.fields:
                drawn[field.row] += 1
                picture = arguments.output / (name or place) / f"{field.source}_{field.key}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                rois = find_rois(
                    found[0], threshold=model.threshold, diameter=found[1],
                    min_confidence=model.min_confidence,
                )  # fmt: skip
                Image.fromarray(draw_overlay(field, rois)).save(picture)
                pictures.append(picture)
        summary = summarise(rows)
        tables[name or place] = format_table(summary)
        scores[name or place] = {
            "summary": summary,
            "fields": {f"{field.source}/{field.key}": values for field, values in rows},
        }
        print(f"{name or place}\n{tables[name or place]}", flush=True)
    write_json(arguments.output / "scores.json", scores)
    write_page(arguments.output, tables, pictures)


if __name__ == "__main__":
    main()
