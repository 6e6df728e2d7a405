"""Verbs that adapt a model, or its labels, to one's own fields."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fluxseg import pretrained
from fluxseg.arguments import PickOptions
from fluxseg.console import open_console, progress_bars
from fluxseg.errors import ConfigError
from fluxseg.formats.pick import NO_PICK


def finetune(
    data: str,
    output: Path,
    model: str = pretrained.NAME,
    encoder: Literal["free", "discounted", "frozen"] = "free",
    steps: int = 0,
    share: float = 0.0,
    learning_rate: float = 5e-4,
    held_out: float = 0.25,
    split_by: Literal["group", "recording"] = "group",
    curve: bool = False,
    folds: int = 3,
    seed: int = 0,
    pick: PickOptions = NO_PICK,
) -> int:
    """Tune a trained model to a few labelled fields of one's own, and score it before and after.

    Suits 1 to 20 fields. Running the same command again resumes an interrupted run.

    Args:
        data: Folder of labelled recordings.
        output: Folder of the result: model.safetensors, scores.json, report.html.
        model: A model file, such as model.safetensors of a workdir, or the workdir of a run; by
            default the model that comes with fluxseg.
        encoder: How the encoder learns. free: like the rest; discounted: at a tenth of its
            learning rate; frozen: not at all.
        steps: Steps of the optimiser. 0: 45 for each field, at least 150 and at most 400, which
            take one to two minutes on two cores.
        share: Share of the tuned weights in the result; the rest are those of the model that the
            tuning began from, which keep what it knew of other fields. 0: half with up to four
            fields, and all with eight or more.
        learning_rate: Peak learning rate.
        held_out: Share of the groups of recordings that only score; 0 learns from all fields and
            gives no scores.
        split_by: What is never divided between learning and scoring. recording: other sessions
            of the same tissue may score, which says nothing about new tissue.
        curve: Also draw the learning curve: scores on held-out groups after learning from 1, 3,
            10, ... fields (curve.json, curve.png). It takes a fine-tuning for each fold and size.
        folds: Parts into which the groups are divided for the curve.
        seed: Seed of split, order, augmentation and dropout.
    """
    from fluxseg.adapt import few_shot
    from fluxseg.adapt.learning_curve import compute_curve, format_curve
    from fluxseg.adapt.verdict import format_scores
    from fluxseg.inference.run_model import load_model
    from fluxseg.report.compare_plots import plot_learning_curve
    from fluxseg.report.html import write_report
    from fluxseg.report.plots import save_png
    from fluxseg.training.progress import Callbacks

    console = open_console()
    if curve and folds < 2:
        raise ConfigError(f"--folds must be 2 or more, got {folds}")
    settings = few_shot.FewShot(
        encoder=encoder,
        steps=steps,
        share=share,
        learning_rate=learning_rate,
        held_out=held_out,
        split_by=split_by,
        seed=seed,
        pick=str(pick),
    )
    loaded = load_model(model)
    bars = (("Preparing", "recordings"), ("Training", "steps"))
    with progress_bars(console, *bars) as (on_prepare, on_step):
        callbacks = Callbacks(on_prepare=on_prepare, on_step=on_step)
        name = Path(model).resolve().name
        _, entry = few_shot.finetune(loaded, name, data, output, settings, callbacks)
    console.print(*format_scores(entry), sep="\n")
    if curve and not entry["curve"]:
        console.print("No learning curve, for the reason above.")
    elif curve:
        with progress_bars(console, ("Learning curve", "models")) as (progress,):
            found = compute_curve(loaded, data, output, settings, folds, progress)
        console.print(*format_curve(found), sep="\n")
        save_png(plot_learning_curve(found), output / "curve.png")
        console.print(f"Learning curve: {output / 'curve.png'}")
    page = write_report(output)
    console.print(f"Model: {output / 'model.safetensors'}")
    console.print(f"Report: {page}")
    return 0


def review(
    run: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    /,
    *,
    data: str = "",
    output: Path | None = None,
    all_: Annotated[bool, tyro.conf.arg(name="all")] = False,
    min_confidence: float = 0.7,
    apply: Path | None = None,
    remove_doubtful: bool = False,
    from_tiff: bool = False,
    pick: PickOptions = NO_PICK,
) -> int:
    """List where a model and the labels disagree and the model is sure: cells that were missed.

    Of a run, its validation and test recordings are reviewed, on which it was not trained. Correct
    the ROI sets NAME_missed.zip in ImageJ, then merge them with the labels:
    fluxseg review --apply FOLDER --output NEW_FOLDER

    Args:
        run: Workdir of a run, or a model file (with --data); with --data alone it is the model that
            comes with fluxseg.
        data: Folder of labelled recordings to review; empty: those of the run.
        output: Folder to write to; default: review in the workdir, beside the model file, or here.
        all_: Also review recordings that the model was trained on.
        min_confidence: Disagreements of which the model is less sure are left out, 0 to 1.
        apply: Folder of a review whose ROI sets were corrected: merge them with the labels into
            new recordings in --output.
        remove_doubtful: With --apply, also remove the labels that are still in NAME_doubtful.zip.
        from_tiff: With --apply, read the label images NAME_missed_labels.tif instead of the ROI
            sets.
    """
    console = open_console()
    if apply is not None:
        if run or output is None:
            raise ConfigError("--apply FOLDER takes --output NEW_FOLDER, and no run")
        from fluxseg.adapt.review.apply import apply_review

        rows, remarks = apply_review(
            apply, output, remove_doubtful=remove_doubtful, from_tiff=from_tiff
        )
        for row in rows:
            text = "{name}: {labels} labels, {added} added, {removed} removed: {labels_now}"
            console.print(text.format(**row))
        console.print(*remarks, f"{len(rows)} recordings in {output}", sep="\n")
        return 0
    if len(run) > 1 or not (run or data):
        raise ConfigError("name one run, or one model file, to review with, or --data alone")
    from fluxseg.adapt.review.files import judge_model, review_recordings, write_review
    from fluxseg.adapt.review.plan import plan_review
    from fluxseg.report.review import write_review_page

    path = run[0] if run else None
    folder = output or ((path if path.is_dir() else path.parent) if path else Path()) / "review"
    plan = plan_review(path, data, all_, pick)
    with progress_bars(console, ("Reviewing", "recordings")) as (progress,):
        reviewed, left_out = review_recordings(plan, folder, min_confidence, progress)
    if not reviewed:
        raise ConfigError("no recording can be read; if they were moved, give --data FOLDER")
    rows = write_review(plan, reviewed, left_out, folder)
    remarks = [*plan.remarks, *judge_model(reviewed)]
    page = write_review_page(reviewed, rows, remarks, folder)
    for remark in remarks:
        console.print(remark)
    for kind in ("missed", "doubtful"):
        count = sum(row["kind"] == kind for row in rows)
        console.print(f"{kind:<9} {count}")
    console.print(f"Review: {page}")
    return 0
