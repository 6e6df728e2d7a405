"""The targets, and what the records in `results` say of them, as a table in Markdown.

Command: python -m experiments.benchmarks.summary
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments.benchmarks import epoch
from experiments.benchmarks.measure import RESULTS, summarise

FLUXSEG, NAIVE = "fluxseg, {} allocator", "flax-naive, {} allocator"
EAGER, BEST = "torch-eager, default allocator", "torch-channels-last, tuned allocator"


@dataclasses.dataclass(frozen=True)
class Target:
    """One row of the table: what must and what should be reached, and whose figure says so.

    `ours` is judged against `reference`, variants of the file in `results` that `record` names.
    """

    what: str
    must: str
    aim: str
    record: str
    ours: str
    reference: str
    figure: str = "crops_per_second"
    larger_is_better: bool = True
    unit: str = "x"


def _step(model: str, what: str, must: str, aim: str, ours: str, reference: str) -> Target:
    ours, reference = f"{model}, {ours}", f"{model}, {reference}"
    return Target(f"{what}, {model}", must, aim, "train_step", ours, reference)


TUNED = FLUXSEG.format("tuned")
TARGETS = (
    _step("classic-16", "training step against the same maths in plain Flax, default allocator",
          "2.5", "3.5", FLUXSEG.format("default"), NAIVE.format("default")),
    _step("classic-16", "the same, both with the tuned allocator", "2.5", "3.5", TUNED,
          NAIVE.format("tuned")),
    _step("classic-16", "training step against PyTorch as it comes (eager, NCHW)", "1.5", "2",
          TUNED, EAGER),
    _step("classic-16", "the same, fluxseg with the default allocator as well", "1.5", "2",
          FLUXSEG.format("default"), EAGER),
    *(
        _step(model, "training step against PyTorch at its best", must, "1", TUNED, BEST)
        for model, must in (("classic-16", "0.6"), ("classic-32", "0.6"), ("reference/4", "0.6"),
                            ("fluxseg", "0.75"))
    ),
    *(
        Target(f"prediction of a 512 x 512 field against PyTorch at its best, {model}", must,
               "1.2", "predict_field", f"{model}, {TUNED}", f"{model}, {BEST}", "fields_per_second")
        for model, must in (("classic-16", "0.7"), ("reference/4", "0.7"), ("fluxseg", "0.8"))
    ),
    Target("`fluxseg prepare` against `np.load` of the same files, per core", "0.67", "0.91",
           "prepare", "fluxseg prepare, uint8 masks", "np.load, uint8 masks", "seconds", False),
    Target("loader alone against what the training eats", "50", "200", "epoch",
           "the loader alone", epoch.FLUXSEG),
    Target("the same without augmentation", "50", "200", "epoch",
           "the loader alone, no augmentation", epoch.FLUXSEG),
    *(
        Target(f"peak memory against PyTorch at its best, {model}", "<= 1", "0.5", "train_step",
               f"{model}, {TUNED}", f"{model}, {BEST}", "peak_mb", unit="")
        for model in ("classic-16", "fluxseg")
    ),
)  # fmt: skip
"""Everything that a record of two variants can tell."""


def read_record(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Read a record that a benchmark has written."""
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return record


def format_row(target: Target, folder: Path = RESULTS) -> str:
    """Format a target and what its record says of it."""
    rounds = read_record(target.record, folder)["rounds"]
    both = {name: rounds[name] for name in (target.reference, target.ours)}
    ours = summarise(both, target.figure, target.reference, target.larger_is_better)[1]
    found = f"{ours.ratio:.2f}{target.unit} ({ours.ratio_low:.2f} to {ours.ratio_high:.2f})"
    return f"| {target.what} | {target.must} | {target.aim} | {found} |"


def format_table(folder: Path = RESULTS) -> str:
    """Format all targets as a table in Markdown."""
    head = ["| what | must | aim | measured, median (rounds) |", "|---|---|---|---|"]
    return "\n".join([*head, *(format_row(target, folder) for target in TARGETS)])


if __name__ == "__main__":
    print(format_table())
