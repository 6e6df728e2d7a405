"""Choose how the shipped model is used, score it on held-out simulated fields, write it down.

What: threshold, temperature and the depth at which cells are taken apart are chosen on one half of
    the held-out simulated fields; the figures are those of the other half, with cells of 9 to 22
    px; and of fields with cells of 5 to 45 px, whose size has to be estimated. Doubtful cells count
    neither as found nor as missed. Then the model file and its card are written into the workdir,
    to be copied to `fluxseg/pretrained`. With a folder of
    images, overlays of what the model finds in them are drawn, for the eye alone.
Hardware: 2 CPU cores, about ten minutes.
Command: python -m experiments.pretrained.scores --workdir runs/pretrained
    [--look "images/*.png" ... --overlays FOLDER]
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.pretrained.train import OUTLINED, RULES, load_trained, training_ranges
from fluxseg.compilation import enable_compilation_cache
from fluxseg.data.resample import choose_zoom, disc_diameter
from fluxseg.data.transforms import normalize_image
from fluxseg.inference.model_file import write_model
from fluxseg.inference.objects.counts import ObjectCounts, count_objects
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model
from fluxseg.inference.scale import FEW
from fluxseg.io.files import write_json
from fluxseg.model.metrics import scores_from_confusion
from fluxseg.simulation.labels import create_labels
from fluxseg.simulation.ranges import Range, Ranges
from fluxseg.simulation.source import SimulatedFields

HELD_OUT_SEED = 1001
EQUAL = 0.002
THRESHOLDS = tuple(round(0.1 + 0.05 * i, 2) for i in range(9))


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A simulated field and its true labels.

    Attributes:
        image: `[H, W]`.
        instances: `[H, W]` int32, 0 or the number of a cell.
        ignore: `[H, W]` bool, doubtful cells.
        diameter_px: median diameter of the cells' outlines.
        mode: how the movie was collapsed.
    """

    image: np.ndarray
    instances: np.ndarray
    ignore: np.ndarray
    diameter_px: float
    mode: str


def simulate_held_out(ranges: Sequence[Ranges], count: int, seed: int) -> Iterator[HeldOut]:
    """Simulate `count` fields of 512 x 512, from each of `ranges` in turn."""
    for number in range(count):
        chosen = ranges[number % len(ranges)]
        source = SimulatedFields(seed, tile=512, field=512, ranges=chosen, rules=RULES)
        field, rng = source.simulate(number)
        labels = create_labels(field, source.rules, rng)
        areas = np.bincount(labels.instances.ravel())[1:]
        values = field.metadata
        # Of outlines, as found ones are; a few of them say less than what was drawn.
        drawn = 2 * OUTLINED * values["radius"] / values["um_per_px"]
        diameter = drawn if len(areas) < FEW else float(np.median(disc_diameter(areas)))
        yield HeldOut(field.image, labels.instances, labels.ignore, diameter, values["mode"])


def count_found(field: HeldOut, labels: np.ndarray) -> ObjectCounts:
    """Compare the neurons that were found with the true ones.

    Args:
        field: the field.
        labels: `[H, W]` int, 0 or the number of a neuron; those that lie on doubtful cells for
            the most part are left out.
    """
    area = np.bincount(labels.ravel())
    doubtful = np.bincount(labels[field.ignore], minlength=len(area))
    keep = doubtful <= area / 2
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return count_objects(field.instances, number[labels])


def pixel_confusion(field: HeldOut, mask: np.ndarray) -> np.ndarray:
    """Count pixels by truth and prediction, `[2, 2]`, doubtful cells left out."""
    both = 2 * (field.instances > 0) + mask
    return np.bincount(both[~field.ignore], minlength=4).reshape(2, 2)


