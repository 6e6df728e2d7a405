"""What each defect of the reference protocol does to its scores, one at a time.

What: the reference protocol (its U-Net at an eighth of the width, its weighted cross-entropy, Adam,
    batches of 16, no augmentation) on labelled recordings divided by mouse, and on simulated
    ones: mended, and with one defect each. Six fields train, two choose the epoch, two are
    tested, in crops of 96 px, 25 of a field; another seed divides them otherwise.
    wrap          images of more than 8 bits are cast to 8 (8-bit ones are first spread over 12)
    JPG masks     masks go through JPG, and only pixels of exactly 255 count
    crops         crops of one field are in training and test, as many as before in each
    best on test  the epoch is chosen on the test split
    dropped batch the last incomplete batch is not scored
    "Reported" is what the protocol says with the defect; "right" the score of the same network
    for true masks of mice that are not in training. Macro IoU, pooled over pixels, at 0.5.
    The learning rate is 1e-3: a narrow network and 200 steps learn too little at 1e-4.
Result: `docs/figures/reference_defects.md`.
Hardware: 2 CPU cores, 1 to 2 minutes for each of the four trainings of a seed.
Command: python -m experiments.studies.reference_defects --data FOLDER --workdir runs/defects
    Run again, it goes on where it stopped, and writes `docs/figures/reference_defects.md`.
"""

import argparse
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.configs.reference import get_config
from experiments.studies.few_labels import describe
from fluxseg.allocator import tune_allocator
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config, DataConfig, SimulatorConfig
from fluxseg.data.transforms import normalize_image
from fluxseg.io.files import read_json, write_json
from fluxseg.model.metrics import scores_from_confusion

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
TRAININGS = ("mended", "wrap", "JPG masks", "crops")
ROWS = (*TRAININGS, "best on test", "dropped batch")
TILE, PER_SIDE, BATCH, EPOCHS = 96, 5, 16, 24
FIELDS = {"train": 6, "val": 2, "test": 2}
Crops = Mapping[str, np.ndarray]


def wrap_image(image: np.ndarray) -> np.ndarray:
    """Cast to 8 bits as the protocol does, `[H, W]` float32 in 0 to 1; 8-bit images get 4 more."""
    wide = image.astype(np.int64) * (16 if image.max() < 256 else 1)
    return wide.astype(np.uint8).astype(np.float32) / np.float32(255)


