"""How good a model becomes with a few labelled fields of one's own: 0, 1, 3, 6 and 9 of them.

What: `fluxseg finetune` with its defaults, from the network that comes with fluxseg or `--model`,
    on real fields with human labels, divided by mouse (a source without mice: by plane). Each
    model learns from n fields and is scored on at most 3 fields of other mice, whole, just as
    `fluxseg predict` would find their cells; n = 0 is the model as it came, on the same fields.
    Scores are means over fields: F1 of neurons at IoU 0.5, and macro IoU.
    `--across` answers another question: is a model that was tuned on the labels of several
    laboratories better for one that is not among them? It learns from all sources but one, and
    is scored on that one (docs/howto-public-labels.md).
Result: `docs/figures/few_labels.md` and docs/results-labels.md: on other mice of Allen 275 um F1
    .770 to .772 after 1 field, .771 to .792 after 9. The threshold stays that of the first network:
    other ones gained nothing on fields held out (trial of a script that was not kept). `--across`
    (each of five sources): docs/howto-public-labels.md.
Hardware: one CPU core; 1 to 3 minutes for each model, `JOBS` in their order.
Command: python -m experiments.studies.few_labels --data FOLDER --workdir runs/few_labels
    [--across] FOLDER holds a folder for each source. Run again, it goes on where it stopped;
    `--report` only reads, and writes `docs/figures/few_labels.md` and `few_labels.png`, or
    `few_labels_across.md`.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.allocator import tune_allocator
from fluxseg.io.files import read_json, write_json

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
ACROSS = ("allen_275", "princeton", "janelia_02", "janelia_00", "columbia_03")
"""Folders of labelled fields, each of another laboratory or data set."""
ACROSS_STEPS, ACROSS_SHARE = 500, 0.5
SIZES = {"allen_275": (1, 3, 6, 9), "princeton": (1, 4), "janelia_02": (1, 2)}
"""Numbers of fields to learn from; at least a mouse is left over to score."""
JOBS = (
    *(("allen_275", size, 0) for size in (9, 1)),
    ("princeton", 4, 0),
    ("janelia_02", 2, 0),
    ("allen_275", 3, 0),
    *(("allen_275", 9, seed) for seed in (1, 2)),
    ("allen_275", 1, 1),
    ("allen_275", 6, 0),
    ("princeton", 1, 0),
    ("janelia_02", 1, 0),
    *(("allen_275", size, 2) for size in (1, 3)),
    *(("princeton", size, 1) for size in (4, 1)),
    *(("janelia_02", size, 1) for size in (2, 1)),
    *(("allen_275", size, seed) for size, seed in ((3, 1), (6, 1), (6, 2))),
    *(("allen_275", 9, seed) for seed in range(3, 10)),
    *(("princeton", size, 2) for size in (4, 1)),
)
"""Source, fields, seed: what matters most first, so that any beginning is a table."""
MOST = 3
"""Fields that a model is scored on at most; the next ones in the ring of groups."""
SCORES = {"object_f1": "F1", "macro_iou": "macro IoU"}


def choose_fields(groups: Mapping[str, str], size: int, seed: int) -> tuple[list[str], list[str]]:
    """Choose fields to learn from, whole groups as far as the size allows, and others to score.

    Args:
        groups: key -> group of each field.
        size: number of fields to learn from.
        seed: which group comes first; the others follow in their order, in a ring.
    """
    names = sorted(set(groups.values()))
    ring = [names[(seed + number) % len(names)] for number in range(len(names))]
    order = [key for name in ring for key in sorted(k for k, g in groups.items() if g == name)]
    learnt = order[:size]
    used = {groups[key] for key in learnt}
    return learnt, [key for key in order if groups[key] not in used][:MOST]


def run_job(
    model: Any, folder: Path, job: tuple[str, int, int], workdir: Path, settings: Any
) -> None:
    """Tune and score one model, and write SOURCE-FIELDS-SEED.json; nothing if that is done.

    A job is a source, a number of fields (0: all fields of the other sources) and a seed.
    """
    from fluxseg.adapt.few_shot import create_config
    from fluxseg.adapt.learning_curve import tune_part
    from fluxseg.formats.sources import open_source
    from fluxseg.inference.field_scores import pool_scores, score_fields
    from fluxseg.training.dataset import open_cache

    source, size, seed = job
    path = workdir / f"{source}-{size}-{seed}.json"
    if path.exists():
        return
    settings = dataclasses.replace(settings, seed=seed, held_out=0)
    cache = workdir / (source if size else "all")
    config = create_config(model, str(folder / source if size else folder), cache, settings)
    index = open_cache(open_source(config), cache / "cache", config.data)
    groups = {entry.key: entry.group for entry in index.entries}
    if size:
        learnt, held = choose_fields(groups, size, seed)
    else:
        held = [key for key in groups if key.split("/")[0] == source]
        learnt = [key for key in groups if key not in held]
    began = time.process_time()
    rows = tune_part(
        model, config, index, learnt, held, workdir / "parts" / path.stem, settings.share
    )
    seconds = time.process_time() - began
    known = cache / "before.json"
    before: dict[str, Any] = read_json(known) if known.exists() else {}
    for key in held:
        if key not in before:
            before[key] = pool_scores(score_fields(model, open_source(config), [key]))
            write_json(known, before)
    after = {row["key"]: pool_scores([row]) for row in rows}
    record = {"source": source, "n": size, "seed": seed, "learnt": learnt, "cpu_seconds": seconds}
    scores = {key: {"before": before[key], "after": after[key]} for key in held}
    write_json(path, {**record, "fields": scores})


def read_rows(workdir: Path, sizes: Mapping[str, Sequence[int]] = SIZES) -> list[dict[Any, Any]]:
    """Read the finished jobs: a row for each source and number of fields, a value for each seed."""
    rows = []
    for source in sizes:
        for size in sizes[source]:
            jobs = [read_json(p) for p in sorted(workdir.glob(f"{source}-{size}-*.json"))]
            if not jobs:
                continue
            row: dict[Any, Any] = {"source": source, "n": size, "seeds": len(jobs)}
            row["scored"] = len({key for job in jobs for key in job["fields"]})
            for when in ("before", "after"):
                for name in SCORES:
                    row[when, name] = [
                        float(np.mean([field[when][name] for field in job["fields"].values()]))
                        for job in jobs
                    ]
            rows.append(row)
    return rows


def describe(values: Iterable[float]) -> str:
    """Return mean and standard deviation of one value for each seed; nothing if there is none."""
    array = np.array(list(values))
    if not array.size:
        return ""
    spread = f" ± {array.std(ddof=1):.3f}" if len(array) > 1 else ""
    return f"{array.mean():.3f}{spread}"


def write_table(path: Path, rows: Sequence[Mapping[Any, Any]]) -> str:
    """Write and return the table as Markdown; ± is the standard deviation over seeds."""
    lines = [
        "| source | fields learnt from | F1 before | F1 after | macro IoU before "
        "| macro IoU after | models | fields scored |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["source"], row["n"]]
        cells += [describe(row[when, name]) for name in SCORES for when in ("before", "after")]
        lines.append(f"| {' | '.join(map(str, [*cells, row['seeds'], row['scored']]))} |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def draw_curves(path: Path, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Draw the scores over the number of fields: a line for each source, a dot for each model."""
    from matplotlib.figure import Figure

    figure = Figure((9.5, 4), dpi=110, layout="constrained")
    sizes = sorted({0, *(row["n"] for row in rows)})
    for axes, (name, title) in zip(figure.subplots(1, 2), SCORES.items(), strict=True):
        for source, color in zip(SIZES, ("#0072B2", "#D55E00", "#009E73"), strict=True):
            these = [row for row in rows if row["source"] == source]
            if not these:
                continue
            # The model as it came, on the fields of the row that scores most of them.
            start = max(these, key=lambda row: row["scored"])["before", name]
            places = [0, *(sizes.index(row["n"]) for row in these)]
            values = [start, *(row["after", name] for row in these)]
            axes.plot(places, [np.mean(v) for v in values], "o-", color=color, label=source)
            for place, found in zip(places, values, strict=True):
                axes.scatter([place] * len(found), found, s=12, color=color, alpha=0.5, lw=0)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlabel("labelled fields learnt from (0: the model as it came)")
        axes.set_title(f"{title}, other mice", loc="left")
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Tune, score, write; see the module's docstring."""
    from fluxseg.adapt.few_shot import FewShot
    from fluxseg.inference.run_model import load_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--model", default="pretrained")
    parser.add_argument("--across", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    workdir, figures = arguments.workdir, arguments.figures
    settings, jobs, sizes = FewShot(), JOBS, SIZES
    if arguments.across:
        settings = FewShot(steps=ACROSS_STEPS, share=ACROSS_SHARE)
        jobs, sizes = tuple((name, 0, 0) for name in ACROSS), dict.fromkeys(ACROSS, (0,))
    if not arguments.report:
        tune_allocator()
        model = load_model(arguments.model)
        for job in jobs:
            run_job(model, arguments.data, job, workdir, settings)
            print(time.strftime("%H:%M:%S"), *job, flush=True)
            print(write_table(workdir / "table.md", read_rows(workdir, sizes)), flush=True)
    rows = read_rows(workdir, sizes)
    figures.mkdir(parents=True, exist_ok=True)
    if arguments.across:
        print(write_table(figures / "few_labels_across.md", rows))
        return
    print(write_table(figures / "few_labels.md", rows))
    draw_curves(figures / "few_labels.png", rows)


if __name__ == "__main__":
    main()
