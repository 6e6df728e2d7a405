"""How much a split that leaks flatters: the reported score against that on new animals.

What: the same simulated recordings (8 donors, 3 fields of view of each, 3 sessions of each field)
    are split four ways: by crop, by recording, by container (field of view) and by donor. A
    network is trained on each and scored on its own test split, as a paper would report it, and
    on recordings of donors that nobody has seen, which is the truth. The difference is how much
    the split flatters. Sessions of a container show the same cells, fibres and vessels with other
    activity and noise; donors differ in the size and brightness of cells and in the background.
Result: see `experiments/figures/leakage.md`, which this writes.
Hardware: 2 CPU cores, about half an hour for three seeds; run again, it goes on where it stopped.
Command: python -m experiments.leakage --workdir runs/leakage
"""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, group_of
from fluxseg.data.simulator import UM_PER_PX, simulate_session
from fluxseg.data.tissue import Field, simulate_field
from fluxseg.files import read_json, write_json
from fluxseg.interop.npz import write_npz

SPLITS = ("crop", "recording", "container", "donor")
"""What is never divided between the splits, the leakiest first."""
DONORS, CONTAINERS, SESSIONS = 8, 3, 3
NEW_DONORS = 8
SIZE, TILE = 256, 128
FIGURES = Path(__file__).parent / "figures"


def simulate_donor(seed: int, donor: int, size: int = SIZE) -> list[Recording]:
    """Simulate all recordings of an animal.

    Args:
        seed: of everything.
        donor: number of the animal.
        size: height and width of a field, px.

    Returns:
        `CONTAINERS` times `SESSIONS` recordings. Cells of the animal are larger or smaller by 8 %
        and brighter or dimmer by a third, its background by a quarter (standard deviations).
    """
    animal = np.random.default_rng((seed, donor))
    larger, brighter, lighter = np.exp(animal.normal(0, (0.08, 0.3, 0.25)))
    recordings = []
    for container in range(CONTAINERS):
        field = simulate_field(np.random.default_rng((seed, donor, container)), size)
        cells = dataclasses.replace(
            field.cells,
            radius=field.cells.radius * larger,
            brightness=field.cells.brightness * brighter,
        )
        field = dataclasses.replace(
            field, cells=cells, neuropil=field.neuropil * np.float32(lighter)
        )
        recordings += [
            _image(field, np.random.default_rng((seed, donor, container, session)), name)
            for session in range(SESSIONS)
            for name in [(f"mouse-{seed}-{donor}", f"field-{seed}-{donor}-{container}", session)]
        ]
    return recordings


def _image(field: Field, rng: np.random.Generator, name: tuple[str, str, int]) -> Recording:
    donor, container, session = name
    image, masks = simulate_session(field, rng)
    metadata = {
        "experiment_container_id": container,
        "donor_name": donor,
        "um_per_px": UM_PER_PX,
    }
    ids = tuple(map(str, range(len(masks))))
    return Recording(f"{container}-{session}", image, masks, ids, group_of(metadata, ""), metadata)


def write_recordings(folder: Path, seed: int) -> None:
    """Write the recordings of a seed, those to split and those of new donors; once.

    Those to split are written twice, the second time without their container, so that the donor
    is their group.
    """
    if (folder / "done.json").exists():
        return
    for part in ("container", "donor", "new"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for donor in range(DONORS + NEW_DONORS):
        for recording in simulate_donor(seed, donor):
            if donor >= DONORS:
                write_npz(folder / "new" / f"{recording.id}.npz", recording)
                continue
            write_npz(folder / "container" / f"{recording.id}.npz", recording)
            metadata = {"donor_name": recording.metadata["donor_name"], "um_per_px": UM_PER_PX}
            group = group_of(metadata, "")
            recording = dataclasses.replace(recording, metadata=metadata, group=group)
            write_npz(folder / "donor" / f"{recording.id}.npz", recording)
    write_json(folder / "done.json", {"seed": seed})


def run_split(split: str, folder: Path, workdir: Path, seed: int, epochs: int) -> dict[str, float]:
    """Train with a split, or go on with it; return neuron IoU as reported and on new donors."""
    data = folder / ("donor" if split == "donor" else "container")
    settings: dict[str, Any] = {
        "data.source": data,
        "data.cache": folder / f"cache-{data.name}",
        "data.tile": TILE,
        "data.split-by": split if split in ("crop", "recording") else "group",
        "data.split-seed": seed,
        "data.train-fraction": 0.6,
        "data.val-fraction": 0.15,
        "train.seed": seed,
        "train.epochs": epochs,
    }
    options = [text for name, value in settings.items() for text in (f"--config.{name}", value)]
    if not (workdir / "scores.json").exists():
        _run("fluxseg.main", "--workdir", workdir, *options)
    new = workdir / "new"
    if not (new / "scores.json").exists():
        _run("fluxseg", "evaluate", "--workdir", workdir, "--data", folder / "new", "--output", new)
    reported = read_json(workdir / "scores.json")["splits"]["test"]["scores"]["neuron_iou"]
    (truth,) = read_json(new / "scores.json")["splits"].values()
    return {"reported": reported, "new": truth["scores"]["neuron_iou"]}


def _run(module: str, *arguments: Any) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write and return the table of means and standard deviations over seeds, as Markdown."""
    lines = [
        "| never divided | reported | on new animals | flatters by |",
        "|---|---|---|---|",
    ]
    for split in SPLITS:
        found = [row for row in rows if row["split"] == split]
        reported, new = (np.array([row[name] for row in found]) for name in ("reported", "new"))
        texts = [_spread(values) for values in (reported, new, reported - new)]
        lines.append(f"| {split} | " + " | ".join(texts) + " |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def _spread(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values.mean():.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def draw_gaps(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the reported score and that on new animals of every run, split by split."""
    from matplotlib.figure import Figure

    figure = Figure((7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    kinds = (
        ("reported", "reported, on its own test split", "#D55E00", "o"),
        ("new", "the same network on new animals", "#0072B2", "s"),
    )
    for place, split in enumerate(SPLITS):
        found = [row for row in rows if row["split"] == split]
        for number, row in enumerate(found):
            x = place + 0.12 * (number - (len(found) - 1) / 2)
            axes.plot([x, x], [row["reported"], row["new"]], color="0.75", zorder=1)
            for name, title, color, marker in kinds:
                label = title if place == number == 0 else None
                axes.scatter(x, row[name], c=color, marker=marker, label=label, zorder=2)
    axes.set_xticks(range(len(SPLITS)), [f"by {split}" for split in SPLITS])
    axes.set_ylabel("neuron IoU")
    axes.set_title("What a split reports, and what is true")
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Simulate, train, score, write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        folder = arguments.workdir / f"recordings-{seed}"
        write_recordings(folder, seed)
        for split in SPLITS:
            workdir = arguments.workdir / f"{split}-{seed}"
            row = {"split": split, "seed": seed}
            row |= run_split(split, folder, workdir, seed, arguments.epochs)
            print(row, flush=True)
            rows.append(row)
    write_json(arguments.workdir / "leakage.json", {"rows": rows, "epochs": arguments.epochs})
    arguments.figures.mkdir(parents=True, exist_ok=True)
    print(write_table(arguments.figures / "leakage.md", rows))
    draw_gaps(arguments.figures / "leakage.png", rows)


if __name__ == "__main__":
    main()