def jpg_mask(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask `[H, W]` bool that are exactly 255 after JPG."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "JPEG")
    return np.asarray(Image.open(file)) == 255


def cut_crops(array: np.ndarray) -> np.ndarray:
    """Cut `[H, W]` into `[25, 96, 96]`, row by row from the upper left corner."""
    side = TILE * PER_SIDE
    grid = array[:side, :side].reshape(PER_SIDE, TILE, PER_SIDE, TILE)
    return grid.transpose(0, 2, 1, 3).reshape(-1, TILE, TILE)


def read_crops(source: Any, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Read fields as crops `[25 * fields, 96, 96]`: image, wrapped, mask and jpg."""
    parts: dict[str, list[np.ndarray]] = {"image": [], "wrapped": [], "mask": [], "jpg": []}
    for key in keys:
        recording = source.read(key)
        mask = recording.masks.any(0)
        fields = (normalize_image(recording.image), wrap_image(recording.image), mask)
        for name, field in zip(parts, (*fields, jpg_mask(mask)), strict=True):
            parts[name].append(cut_crops(field))
    return {name: np.concatenate(found) for name, found in parts.items()}


def divide(count: int, kind: str, seed: int) -> dict[str, np.ndarray]:
    """Divide the crops of so many fields among the splits: one by one ("crops"), or whole fields.

    The seed says which fields, or crops, come first.
    """
    each = PER_SIDE**2
    order = np.arange(count * each)
    if kind == "crops":
        order = np.random.default_rng(seed).permutation(order)
    # Every seed tests other fields.
    order = np.roll(order, -2 * seed * each)
    ends = np.cumsum([share * each for share in FIELDS.values()])
    return dict(zip(FIELDS, np.split(order[: ends[-1]], ends[:-1]), strict=True))


def train(crops: Crops, splits: Crops, kind: str, seed: int) -> list[dict[str, Any]]:
    """Train with or without a defect; a row for each second epoch.

    Returns:
        epoch, and for val and test the confusion matrix of each crop against the true masks
        (`val`, `test`), and for test against those through JPG (`test_jpg`).
    """
    import jax

    from fluxseg.model.losses import class_weights
    from fluxseg.training.state import create_train_state
    from fluxseg.training.steps import train_step

    config = get_config()
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, features=(8, 16, 16, 32, 64)),
        train=dataclasses.replace(config.train, learning_rate=1e-3, seed=seed),
    )
    images = crops["wrapped" if kind == "wrap" else "image"][..., None]
    labels = crops["jpg" if kind == "JPG masks" else "mask"].astype(np.uint8)
    learnt = splits["train"]
    neuron = int(labels[learnt].sum())
    weights = class_weights(config.loss, neuron, labels[learnt].size - neuron)
    steps = EPOCHS * (len(learnt) // BATCH)
    state = create_train_state(config, weights, steps, tile=TILE)
    step = jax.jit(train_step, donate_argnums=0)
    apply = jax.jit(lambda params, image: state.apply_fn({"params": params}, image, False))
    rng, rows = np.random.default_rng(seed), []
    for epoch in range(1, EPOCHS + 1):
        # A last incomplete batch is left out in training by all of them.
        for batch in np.split(rng.permutation(learnt), range(BATCH, len(learnt), BATCH)):
            if len(batch) == BATCH:
                fed = {"image": images[batch], "label": labels[batch]}
                state, _ = step(state, fed | {"valid": np.ones_like(fed["label"])})
        if epoch % 2 == 0:
            row: dict[str, Any] = {"epoch": epoch}
            for name in ("val", "test"):
                found = np.asarray(apply(state.params, images[splits[name]])).argmax(-1)
                row[name] = count_pixels(crops["mask"][splits[name]], found)
                row[f"{name}_jpg"] = count_pixels(crops["jpg"][splits[name]], found)
            rows.append(row)
            print(epoch, *(f"{macro_iou(row[name]):.4f}" for name in ("val", "test")), flush=True)
    return rows


def count_pixels(true: np.ndarray, found: np.ndarray) -> list[Any]:
    """Return the confusion matrix of each crop, `[N, 2, 2]` as nested lists."""
    pairs = 2 * true.astype(np.int64) + found
    counts: list[Any] = [np.bincount(p.ravel(), minlength=4).reshape(2, 2).tolist() for p in pairs]
    return counts


def macro_iou(confusions: Sequence[Any]) -> float:
    """Pool the confusion matrices of crops, and return the mean IoU of both classes."""
    return scores_from_confusion(np.array(confusions).sum(0))["macro_iou"]


def judge(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Say what each defect reports, and what is right; rows of `ROWS` that there are runs for."""
    chosen = {}
    for kind, rows in runs.items():
        val = "val_jpg" if kind == "JPG masks" else "val"
        chosen[kind] = rows[int(np.argmax([macro_iou(row[val]) for row in rows]))]
    honest = {kind: macro_iou(row["test"]) for kind, row in chosen.items()}
    mended = chosen["mended"]
    full = len(mended["test"]) // BATCH * BATCH
    reported = {
        **honest,
        "best on test": max(macro_iou(row["test"]) for row in runs["mended"]),
        "dropped batch": macro_iou(mended["test"][:full]),
    }
    if "JPG masks" in chosen:
        reported["JPG masks"] = macro_iou(chosen["JPG masks"]["test_jpg"])
    # A network that has seen the fields of its test set has no right score of its own.
    right = dict.fromkeys(("crops", "best on test", "dropped batch"), honest["mended"])
    return {
        kind: {"reported": reported[kind], "right": (honest | right)[kind]}
        for kind in ROWS
        if kind in reported
    }


def write_table(path: Path, found: Mapping[str, Mapping[int, Any]]) -> str:
    """Write and return the table as Markdown: sources, defects, means and deviations over seeds."""
    lines = ["| data | protocol | macro IoU reported | right | seeds |", "|---|---|---|---|---|"]
    for data, seeds in found.items():
        for kind in ROWS:
            rows = [row[kind] for row in seeds.values() if kind in row]
            cells = [describe(row[name] for row in rows) for name in ("reported", "right")]
            if rows:
                lines.append(f"| {' | '.join([data, kind, *cells, str(len(rows))])} |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Train, score, write; see the module's docstring."""
    from fluxseg.formats.sources import open_source

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of labelled recordings")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    tune_allocator()
    enable_compilation_cache()
    simulator = SimulatorConfig(containers=sum(FIELDS.values()), sessions=1)
    sources = {
        Path(arguments.data).name: open_source(Config(data=DataConfig(source=arguments.data))),
        "simulator": open_source(Config(simulator=simulator)),
    }
    found: dict[str, dict[int, Any]] = {name: {} for name in sources}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for data, source in sources.items():
            keys = sorted(source.keys())
            runs: dict[str, Any] = {}
            crops: Crops = {}
            for kind in TRAININGS:
                path = arguments.workdir / f"{data}-{kind.replace(' ', '_')}-{seed}.json"
                if not path.exists():
                    crops = crops or read_crops(source, keys)
                    print(time.strftime("%H:%M:%S"), data, kind, seed, flush=True)
                    write_json(path, train(crops, divide(len(keys), kind, seed), kind, seed))
                runs[kind] = read_json(path)
                found[data][seed] = judge(runs)
                write_table(arguments.figures / "reference_defects.md", found)
    print(write_table(arguments.figures / "reference_defects.md", found))


if __name__ == "__main__":
    main()
