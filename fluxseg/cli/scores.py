"""Verbs about the scores of a run."""

import dataclasses
from pathlib import Path

import tyro

from fluxseg.compilation import enable_compilation_cache
from fluxseg.main import log_scores
from fluxseg.terminal import configure_logging, create_console, progress_bars


def evaluate(workdir: Path, data: str = "", output: Path | None = None) -> int:
    """Score the best checkpoint of a run on its own splits, or on other recordings.

    Args:
        workdir: Folder of the run.
        data: Folder of annotated recordings that the run has not seen; empty: the validation and
            test splits of the run.
        output: Folder for the scores and the report of --data; default: evaluations/NAME in
            the workdir.
    """
    from fluxseg.inference.evaluate import (
        evaluate_data,
        evaluate_run,
        load_run,
        open_index,
        run_index,
    )
    from fluxseg.inference.examples import write_examples
    from fluxseg.inference.objects import write_object_scores
    from fluxseg.interop.sources import open_source
    from fluxseg.report.html import write_report

    console = create_console()
    configure_logging(console)
    enable_compilation_cache()
    run = load_run(workdir)
    config = run.config
    if data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
        folder = output or workdir / "evaluations" / (Path(data).resolve().name or "data")
        with progress_bars(console, ("Preparing", "recordings")) as (progress,):
            scores = evaluate_data(run, data, folder, progress)
        index = open_index(folder / "cache")
    else:
        folder = workdir
        scores, index = evaluate_run(run), run_index(run)
    if data or config.data.split_by != "crop":
        scores = write_object_scores(run.state, index, scores, open_source(config), folder)
    write_examples(run.state, index, scores, folder)
    page = write_report(folder)
    log_scores(scores)
    console.print(f"Report: {page}", markup=False)
    return 0


def report(workdir: tyro.conf.Positional[Path], /) -> int:
    """Write report.html of a run again from the files in its workdir.

    Args:
        workdir: Folder of the run, or of an evaluation.
    """
    from fluxseg.report.html import write_report

    print(write_report(workdir))
    return 0
