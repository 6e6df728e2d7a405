"""The recipe against the reference protocol, and one change of it at a time.

What: on the embedded simulator's fixed benchmark (its seed is 0; labels are noisy: active cells
    only, outlines off, some missed; train, validation and test never share a container) the
    default settings, the reference protocol at equal training time and at equal steps, and the
    default settings with one change, several seeds of training each. Scored on whole test fields,
    neuron IoU and the F1 of single neurons at IoU 0.5, with the threshold that validation chose
    (the reference protocol: 0.5), the checkpoint being chosen on validation too. "±" is the
    standard deviation over seeds; differences are of runs with equal seeds.
    Equal time: the processor time of a step is measured for both on this machine, and the
    reference protocol gets as many whole epochs as cost what the recipe's do, or a little more.
    Equal steps: as many steps with as many crops in each.
    `--data` does the same on a folder of labelled recordings; another seed is another split of
    them, too. `--split-by recording` is for recordings of a single tissue: scores leak then.
Result: the reference protocol is 0.29 to 0.38 of IoU and 0.35 to 0.56 of F1 behind at equal time
    (one seed; its threshold chosen, or 0.5), which is one epoch for it; in the small form 0.33 and
    0.36, and at equal steps 0.08 and 0.06. Half the width, half the learning rate, the focal loss
    or cross-entropy without Dice, one convolution a level and no normalisation harm; no change
    helps by more than 0.022. All of `docs/figures/recipe.md` and `recipe.png`
    (`recipe_small.*` with `--small`, `recipe_data.*` with `--data`), which this writes from the
    folders of the finished runs.
Hardware: 2 CPU cores; about 4 minutes a run, the reference protocol at equal steps over an hour.
    `--small`: 24 fields of 256 px in place of 96 of 512 px, 16 epochs; half a minute a run.
Command: python -m experiments.studies.recipe --workdir runs/recipe [--changes NAME ...]
    [--seeds 0 1 2] [--small | --data FOLDER --split-by recording]
    Run again, it goes on where it stopped; finished runs are kept. `--report` only reads.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studies.recipe_changes import (
    CHANGES,
    DATA,
    RECIPE,
    ROWS,
    TIME,
    TRAIN,
    change_part,
    create_recipe,
    use_reference,
)
from experiments.studies.tables import describe
from fluxseg.allocator import tune_allocator
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config
from fluxseg.io.files import read_json, write_json

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
Row = dict[str, Any]


def measure_step(config: Config, steps: int = 3) -> float:
    """Return the processor time of a crop in training, seconds, of a batch as the config has it."""
    import jax

    from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step
    from fluxseg.training.state import create_train_state

    mesh, (size, tile) = make_mesh(), (config.train.batch_size, config.data.tile)
    rng = np.random.default_rng(0)
    label = (rng.random((size, tile, tile)) < 0.1).astype(np.uint8)
    batch = {
        "image": rng.random((size, tile, tile, 1), np.float32),
        "label": label,
        "valid": np.ones_like(label),
    }
    state = create_train_state(config, np.ones(2, np.float32), steps + 1)
    step = make_train_step(mesh, count_micro_batches(config, mesh))
    began = 0.0
    for number in range(steps + 1):
        state, _ = step(state, batch)
        jax.block_until_ready(state.params)
        if number == 0:
            began = time.process_time()
    return (time.process_time() - began) / (steps * size)


def find_config(name: str, recipe: Config, workdir: Path) -> Config:
    """Return the settings of a row's runs; for equal time steps are measured, once a workdir."""
    if name != TIME:
        return CHANGES[name](recipe)
    path = workdir / "speed.json"
    if not path.exists():
        both = {RECIPE: recipe, "reference": use_reference(recipe, epochs=1)}
        write_json(path, {name: measure_step(config) for name, config in both.items()})
    seconds = read_json(path)
    ratio = seconds["reference"] / seconds[RECIPE]
    return use_reference(recipe, epochs=math.ceil(recipe.train.epochs / ratio))


def run_change(name: str, config: Config, workdir: Path, seed: int) -> None:
    """Train with a seed, or go on with it, and score the test fields; nothing if that is done."""
    from fluxseg.formats.sources import open_source
    from fluxseg.inference.evaluate import load_run
    from fluxseg.inference.field_scores import score_fields, summarise_fields
    from fluxseg.inference.run_model import model_of_run
    from fluxseg.training.dataset import prepare_dataset
    from fluxseg.training.resume import open_run
    from fluxseg.training.train import train

    folder = folder_of(name, workdir, seed)
    if (folder / "fields.json").exists():
        return
    # Crops are stored normalised.
    low, high = config.data.low_percentile, config.data.high_percentile
    cache = str((workdir / f"cache-{low:g}-{high:g}").resolve())
    config = change_part(DATA, cache=cache)(change_part(TRAIN, seed=seed)(config))
    if config.data.source != "simulator":
        config = change_part(DATA, split_seed=seed)(config)
    began = time.process_time()
    with open_run(config, folder) as checkpoints:
        result = train(config, folder, prepare_dataset(config, folder), checkpoints)
    seconds = time.process_time() - began
    model = model_of_run(load_run(folder))
    keys = sorted({key for key, _ in result.dataset.crops("test")})
    variants = {
        "chosen": model,
        "half": dataclasses.replace(model, threshold=0.5, temperature=1.0),
    }
    if name == RECIPE:
        variants["turned"] = dataclasses.replace(model, tta=True)
    source = open_source(config)
    scores = {
        kind: summarise_fields(score_fields(variant, source, keys))
        for kind, variant in variants.items()
    }
    record = {"name": name, "seed": seed, "cpu_seconds": seconds, "threshold": model.threshold}
    write_json(folder / "fields.json", {**record, "scores": scores})