def score_settings(
    fields: Sequence[HeldOut],
    predicted: Sequence[tuple[np.ndarray, float]],
    threshold: float,
    **settings: Any,
) -> dict[str, float]:
    """Score fields whose probability and cell diameter were predicted, with settings of ROIs."""
    counts, each, confusion = ObjectCounts(), [], np.zeros((2, 2), np.int64)
    for field, (probability, diameter) in zip(fields, predicted, strict=True):
        rois = find_rois(probability, threshold=threshold, diameter=diameter, **settings)
        one = count_found(field, rois.labels)
        counts = counts.merge(one)
        each.append(one.scores()["object_f1"])
        confusion += pixel_confusion(field, probability >= threshold)
    scores, pixels = counts.scores(), scores_from_confusion(confusion)
    return {
        "f1": scores["object_f1"],
        "precision": scores["object_precision"],
        "recall": scores["object_recall"],
        "f1_mean": float(np.nanmean(each)),
        "macro_iou": pixels["macro_iou"],
        "neuron_iou": pixels["neuron_iou"],
    }


def predict_all(
    model: Predictor, fields: Sequence[HeldOut], *, known: bool = False, tta: bool = True
) -> list[tuple[np.ndarray, float]]:
    """Predict fields; the diameter is estimated, or the true one."""
    found = []
    for field in fields:
        diameter = field.diameter_px if known else model.find_diameter(field.image)
        assert diameter is not None
        found.append((model.predict(field.image, tta=tta, diameter=diameter), diameter))
    return found


def scale_errors(model: Predictor, count: int) -> list[dict[str, Any]]:
    """Estimate the diameter of cells in fields of many magnifications."""
    ranges = Ranges(diameter_px=Range(5.0, 45.0, log=True))
    rows = []
    for field in simulate_held_out([ranges], count, HELD_OUT_SEED + 1):
        found = model.find_diameter(field.image)
        assert found is not None
        assert model.diameter_px is not None
        rows.append(
            {
                "true_px": round(field.diameter_px, 1),
                "estimated_px": round(found, 1),
                "cells": int(field.instances.max()),
                "zoom": round(choose_zoom(found, model.diameter_px), 2),
            }
        )
    return rows


def draw_found(
    model: Predictor, images: Mapping[str, np.ndarray], path: Path, side: float = 2.5
) -> None:
    """Draw images by their titles, and below each the neurons that the model finds in it.

    Args:
        model: the model.
        images: title -> `[H, W]`.
        path: file to write.
        side: of a panel, inches.
    """
    from matplotlib.figure import Figure

    from fluxseg import plot
    from fluxseg.report.plots import save_png

    figure = Figure((side * len(images), 2 * side), layout="constrained")
    panels = figure.subplots(2, len(images), squeeze=False)
    for (title, image), (above, below) in zip(images.items(), panels.T, strict=True):
        above.imshow(np.clip(normalize_image(image), 0, 1), cmap="gray")
        above.set_title(title)
        plot.rois(image, model.segment(image), below)
        for axes in (above, below):
            axes.axis("off")
    save_png(figure, path)


def draw_overlays(model: Predictor, patterns: Sequence[str], folder: Path) -> None:
    """Draw what the model finds in images that files hold, one PNG each."""
    from fluxseg.inference.inputs import plan_jobs, read_input

    folder.mkdir(parents=True, exist_ok=True)
    for job in plan_jobs(tuple(patterns))[0]:
        image, _ = read_input(job.path)
        title = f"{job.name}, cells of {model.find_diameter(image):.1f} px"
        draw_found(model, {title: image}, folder / f"{job.name}.png", 8)


def draw_examples(model: Predictor, path: Path) -> None:
    """Draw what the model finds in held-out simulated fields."""
    fields = list(simulate_held_out(training_ranges(), 8, HELD_OUT_SEED + 2))
    images = {
        f"field {number}: {fields[number].mode} over time": fields[number].image
        for number in (0, 3, 7)
    }
    draw_found(model, images, path)


