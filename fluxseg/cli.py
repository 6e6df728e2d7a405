"""The `fluxseg` command: one verb per task."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config, DataConfig, SimulatorConfig
from fluxseg.main import MainArguments, log_scores, parse_main, run_main
from fluxseg.terminal import configure_logging, create_console, progress_bars, run_guarded

DESCRIPTION = """Segment neurons in two-photon calcium imaging: train a U-Net and score it honestly.

`fluxseg VERB --help` explains the options of a verb. Exit codes: 0 done; 1 something was found by
check, or an image could not be predicted; 2 bad input or settings; 130 and 143 stopped by Ctrl-C
or SIGTERM.
"""


def check(
    source: tyro.conf.Positional[str],
    /,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    workers: int = 0,
) -> int:
    """Say of each file of a folder whether it is usable, and find duplicates.

    Exit code 1 if any file is unusable.

    Args:
        source: A folder of recordings, one file, or "simulator".
        json_: Print JSON instead of lines.
        workers: Processes to use; 0: one per CPU core.
    """
    from fluxseg.data.checks import STATUS_WORDS, check_source, format_check
    from fluxseg.interop.sources import open_source

    console = create_console()
    configure_logging(create_console(stderr=True))
    config = Config(data=DataConfig(source=source))
    with progress_bars(create_console(stderr=True), ("Checking", "recordings")) as (progress,):
        report = check_source(open_source(config), workers, progress)
    if json_:
        print(json.dumps(report.to_json(), indent=1))
    else:
        for row in report.rows:
            console.print(format_check(row), markup=False, soft_wrap=True)
        counts = ", ".join(f"{count} {STATUS_WORDS[name]}" for name, count in report.counts.items())
        console.print(f"{len(report.rows)} recordings: {counts}", markup=False)
    return 1 if report.counts["unusable"] else 0


def prepare(
    source: tyro.conf.Positional[str],
    /,
    output: Path,
    format: Literal["cache", "jpg", "png"] = "cache",
    mask_format: Literal["png", "jpg"] = "png",
    quarters: bool = False,
    data: DataConfig = DataConfig(),  # noqa: B008
) -> int:
    """Prepare the crops of a folder of recordings, or write it as image files.

    An interrupted call goes on where it stopped. Use the result with
    --config.data.source SOURCE --config.data.cache OUTPUT.

    Args:
        source: A folder of recordings, or "simulator".
        output: Folder to write to.
        format: cache: crops for training. jpg or png: an 8-bit image and a mask file for each
            recording, as the reference protocol has them.
        mask_format: Format of the masks written with --format jpg or png; jpg blurs their edges.
        quarters: With --format jpg or png, cut each recording into its four quarters.
        data: Crop size, normalisation and number of processes.
    """
    from fluxseg.data.prepare import prepare_cache
    from fluxseg.interop.export import export_images
    from fluxseg.interop.sources import open_source

    console = create_console()
    configure_logging(console)
    data = dataclasses.replace(data, source=source)
    opened = open_source(Config(data=data))
    with progress_bars(console, ("Preparing", "recordings")) as (progress,):
        if format == "cache":
            index = prepare_cache(opened, output, data, progress)
            used, left_out = len(index.entries), index.left_out
        else:
            used, left_out = export_images(
                opened, output, data, format, mask_format, quarters=quarters, progress=progress
            )
    for key, reason in left_out:
        console.print(f"left out: {key}: {reason}", markup=False)
    console.print(f"{used} recordings prepared in {output}, {len(left_out)} left out", markup=False)
    return 0


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


def predict(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    /,
    model: Path,
    output: Path,
    format: tuple[Literal["probability", "labels", "mask", "npz"], ...] = (
        "probability",
        "labels",
    ),
    tta: bool = False,
    threshold: float | None = None,
    tile: int | None = None,
) -> int:
    """Predict where neurons are in images of any size.

    Exit code 1 if an image failed; predictions.json in the output folder tells of each.

    Args:
        inputs: Image files or recordings, folders of them, or patterns such as "data/*.tif"; of a
            TIFF file with several pages each page is an image.
        model: A model file, such as model.safetensors of a workdir, or the workdir of a run.
        output: Folder to write to.
        format: What to write for each image. probability: NAME_probability.tif; labels:
            NAME_labels.tif, one number a neuron; mask: NAME_mask.tif; npz: all of these and the
            measures of each neuron in NAME_prediction.npz.
        tta: Average over the 8 flips and turns of each image: eight times slower.
        threshold: Least probability of a neuron pixel; by default the one stored with the model,
            chosen on validation.
        tile: Images with a longer side are predicted in overlapping tiles of this side, px; 512 by
            default.
    """
    from fluxseg.inference.inputs import plan_jobs
    from fluxseg.inference.predict_files import predict_files
    from fluxseg.inference.run_model import load_model

    console = create_console()
    configure_logging(console)
    enable_compilation_cache()
    loaded = load_model(model)
    jobs = plan_jobs(inputs, output)
    with progress_bars(console, ("Predicting", "images")) as (progress,):
        outcomes = predict_files(
            loaded,
            jobs,
            output,
            format,
            threshold=threshold,
            tta=tta,
            tile=tile,
            progress=progress,
        )
    failed = sum(bool(outcome.error) for outcome in outcomes)
    done = len(outcomes) - failed
    console.print(f"{done} of {len(outcomes)} images predicted in {output}", markup=False)
    return 1 if failed or not outcomes else 0


def report(workdir: tyro.conf.Positional[Path], /) -> int:
    """Write report.html of a run again from the files in its workdir.

    Args:
        workdir: Folder of the run, or of an evaluation.
    """
    from fluxseg.report.html import write_report

    print(write_report(workdir))
    return 0


def simulate(
    output: tyro.conf.Positional[Path],
    /,
    simulator: SimulatorConfig = SimulatorConfig(),  # noqa: B008
) -> int:
    """Write simulated recordings as .npy files, in the form that the Allen data have.

    Args:
        output: Folder to write to.
        simulator: How many, and of which kind.
    """
    from fluxseg.data.simulator import SimulatedSource
    from fluxseg.interop.allen import write_allen_npy

    source = SimulatedSource(simulator)
    keys = source.keys()
    output.mkdir(parents=True, exist_ok=True)
    console = create_console()
    with progress_bars(console, ("Simulating", "recordings")) as (progress,):
        for number, key in enumerate(keys, 1):
            write_allen_npy(output / f"{key}.npy", source.read(key))
            progress(number, len(keys))
    console.print(f"{len(keys)} recordings written to {output}", markup=False)
    return 0


def _train(arguments: Sequence[str]) -> int:
    return run_main(parse_main(arguments, "fluxseg train"))


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "train":
        # Its config file must be read before its options are known.
        return _train(arguments[1:])
    app = tyro.extras.SubcommandApp()
    for verb in (train, check, prepare, evaluate, predict, report, simulate):
        app.command(verb)
    return int(app.cli(prog="fluxseg", description=DESCRIPTION, args=list(arguments)) or 0)


def train(arguments: MainArguments) -> int:
    """Train on recordings, score, and write a report: the same as python -m fluxseg.main."""
    return run_main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run the verb, and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_guarded(lambda: _run(given))
