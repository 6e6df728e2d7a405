"""Score the shipped network on held-out simulated fields, and write it down.

What: a model file with the threshold and the least confidence that were chosen on real fields
    (`experiments.pretrained.confidence`), and its scores on simulated fields that training never
    saw, with cells of 9 to 22 px. Doubtful cells count neither as found nor as missed. The model
    file and its card, to be copied to `fluxseg/pretrained`, are written into the output folder.
Hardware: 2 CPU cores, about ten minutes.
Command: python -m experiments.pretrained.scores --model runs/third/model_01250.safetensors
    --threshold T --min-confidence C --real runs/real/scores.json --output runs/shipped
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.pretrained.crops import RULES, training_ranges
from fluxseg.data.resample import disc_diameter
from fluxseg.inference.model_file import write_model
from fluxseg.inference.objects.counts import ObjectCounts, count_objects
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model
from fluxseg.inference.scale import FEW
from fluxseg.io.files import write_json
from fluxseg.model.metrics import scores_from_confusion
from fluxseg.simulation.labels import create_labels
from fluxseg.simulation.ranges import Ranges
from fluxseg.simulation.source import SimulatedFields

HELD_OUT_SEED = 1001


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
        drawn = 2 * values["radius"] / values["um_per_px"]
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


def predict_all(model: Predictor, fields: Sequence[HeldOut]) -> list[tuple[np.ndarray, float]]:
    """Predict fields, whose diameter is estimated."""
    found = []
    for field in fields:
        diameter = model.find_diameter(field.image)
        assert diameter is not None
        found.append((model.predict(field.image, diameter=diameter), diameter))
    return found


CARD = Path(__file__).with_name("card.md")
"""Model card with places for the figures."""


def write_card(
    path: Path, model: Predictor, result: dict[str, Any], real: Mapping[str, Any], fields: int
) -> None:
    """Write the model card."""
    rows = {
        "all": result["scores"],
        **{f"{mode} over time": row for mode, row in result["by_mode"].items()},
    }
    names = ("f1", "precision", "recall", "macro_iou", "neuron_iou")
    text = CARD.read_text(encoding="utf-8").format(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        table=_table(rows, names),
        real=_table(real, REAL),
        threshold=model.threshold,
        cut=model.min_confidence,
        diameter=model.diameter_px,
        fields=fields,
    )
    path.write_text(text, encoding="utf-8")


REAL = ("f1", "precision", "recall", "average_precision", "area_ratio", "macro_iou")
"""Columns of the yardstick that the card shows."""


def _table(rows: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    return "\n".join(
        f"| {title} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |"
        for title, row in rows.items()
    )


def main() -> None:
    """Score, write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--min-confidence", type=float, required=True)
    parser.add_argument("--real", type=Path, required=True, help="scores.json of the yardstick")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fields", type=int, default=16, help="held-out simulated fields")
    arguments = parser.parse_args()
    model = dataclasses.replace(
        load_model(arguments.model),
        threshold=arguments.threshold,
        min_confidence=arguments.min_confidence,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_model(arguments.output / "model.safetensors", model)
    fields = list(simulate_held_out(training_ranges(), arguments.fields, HELD_OUT_SEED))
    cut = {"min_confidence": model.min_confidence}
    predicted = predict_all(model, fields)
    result: dict[str, Any] = {
        "scores": score_settings(fields, predicted, model.threshold, **cut),
        "by_mode": {},
    }
    for mode in sorted({field.mode for field in fields}):
        chosen = [number for number, field in enumerate(fields) if field.mode == mode]
        result["by_mode"][mode] = score_settings(
            [fields[i] for i in chosen], [predicted[i] for i in chosen], model.threshold, **cut
        )
    print(json.dumps(result, indent=1))
    write_json(arguments.output / "scores.json", result)
    # The last of the yardstick's models is the one that ships.
    real = list(json.loads(arguments.real.read_text(encoding="utf-8")).values())[-1]["summary"]
    write_card(arguments.output / "card.md", model, result, real, len(fields))


if __name__ == "__main__":
    main()
