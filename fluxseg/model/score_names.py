"""The names of all scores, their titles and meanings: one table for logs, pages and figures."""

from typing import NamedTuple


class Score(NamedTuple):
    """How a score is called."""

    name: str  # in files, such as `scores.json`
    title: str  # for people
    meaning: str  # in a few words


PIXEL_SCORES = (
    Score("macro_iou", "Macro IoU", "mean of the IoU of background and of neuron"),
    Score("neuron_iou", "Neuron IoU", "intersection over union of the neuron pixels"),
    Score("background_iou", "Background IoU", "intersection over union of the background pixels"),
    Score("dice", "Dice", "of the neuron pixels, also called F1"),
    Score("precision", "Precision", "share of the predicted neuron pixels that are right"),
    Score("recall", "Recall", "share of the true neuron pixels that are found"),
    Score("accuracy", "Accuracy", "share of all pixels that are right"),
)
OBJECT_DIALECTS = (
    (
        "object",
        "Found neurons",
        (
            Score("object_f1", "F1", "2 TP / (true + predicted)"),
            Score("object_precision", "Precision", "share of the predicted neurons that match"),
            Score("object_recall", "Recall", "share of the labelled neurons that are found"),
        ),
    ),
    (
        "ap_image",
        "Average precision, Cellpose",
        (
            Score("ap_image_50", "AP at IoU 0.5", "mean over recordings (Cellpose)"),
            Score("ap_image_75", "AP at IoU 0.75", "mean over recordings"),
            Score("ap_image_90", "AP at IoU 0.9", "mean over recordings"),
            Score("ap_image_mean", "AP at IoU 0.5 to 0.95", "mean of ten thresholds"),
        ),
    ),
    (
        "ap",
        "Average precision, StarDist",
        (
            Score("ap_50", "AP at IoU 0.5", "of the summed counts"),
            Score("ap_75", "AP at IoU 0.75", "of the summed counts"),
            Score("ap_90", "AP at IoU 0.9", "of the summed counts"),
            Score("ap_mean", "AP at IoU 0.5 to 0.95", "of the summed counts (StarDist)"),
        ),
    ),
    (
        "panoptic",
        "Panoptic quality",
        (
            Score("panoptic_quality", "Panoptic quality", "product of the next two"),
            Score("panoptic_segmentation", "Segmentation", "mean IoU of the matches"),
            Score("panoptic_recognition", "Recognition", "F1 of the matches"),
        ),
    ),
    (
        "neurofinder",
        "Neurofinder",
        (
            Score("neurofinder_combined", "Neurofinder combined", "harmonic mean of the next two"),
            Score("neurofinder_recall", "Recall", "labelled neurons with a centre nearby"),
            Score("neurofinder_precision", "Precision", "predicted neurons with a centre nearby"),
            Score("neurofinder_inclusion", "Inclusion", "share of the labelled neuron covered"),
            Score("neurofinder_exclusion", "Exclusion", "share of the predicted neuron inside"),
        ),
    ),
)
"""Key of `SCORE_SOURCES`, title, and the scores of single neurons as one tool or paper has them."""
CALIBRATION_SCORES = (
    Score(
        "ece", "ECE", "expected calibration error: mean |probability - share| of 15 bins (Guo 2017)"
    ),
    Score("mce", "MCE", "maximum calibration error: the worst of these bins"),
    Score("brier", "Brier score", "mean squared error of the probability"),
    Score("nll", "Log loss", "mean negative log-likelihood, nats"),
)
OBJECT_SCORES = tuple(score for _, _, scores in OBJECT_DIALECTS for score in scores)
TITLES = {score.name: score.title for score in (*PIXEL_SCORES, *CALIBRATION_SCORES)} | {
    "loss": "Loss",
    "object_f1": "Neurons: F1",
    "object_precision": "Neurons: precision",
    "object_recall": "Neurons: recall",
}
"""Title of each score that also stands without the heading of its group; F1 is at an IoU of 0.5."""
SPLIT_TITLES = {
    "train": "Training",
    "val": "Validation",
    "test": "Test",
    "external": "Other recordings",
}
