"""fluxseg: train, honestly score and apply U-Nets that segment neurons in two-photon imaging.

Importing it imports nothing heavy: each public name is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fluxseg.version import __version__

if TYPE_CHECKING:
    from fluxseg import plot
    from fluxseg.config import (
        AugmentConfig,
        Config,
        DataConfig,
        LossConfig,
        ModelConfig,
        SimulatorConfig,
        TrainConfig,
    )
    from fluxseg.data.pipeline import CropSource, make_batches
    from fluxseg.data.recording import Recording
    from fluxseg.data.tiles import crop_grid, join_grid
    from fluxseg.data.transforms import crop_quarters, join_quarters, merge_masks, normalize_image
    from fluxseg.errors import FluxsegError
    from fluxseg.formats.convert import read_recording, write_recording
    from fluxseg.formats.sources import open_source
    from fluxseg.inference.objects.rois import Rois, find_rois
    from fluxseg.inference.predict import Predictor
    from fluxseg.inference.run_model import load_model
    from fluxseg.job import train_and_evaluate
    from fluxseg.model.losses import weighted_cross_entropy
    from fluxseg.model.metrics import confusion_matrix, scores_from_confusion
    from fluxseg.model.unet import create_unet
    from fluxseg.report.html import write_report
    from fluxseg.simulation.sessions import simulate_recording
    from fluxseg.traces.extract import Traces, extract
    from fluxseg.training.dataset import prepare_dataset
    from fluxseg.training.state import create_train_state
    from fluxseg.training.steps import eval_step, train_step


_NAMES = {
    "config": "AugmentConfig Config DataConfig LossConfig ModelConfig SimulatorConfig TrainConfig",
    "data.pipeline": "CropSource make_batches",
    "data.recording": "Recording",
    "data.tiles": "crop_grid join_grid",
    "data.transforms": "crop_quarters join_quarters merge_masks normalize_image",
    "errors": "FluxsegError",
    "formats.convert": "read_recording write_recording",
    "formats.sources": "open_source",
    "inference.objects.rois": "Rois find_rois",
    "inference.predict": "Predictor",
    "inference.run_model": "load_model",
    "job": "train_and_evaluate",
    "model.losses": "weighted_cross_entropy",
    "model.metrics": "confusion_matrix scores_from_confusion",
    "model.unet": "create_unet",
    "report.html": "write_report",
    "simulation.sessions": "simulate_recording",
    "traces.extract": "Traces extract",
    "training.dataset": "prepare_dataset",
    "training.state": "create_train_state",
    "training.steps": "eval_step train_step",
}
"""Module -> the public names that it holds."""
_HOME = {name: f"fluxseg.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", "plot", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name == "plot":
        return importlib.import_module("fluxseg.plot")
    if name not in _HOME:
        raise AttributeError(f"module 'fluxseg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
