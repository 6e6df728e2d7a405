"""The main job: `python -m fluxseg.main --workdir DIR`."""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxseg.arguments import split_config_file
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config
from fluxseg.console import progress_bars, run_guarded
from fluxseg.joined import joined
from fluxseg.launch import asks_for_help, tune_allocator
from fluxseg.processes import Processes, leave, run_in_first

if TYPE_CHECKING:
    from rich.console import Console

    from fluxseg.training.loop import TrainResult

logger = logging.getLogger("fluxseg.main")

OBJECT_TITLES = {
    "object_f1": "F1",
    "object_precision": "precision",
    "object_recall": "recall",
}
DESCRIPTION = """Train a U-Net on recordings, score it honestly, and write a report.

Without any setting the recordings come from the embedded simulator; your own:
--config.data.source FOLDER

--config FILE.py starts from the settings of a config file (a Python file with get_config(); it
is executed), and every option below overrides it. Running the same command again resumes an
interrupted run. Exit codes: 0 done; 2 bad input or settings; 130, 138 and 143 stopped by
Ctrl-C, SIGUSR1 or SIGTERM, with everything saved.

Several processes, each with its own devices, train together if each runs this command: under
SLURM with srun; elsewhere --processes.coordinator HOST:PORT --processes.count N and
--processes.index 0 to N-1 say who they are.
"""


@dataclasses.dataclass(frozen=True)
class MainArguments:
    """Arguments of the main job."""

    workdir: Path
    """Folder of the run; it is created, or resumed if it holds one."""
    config: Config
    """Settings of the run."""
    profile: bool = False
    """Trace some steps of the first epoch; WORKDIR/profile gets the trace, for TensorBoard or
    Perfetto, and steps.json, the shares of a step."""
    processes: Processes = dataclasses.field(default_factory=Processes)
    """The processes of the job, if it has several."""


def parse_main(arguments: Sequence[str], prog: str) -> MainArguments:
    """Parse the arguments of the main job; `--help` explains every setting."""
    import tyro

    config, others = split_config_file(arguments)
    return tyro.cli(
        MainArguments,
        prog=prog,
        description=DESCRIPTION,
        args=others,
        default=MainArguments(tyro.MISSING, config),
    )


def run_main(arguments: MainArguments) -> int:
    """Train, evaluate and report; returns the exit code."""
    with joined(arguments.processes) as console:
        enable_compilation_cache()
        _run_joined(arguments, console)
    return 0


def _run_joined(arguments: MainArguments, console: "Console") -> None:
    import jax

    from fluxseg.training.loop import Callbacks, train_and_evaluate

    devices, count = jax.devices(), jax.process_count()
    several = f" in {count} processes" if count > 1 else ""
    logger.info("Devices: %d x %s%s", len(devices), devices[0].device_kind, several)
    bars = (("Preparing", "recordings"), ("Training", "steps"))
    with progress_bars(console, *bars) as (on_prepare, on_step):
        callbacks = Callbacks(on_prepare=on_prepare, on_step=on_step)
        result = train_and_evaluate(
            arguments.config, arguments.workdir, callbacks, profile=arguments.profile
        )
    run_in_first(
        lambda: score_and_report(arguments.config, arguments.workdir, result), "the report"
    )


def score_and_report(config: Config, workdir: Path, result: "TrainResult") -> None:
    """Calibrate a trained network, score its neurons, and write its model file and its report."""
    # Imported only now, so that training begins sooner.
    from fluxseg.formats.sources import open_source
    from fluxseg.inference.calibrate import calibrate
    from fluxseg.inference.examples import write_examples
    from fluxseg.inference.objects.run_scores import write_object_scores
    from fluxseg.inference.run_model import training_pixel_size, write_run_model
    from fluxseg.report.html import write_report

    state = result.state
    index, crops = result.dataset.index, result.dataset.manifest.crops
    splits = {split: crops(split) for split in result.scores["splits"]}
    scores, point = calibrate(state, index, splits, result.scores, workdir)
    if config.data.split_by != "crop":
        # Cells that a border between two splits cuts in two would be counted wrongly.
        scores = write_object_scores(state, index, scores, open_source(config), workdir, point)
    write_examples(state, index, scores, workdir, point.temperature)
    scale = training_pixel_size(index, crops("train"))
    model = write_run_model(workdir, config, state, scores, point, scale)
    page = write_report(workdir)
    log_scores(scores)
    logger.info("Model: %s", model)
    logger.info("Report: %s", page)


def log_scores(scores: Mapping[str, Any]) -> None:
    """Log the macro and neuron IoU of every split, with their intervals."""
    checkpoint = scores["checkpoint"]
    if checkpoint:
        logger.info("Scores of the checkpoint of epoch %s:", checkpoint["epoch"])
    for split, row in scores["splits"].items():
        parts = []
        for name, title in (("macro_iou", "macro IoU"), ("neuron_iou", "neuron IoU")):
            value, interval = row["scores"][name], row["intervals"].get(name)
            text = f"{title} {'undefined' if value is None else f'{value:.4f}'}"
            parts.append(text + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""))
        logger.info(
            "  %-8s %s (%d recordings, %d groups)",
            split,
            ", ".join(parts),
            row["n_recordings"],
            row["n_groups"],
        )
        errors = [
            row.get("calibration", {}).get(when, {}).get("scores", {}).get("ece")
            for when in ("before", "after")
        ]
        if None not in errors:
            text = "  %-8s calibration error %.4f, with the temperature %.4f"
            logger.info(text, "", *errors)
        found = row.get("objects", {}).get("scores", {})
        parts = [
            f"{title} {found[name]:.4f}"
            for name, title in OBJECT_TITLES.items()
            if found.get(name) is not None
        ]
        if parts:
            logger.info("  %-8s single neurons at IoU 0.5: %s", "", ", ".join(parts))


def train(arguments: MainArguments) -> int:
    """Train on recordings, score, and write a report: the same as python -m fluxseg.main."""
    return run_main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_guarded(lambda: run_main(parse_main(arguments, "python -m fluxseg.main")))


if __name__ == "__main__":
    if not asks_for_help(sys.argv[1:]):
        tune_allocator()
    code = main()
    leave(code)
    sys.exit(code)
