"""Verbs that apply a trained model."""

import functools
from pathlib import Path
from typing import Literal

import tyro

from fluxseg import pretrained
from fluxseg.arguments import PickOptions
from fluxseg.console import joined, open_console, progress_bars
from fluxseg.errors import ConfigError
from fluxseg.formats.formats import PredictFormat
from fluxseg.formats.pick import NO_PICK
from fluxseg.processes import Processes, run_in_first


def predict(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    /,
    output: Path,
    model: tuple[str, ...] = (pretrained.NAME,),
    format: tuple[PredictFormat, ...] = ("labels", "overlay", "table", "probability"),
    pick: PickOptions = NO_PICK,
    one_field: bool = False,
    diameter: float | None = None,
    tta: bool = False,
    threshold: float | None = None,
    min_confidence: float | None = None,
    tile: int | None = None,
    numbers: bool = False,
    overwrite: bool = False,
    processes: Processes = Processes(),  # noqa: B008
) -> int:
    """Predict where neurons are in images of any size.

    Open predictions.html in the output folder: it shows the neurons on each image, and what is
    doubtful. What an interrupted command has done is kept, and the same command goes on. Exit code
    1 if an image failed; predictions.json tells of each. Several processes share out the images.

    Args:
        inputs: Image files or recordings, folders of them, or patterns such as "data/*.tif". Movies
            are projected first: see fluxseg project.
        output: Folder to write to; it may be that of the images. What fluxseg predict has written
            is never taken for an image, and files that others have made or corrected are kept.
        model: A model file, such as model.safetensors of a workdir, or the workdir of a run; by
            default the model that comes with fluxseg, which has seen simulated fields only. Of
            several models the mean is used, and NAME_std.tif (standard deviation) shows where
            they disagree.
        format: What to write for each image. labels: NAME_labels.tif, one number a neuron;
            overlay: NAME_overlay.png, outlines on the image; table: NAME_neurons.csv, one row a
            neuron; probability: NAME_probability.tif; mask: NAME_mask.tif; npz: the maps and the
            measures of each neuron in NAME_prediction.npz; suite2p (a folder, NAME_suite2p),
            cellpose (NAME_seg.npy), imagej (NAME_rois.zip), nwb, neurofinder, coco: the
            neurons for that tool.
        one_field: All images show one field, such as its maximum and its mean over time: they give
            one result, in which a neuron counts that any of them shows. The first one tells the
            size of the cells and is shown.
        diameter: Typical diameter of the cells, px, for the model that comes with fluxseg; by
            default it is estimated from each image.
        tta: Average over the 8 flips and turns of each image: eight times slower, hardly better.
        threshold: Least probability of a neuron pixel; by default the one stored with the model,
            chosen on validation.
        min_confidence: Neurons of less confidence are left out, 0 to 1; by default the value stored
            with the model. 0 keeps all that is found.
        tile: Images with a longer side are predicted in overlapping tiles of this side, px; 512 by
            default.
        numbers: Show the number of each neuron in the overlay.
        overwrite: Predict again what is done; files that are not fluxseg's stay in any case.
    """
    from fluxseg.formats.sources import format_unused
    from fluxseg.inference.ensemble import load_models
    from fluxseg.inference.inputs import plan_jobs
    from fluxseg.inference.predict_files import predict_files, read_names
    from fluxseg.report.predictions import write_predictions_page

    with joined(processes) as console:
        if not inputs:
            raise ConfigError("predict: give at least one image, folder or pattern")
        loaded = load_models(model)
        jobs, unused = plan_jobs(inputs, pick, read_names(output), one_field=one_field)
        with progress_bars(console, ("Predicting", "images")) as (progress,):
            outcomes = predict_files(
                loaded,
                jobs,
                output,
                format,
                threshold=threshold,
                min_confidence=min_confidence,
                tta=tta or None,
                tile=tile,
                diameter=diameter,
                numbers=numbers,
                overwrite=overwrite,
                progress=progress,
            )
        used = ", ".join(Path(one).name for one in model)
        write = functools.partial(write_predictions_page, output, outcomes, unused, used)
        page = run_in_first(write, "writing the page")
        done = sum(not outcome.error for outcome in outcomes)
        told = f"{done} of {len(outcomes)} images predicted in {output}"
        shown = f"Look at them: {page}" if done else f"Page: {page}"
        for line in (*format_unused(unused), told, shown):
            console.print(line)
    return 1 if done < len(outcomes) or not outcomes else 0


def export(
    output: Path, model: str = pretrained.NAME, format: Literal["stablehlo"] = "stablehlo"
) -> int:
    """Export a model for use without fluxseg.

    Args:
        model: A model file, such as model.safetensors of a workdir, or the workdir of a run; by
            default the model that comes with fluxseg.
        output: File to write; a file of the same name with .json added explains its use.
        format: stablehlo: a program with its parameters for CPUs, CUDA GPUs and TPUs, which
            jax.export reads; it takes normalised images and gives probabilities.
    """
    from fluxseg.inference.run_model import load_model
    from fluxseg.inference.stablehlo import write_stablehlo

    open_console(stderr=True)
    for path in write_stablehlo(output, load_model(model)):
        print(path)
    return 0