def choose_settings(
    model: Predictor, fields: Sequence[HeldOut], predicted: Sequence[tuple[np.ndarray, float]]
) -> tuple[float, list[dict[str, Any]]]:
    """Try thresholds; return the least of the good ones, and all figures.

    Good ones have a mean of the F1 of single neurons and of the macro IoU within `EQUAL` of the
    best: the curve is flat, and in real images more cells are missed than invented.
    """
    rows = [
        {"threshold": threshold, **score_settings(fields, predicted, threshold)}
        for threshold in THRESHOLDS
    ]
    means = {row["threshold"]: (row["f1"] + row["macro_iou"]) / 2 for row in rows}
    best = max(means.values())
    return min(threshold for threshold, mean in means.items() if mean >= best - EQUAL), rows


CARD = Path(__file__).with_name("card.md")
"""Model card with places for the figures."""


def write_card(path: Path, model: Predictor, result: dict[str, Any], fields: int) -> None:
    """Write the model card."""
    info = model.info
    rows = {
        "all": result["scores"],
        **{f"{mode} over time": row for mode, row in result["by_mode"].items()},
        "all, without averaging over turns": result["without_tta"],
        "all, with the true diameter given": result["known_diameter"],
    }
    names = ("f1", "precision", "recall", "macro_iou", "neuron_iou")
    table = [
        f"| {title} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |"
        for title, row in rows.items()
    ]
    good = sum(
        abs(np.log(row["estimated_px"] / row["true_px"])) < np.log(1.25) for row in result["scales"]
    )
    text = CARD.read_text(encoding="utf-8").format(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        table="\n".join(table),
        threshold=model.threshold,
        diameter=model.diameter_px,
        fields=fields,
        within=good,
        scales=len(result["scales"]),
        train="python -m experiments.pretrained.train --workdir runs/pretrained "
        f"--steps {info['steps']}",
        score="python -m experiments.pretrained.scores --workdir runs/pretrained",
        **{name: info[name] for name in ("steps", "crops", "hours", "seed")},
    )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Choose, score, write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--fields", type=int, default=24, help="held-out fields of each half")
    parser.add_argument("--model", default="", help="model file to look at, in place of the run")
    parser.add_argument("--look", nargs="*", default=[], help="images to draw overlays of")
    parser.add_argument("--overlays", type=Path, help="folder for the overlays")
    arguments = parser.parse_args()
    enable_compilation_cache()
    if arguments.look:
        model = load_model(arguments.model) if arguments.model else load_trained(arguments.workdir)
        draw_overlays(model, arguments.look, arguments.overlays)
        return
    model = load_trained(arguments.workdir)
    fields = list(simulate_held_out(training_ranges(), 2 * arguments.fields, HELD_OUT_SEED))
    # Neighbours of the list are drawn from other ranges: every second block of eight is kept.
    chosen_on = [field for number, field in enumerate(fields) if number // 8 % 2 == 0]
    scored_on = [field for number, field in enumerate(fields) if number // 8 % 2 == 1]
    threshold, tried = choose_settings(model, chosen_on, predict_all(model, chosen_on))
    model = dataclasses.replace(model, threshold=threshold)
    predicted = predict_all(model, scored_on)
    result: dict[str, Any] = {
        "threshold": threshold,
        "tried": tried,
        "scores": score_settings(scored_on, predicted, threshold),
        "by_mode": {},
        "without_tta": score_settings(
            scored_on, predict_all(model, scored_on, tta=False), threshold
        ),
        "known_diameter": score_settings(
            scored_on, predict_all(model, scored_on, known=True), threshold
        ),
        "scales": scale_errors(model, 16),
    }
    for mode in sorted({field.mode for field in scored_on}):
        chosen = [number for number, field in enumerate(scored_on) if field.mode == mode]
        result["by_mode"][mode] = score_settings(
            [scored_on[i] for i in chosen], [predicted[i] for i in chosen], threshold
        )
    print(json.dumps(result, indent=1))
    write_json(arguments.workdir / "scores.json", result)
    write_model(arguments.workdir / "model.safetensors", model)
    write_card(arguments.workdir / "card.md", model, result, len(scored_on))
    draw_examples(model, arguments.workdir / "examples.png")


if __name__ == "__main__":
    main()
