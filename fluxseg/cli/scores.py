"""Verbs about the scores of a run or a model."""

from pathlib import Path

import tyro

from fluxseg import pretrained
from fluxseg.arguments import PickOptions
from fluxseg.config import Config, DataConfig
from fluxseg.console import create_console, open_console, progress_bars
from fluxseg.errors import ConfigError
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.io.files import write_json


def evaluate(
    workdir: Path | None = None,
    data: str = "",
    output: Path | None = None,
    model: str = "",
    pick: PickOptions = NO_PICK,
) -> int:
    """Score a run on its own splits or on other recordings, or a model on labelled recordings.

    Of a run it is the best checkpoint, with a report. A model, by default the one that comes with
    fluxseg, is scored on whole fields, just as `fluxseg predict` uses it. Exit code 1 if there is
    no score of a recording.

    Args:
        workdir: Folder of the run.
        data: Folder of annotated recordings that the run or model has not seen; empty: the
            validation and test splits of the run.
        output: Folder for the scores and the report of --data; default: evaluations/NAME in
            the workdir. The scores of a model are written there as scores.json.
        model: A model file in place of a run; "pretrained", as without --workdir, is the model
            that comes with fluxseg.
    """
    console = open_console()
    if model and workdir:
        raise ConfigError("--model and --workdir exclude each other; give one of them")
    if workdir and str(pick):
        raise ConfigError(f"a run reads what its own data.pick says, not {pick}; use --model")
    if workdir is None:
        return _evaluate_model(model or pretrained.NAME, data, output, pick)
    from fluxseg import job

    with progress_bars(console, ("Preparing", "recordings")) as (progress,):
        _, page = job.evaluate(workdir, data, output, progress)
    console.print(f"Report: {page}")
    return 0


def _evaluate_model(name: str, data: str, output: Path | None, pick: Pick) -> int:
    from fluxseg.formats.sources import format_unused, open_source, unused_files
    from fluxseg.inference.field_scores import format_fields, score_readable, summarise_fields
    from fluxseg.inference.run_model import load_model

    if not data:
        raise ConfigError("--data is missing: the folder of labelled recordings to score on")
    model, console = load_model(name), create_console()
    source = open_source(Config(data=DataConfig(source=data, pick=str(pick))))
    with progress_bars(console, ("Scoring", "recordings")) as (progress,):
        rows, failed = score_readable(model, source, progress)
    for key, reason in failed.items():
        console.print(f"no score: {key}: {reason}")
    for line in (
        *(f"{row['key']}: remark: {remark}" for row in rows for remark in row["remarks"]),
        *format_unused(unused_files(source)),
    ):
        console.print(line)
    if not rows:
        raise ConfigError(f"{data}: no recording can be scored, for the reasons above")
    summary = summarise_fields(rows)
    console.print(*format_fields(summary), sep="\n")
    if output:
        path = output / "scores.json"
        record = {"model": name, "data": data, **summary, "failed": failed}
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        console.print(f"Scores: {path}")
    return 1 if failed else 0


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
