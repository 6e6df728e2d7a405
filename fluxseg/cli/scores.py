"""Verbs about the scores of a run."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fluxseg.compilation import enable_compilation_cache
from fluxseg.joined import joined
from fluxseg.main import log_scores
from fluxseg.processes import Processes, gather_values, run_in_first
from fluxseg.terminal import progress_bars

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    workdir: Path,
    data: str = "",
    output: Path | None = None,
    processes: Processes = Processes(),  # noqa: B008
) -> int:
    """Score the best checkpoint of a run on its own splits, or on other recordings.

    Several processes that run the same command share out the crops and recordings.

    Args:
        workdir: Folder of the run.
        data: Folder of annotated recordings that the run has not seen; empty: the validation and
            test splits of the run.
        output: Folder for the scores and the report of --data; default: evaluations/NAME in
            the workdir.
        processes: The processes of the job, if it has several.
    """
    with joined(processes) as console:
        enable_compilation_cache()
        _evaluate(console, workdir, data, output)
    return 0


def _evaluate(console: "Console", workdir: Path, data: str, output: Path | None) -> None:
    from fluxseg.inference.calibrate import OperatingPoint, calibrate
    from fluxseg.inference.evaluate import (
        evaluate_data,
        evaluate_run,
        index_crops,
        load_run,
        open_index,
        run_crops,
        run_index,
    )
    from fluxseg.inference.examples import write_examples
    from fluxseg.inference.objects.run_scores import write_object_scores
    from fluxseg.inference.run_model import operating_point_of_run, update_run_model
    from fluxseg.interop.sources import open_source
    from fluxseg.report.html import write_report

    run = load_run(workdir)
    config = run.config
    if data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
        folder = output or workdir / "evaluations" / (Path(data).resolve().name or "data")
        with progress_bars(console, ("Preparing", "recordings")) as (progress,):
            scores = evaluate_data(run, data, folder, progress)
        index = open_index(folder / "cache")
        crops = {"external": index_crops(index)}
    else:
        folder = workdir
        scores, index = evaluate_run(run), run_index(run)
        crops = run_crops(run)
    chosen = None
    if data or not crops["val"]:
        # The run's own validation split has chosen; the other data are only scored.
        first = run_in_first(
            lambda: dataclasses.asdict(operating_point_of_run(run)[0]), "choosing the threshold"
        )
        chosen = OperatingPoint(**gather_values(first, "the threshold")[0])
    scores, point = calibrate(run.state, index, crops, scores, folder, chosen, shared=True)
    if data or config.data.split_by != "crop":
        source = open_source(config)
        scores = write_object_scores(run.state, index, scores, source, folder, point, shared=True)

    def write() -> None:
        if not data:
            update_run_model(run, point)
        write_examples(run.state, index, scores, folder, point.temperature)
        page = write_report(folder)
        log_scores(scores)
        console.print(f"Report: {page}", markup=False)

    run_in_first(write, "the report")


def report(workdir: tyro.conf.Positional[Path], /) -> int:
    """Write report.html of a run again from the files in its workdir.

    Args:
        workdir: Folder of the run, or of an evaluation.
    """
    from fluxseg.report.html import write_report

    print(write_report(workdir))
    return 0


def compare(workdirs: tyro.conf.Positional[tuple[Path, ...]], /, output: Path) -> int:
    """Compare runs on one page: settings, scores, paired differences, curves, examples.

    Args:
        workdirs: Folders of two or more runs, or of evaluations; the others are compared with
            the first.
        output: The HTML page to write.
    """
    from fluxseg.report.compare import write_comparison

    print(write_comparison(workdirs, output))
    return 0