def folder_of(name: str, workdir: Path, seed: int) -> Path:
    """Return the folder of a run."""
    return workdir / f"{name.replace(',', '').replace(' ', '_')}-{seed}"


def read_rows(workdir: Path, seeds: Sequence[int]) -> list[Row]:
    """Read the finished runs: a row of the table each, with one value for each seed."""
    rows = []
    for title, name, kind in ROWS:
        row: Row = {"title": title, "val": {}, "iou": {}, "f1": {}}
        for seed in seeds:
            folder = folder_of(name, workdir, seed)
            if not (folder / "fields.json").exists():
                continue
            found = read_json(folder / "fields.json")["scores"][kind]["scores"]
            val = read_json(folder / "scores.json")["splits"]["val"]["scores"]
            row["val"][seed] = val["neuron_iou"]
            row["iou"][seed] = found["neuron_iou"]
            row["f1"][seed] = found["object_f1"]
        if row["iou"]:
            rows.append(row)
    return rows


def difference(row: Row, base: Row, figure: str) -> dict[int, float]:
    """Return the difference of two rows' figure for each seed that both have."""
    both = row[figure].keys() & base[figure].keys()
    return {seed: row[figure][seed] - base[figure][seed] for seed in sorted(both)}


def write_table(path: Path, rows: Sequence[Row]) -> str:
    """Write and return the table as Markdown; differences are to its first row, the recipe."""
    lines = [
        "| | validation IoU at 0.5 | test neuron IoU | less the recipe's | test F1 at IoU 0.5 "
        "| less the recipe's | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["title"], describe(row["val"].values())]
        for figure in ("iou", "f1"):
            gap = difference(row, rows[0], figure)
            signed = describe(gap.values()) if row is not rows[0] else ""
            signed = signed if signed.startswith("-") or not signed else f"+{signed}"
            cells += [describe(row[figure].values()), signed]
        lines.append(f"| {' | '.join([*cells, str(len(row['iou']))])} |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def draw_changes(path: Path, rows: Sequence[Row]) -> None:
    """Draw the differences to the recipe, seed by seed, and their means."""
    from matplotlib.figure import Figure

    changes = rows[1:]
    figure = Figure((9, 1.4 + 0.3 * len(changes)), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
    for axes, name, title in zip(
        panels, ("iou", "f1"), ("neuron IoU", "F1 of neurons at IoU 0.5"), strict=True
    ):
        for place, row in enumerate(changes):
            gaps = list(difference(row, rows[0], name).values())
            axes.scatter(gaps, [place] * len(gaps), color="0.6", s=14, zorder=2)
            axes.scatter(np.mean(gaps), place, color="#0072B2", marker="D", zorder=3)
        axes.axvline(0, color="black", linewidth=0.8)
        # The reference protocol is far off; what matters among the changes is near zero.
        axes.set_xscale("symlog", linthresh=0.05)
        ticks = (-0.4, -0.05, 0, 0.05)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.margins(y=0.02)
        axes.grid(axis="x", color="0.9")
        axes.set_title(title)
        axes.set_xlabel("test, less the recipe with the same seed")
    panels[0].set_yticks(range(len(changes)), [row["title"] for row in changes])
    panels[0].invert_yaxis()
    figure.savefig(path)


def main() -> None:
    """Train, score, write; see the module's docstring."""
    names = [RECIPE, TIME, *(name for name in CHANGES if name != RECIPE)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", default="", metavar="FOLDER")
    parser.add_argument("--split-by", choices=["group", "recording"], default="group")
    parser.add_argument("--changes", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    recipe = create_recipe(arguments.small, arguments.data, arguments.split_by)
    workdir = arguments.workdir
    if not arguments.report:
        tune_allocator()
        enable_compilation_cache()
        workdir.mkdir(parents=True, exist_ok=True)
        for name in arguments.changes:
            config = find_config(name, recipe, workdir)
            for seed in arguments.seeds:
                run_change(name, config, workdir, seed)
                print(time.strftime("%H:%M:%S"), name, seed, flush=True)
    rows = read_rows(workdir, arguments.seeds)
    if not rows or rows[0]["title"] != RECIPE:
        parser.error(f"{workdir}: there is no finished run of the recipe to compare with")
    stem = "recipe_data" if arguments.data else "recipe_small" if arguments.small else "recipe"
    arguments.figures.mkdir(parents=True, exist_ok=True)
    print(write_table(arguments.figures / f"{stem}.md", rows))
    draw_changes(arguments.figures / f"{stem}.png", rows)


if __name__ == "__main__":
    main()
