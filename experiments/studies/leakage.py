"""How much a split that leaks flatters: one test set, training sets ever further away from it.

What: simulated recordings of 14 donors, 2 fields of view (containers) of each, 3 sessions of each
    field. The test set is always the same: the upper two quarters of the first session of the
    first field of 6 donors; the validation set, which chooses the checkpoint, the same of 3
    others. Training sets have 120 quarters each. They differ in what they may share with test and
    validation, as splits of that name do:
    crop        the recording itself (its lower quarters), and all of the following
    recording   the field of view, in other sessions, and all of the following
    container   the donor, in another field of view
    donor       nothing: other donors alone
    What "crop", "recording" or "container" score above "donor" is the leak, free of the
    differences between test sets. Sessions of a container show the same cells, fibres and vessels
    with other activity, shift and noise; donors differ in the size and brightness of cells and in
    the background. No augmentation, as in the reference protocol, whose split was by crop.
    With `--rejected 0.25` a quarter of the cells of a field are labelled in none of its sessions,
    as if a pipeline rejected their shape, or a grader overlooked them, each time anew: what labels
    lack is then the same in all sessions of a container. Else labels err by chance alone.
Result: `docs/figures/leakage.md` and `leakage.png`, which this writes from finished runs
    (`leakage_rejected.*` with `--rejected`). The leak is 0.02 +- 0.03 (crop), 0.04 +- 0.05
    (recording) and 0.01 +- 0.05 (container): chance moves the score of 12 crops as much. With
    `--rejected 0.25` one seed had 0.418, 0.411, 0.422 and 0.414 (donor).
Hardware: 2 CPU cores, 25 minutes of one core for three seeds.
Command: python -m experiments.studies.leakage --workdir runs/leakage [--rejected 0.25]
    Run again, it goes on where it stopped; finished runs are kept.
"""

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.studies.tables import describe
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import AugmentConfig, Config, DataConfig, TrainConfig
from fluxseg.data.recording import Recording, group_of
from fluxseg.data.simulator import UM_PER_PX, simulate_session
from fluxseg.data.splits import Manifest, SplitItem
from fluxseg.data.tissue import Field, simulate_field
from fluxseg.formats.npz import write_npz
from fluxseg.io.files import read_json, write_json
from fluxseg.launch import tune_allocator

KINDS = ("crop", "recording", "container", "donor")
"""What is never divided between the splits, the leakiest first."""
DONORS, CONTAINERS, SESSIONS = 14, 2, 3
TESTED, TARGETS = 6, 9
"""Donors of which there are test crops; donors of which there are such or validation crops."""
TEST_QUARTERS = (0, 1)
TRAIN_QUARTERS = 120
SIZE, TILE = 256, 128
FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def simulate_donor(seed: int, donor: int, size: int, rejected: float = 0.0) -> list[Recording]:
    """Simulate all recordings of an animal.

    Args:
        seed: of everything.
        donor: number of the animal.
        size: height and width of a field, px.
        rejected: share of the cells of a field that no session labels.

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
        never = animal.random(len(cells.centre)) < rejected
        recordings += [
            _image(field, never, (seed, donor, container, session)) for session in range(SESSIONS)
        ]
    return recordings


def _image(field: Field, never: np.ndarray, numbers: tuple[int, int, int, int]) -> Recording:
    seed, animal, place, session = numbers
    image, masks = simulate_session(field, np.random.default_rng(numbers))
    if never.any():
        # What gives no light is not labelled, and takes as much of the randomness.
        brightness = np.where(never, 0, field.cells.brightness)
        dark = dataclasses.replace(field.cells, brightness=brightness)
        others = dataclasses.replace(field, cells=dark)
        _, masks = simulate_session(others, np.random.default_rng(numbers))
    donor, container = f"mouse-{seed}-{animal}", f"field-{seed}-{animal}-{place}"
    metadata = {
        "experiment_container_id": container,
        "donor_name": donor,
        "um_per_px": UM_PER_PX,
    }
    ids = tuple(map(str, range(len(masks))))
    return Recording(f"{container}-{session}", image, masks, ids, group_of(metadata, ""), metadata)


def write_quarters(folder: Path, seed: int, rejected: float = 0.0) -> None:
    """Write the quarters of all recordings of a seed as recordings of their own, once."""
    if (folder / "done.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for donor in range(DONORS):
        for recording in simulate_donor(seed, donor, SIZE, rejected):
            for number, masks in enumerate(split_quarters(recording.masks)):
                kept = masks[masks.any((1, 2))]
                quarter = dataclasses.replace(
                    recording,
                    id=f"{recording.id}-{number}",
                    image=split_quarters(recording.image)[number],
                    masks=kept,
                    roi_ids=tuple(map(str, range(len(kept)))),
                )
                write_npz(folder / f"{quarter.id}.npz", quarter)
    write_json(folder / "done.json", {"seed": seed})


def split_quarters(array: np.ndarray | None) -> list[np.ndarray]:
    """Return the four quarters of `[..., H, W]`, row by row."""
    assert array is not None
    return [half for rows in np.split(array, 2, -2) for half in np.split(rows, 2, -1)]


def place_of(key: str) -> tuple[int, int, int, int]:
    """Return donor, container, session and quarter of a file that `write_quarters` wrote."""
    donor, container, session, quarter = key.removesuffix(".npz").split("-")[2:]
    return int(donor), int(container), int(session), int(quarter)


def divide(kind: str, items: Sequence[SplitItem], seed: int) -> Manifest:
    """Choose training quarters that share with those for test what a kind of split lets them.

    Args:
        kind: one of `KINDS`.
        items: all quarters; some will be in no split.
        seed: of the choice among the quarters that may be taken; those of the donors of the test
            set come first, so that what can leak does.

    Returns:
        The split; validation and test are the same for all kinds. The validation set leaks as
        the test set does, since a split that divides recordings divides them there too: an
        honest one would stop the training before the network knows them by heart.
    """
    splits: dict[str, str] = {}
    near, far = [], []
    for key in sorted(item.key for item in items):
        donor, container, session, quarter = place_of(key)
        # What it has in common with the test set, from the donor to the quarter itself.
        common = (donor < TARGETS, container == 0, session == 0, quarter in TEST_QUARTERS)
        if all(common):
            splits[key] = "test" if donor < TESTED else "val"
        elif not common[0]:
            far.append(key)
        elif not all(common[: len(KINDS) - KINDS.index(kind)]):
            near.append(key)
    rng = np.random.default_rng(seed)
    order = [pool[n] for pool in (near, far) for n in rng.permutation(len(pool)).tolist()]
    splits.update(dict.fromkeys(order[:TRAIN_QUARTERS], "train"))
    chosen = {
        item.key: {"group": item.group, "digest": item.digest, "splits": [splits[item.key]]}
        for item in items
        if item.key in splits
    }
    return Manifest("crop", 0.0, 0.0, seed, chosen)


def run_split(kind: str, folder: Path, workdir: Path, seed: int, config: Config) -> float:
    """Train with a split, or go on with it; return the neuron IoU of the test crops."""
    from fluxseg.formats.sources import open_source
    from fluxseg.training.dataset import open_cache
    from fluxseg.training.loop import train_and_evaluate

    path = workdir / "scores.json"
    if not path.exists():
        data = dataclasses.replace(config.data, source=str(folder), cache=f"{folder}-cache")
        source = open_source(dataclasses.replace(config, data=data))
        items = [entry.split_item for entry in open_cache(source, Path(data.cache), data).entries]
        manifest = Path(f"{folder}-{kind}.json")
        write_json(manifest, divide(kind, items, seed).to_json())
        train_and_evaluate(
            dataclasses.replace(
                config,
                data=dataclasses.replace(data, manifest=str(manifest)),
                train=dataclasses.replace(config.train, seed=seed),
            ),
            workdir,
        )
    return float(read_json(path)["splits"]["test"]["scores"]["neuron_iou"])


def create_config(epochs: int) -> Config:
    """Return the default settings for small crops, without augmentation."""
    return Config(
        data=DataConfig(tile=TILE),
        augment=AugmentConfig(flips=False, gain=0, offset=0, gamma=0, noise=0, blur=0),
        train=TrainConfig(epochs=epochs, checkpoint_every=epochs),
    )


def write_table(path: Path, scores: Mapping[int, Mapping[str, float]]) -> str:
    """Write and return the table of means and standard deviations over seeds, as Markdown.

    Args:
        path: of the table.
        scores: seed -> kind of split -> neuron IoU of the test crops.
    """
    lines = ["| never divided | neuron IoU | above the donor split | seeds |", "|---|---|---|---|"]
    for kind in KINDS:
        found = {seed: row[kind] for seed, row in scores.items() if kind in row}
        if found:
            gaps = [v - scores[s]["donor"] for s, v in found.items() if "donor" in scores[s]]
            texts = (describe(found.values()), describe(gaps) if kind != "donor" else "")
            lines.append(f"| {kind} | {' | '.join(texts)} | {len(found)} |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def draw_scores(path: Path, scores: Mapping[int, Mapping[str, float]]) -> None:
    """Draw the score of the test crops by kind of split: a line for each seed, and the mean."""
    from matplotlib.figure import Figure

    figure = Figure((6.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (seed, row) in enumerate(scores.items()):
        places = [place for place, kind in enumerate(KINDS) if kind in row]
        values = [row[KINDS[place]] for place in places]
        axes.plot(places, values, "o-", color=str(0.55 + 0.1 * (number % 4)), label=f"seed {seed}")
    for place, kind in enumerate(KINDS):
        found = [row[kind] for row in scores.values() if kind in row]
        if found:
            axes.scatter(place, np.mean(found), marker="D", s=60, color="#D55E00", zorder=3)
    axes.set_xticks(range(len(KINDS)), [f"split by {kind}" for kind in KINDS])
    axes.set_xlim(-0.4, len(KINDS) - 0.6)
    axes.set_ylabel("neuron IoU of the same test crops")
    axes.set_title("The same test crops, ever fewer relatives of them in training")
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Simulate, train, score, write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rejected", type=float, default=0.0)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    stem = "leakage_rejected" if arguments.rejected else "leakage"
    tune_allocator()
    enable_compilation_cache()
    config = create_config(arguments.epochs)
    scores: dict[int, dict[str, float]] = {seed: {} for seed in arguments.seeds}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        folder = arguments.workdir.resolve() / f"recordings-{seed}"
        write_quarters(folder, seed, arguments.rejected)
        for kind in KINDS:
            workdir = arguments.workdir / f"{kind}-{seed}"
            scores[seed][kind] = run_split(kind, folder, workdir, seed, config)
            print(time.strftime("%H:%M:%S"), seed, kind, scores[seed][kind], flush=True)
            write_table(arguments.figures / f"{stem}.md", scores)
            draw_scores(arguments.figures / f"{stem}.png", scores)
    print(write_table(arguments.figures / f"{stem}.md", scores))


if __name__ == "__main__":
    main()
