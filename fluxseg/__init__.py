"""fluxseg: train, honestly score and apply U-Nets that segment neurons in two-photon imaging.

Importing it imports nothing heavy: each public name is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
    from fluxseg.data.transforms import (
        crop_quarters,
        join_quarters,
        merge_masks,
        normalize_image,
    )
    from fluxseg.errors import FluxsegError
    from fluxseg.formats.convert import write_recording
    from fluxseg.formats.sources import open_source, read_recording
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

__version__ = "0.1.0"

_HOME = {
    "AugmentConfig": "fluxseg.config",
    "Config": "fluxseg.config",
    "CropSource": "fluxseg.data.pipeline",
    "DataConfig": "fluxseg.config",
    "FluxsegError": "fluxseg.errors",
    "LossConfig": "fluxseg.config",
    "ModelConfig": "fluxseg.config",
    "Predictor": "fluxseg.inference.predict",
    "Recording": "fluxseg.data.recording",
    "Rois": "fluxseg.inference.objects.rois",
    "SimulatorConfig": "fluxseg.config",
    "Traces": "fluxseg.traces.extract",
    "TrainConfig": "fluxseg.config",
    "confusion_matrix": "fluxseg.model.metrics",
    "create_train_state": "fluxseg.training.state",
    "create_unet": "fluxseg.model.unet",
    "crop_grid": "fluxseg.data.tiles",
    "crop_quarters": "fluxseg.data.transforms",
    "eval_step": "fluxseg.training.steps",
    "extract": "fluxseg.traces.extract",
    "find_rois": "fluxseg.inference.objects.rois",
    "join_grid": "fluxseg.data.tiles",
    "join_quarters": "fluxseg.data.transforms",
    "load_model": "fluxseg.inference.run_model",
    "make_batches": "fluxseg.data.pipeline",
    "merge_masks": "fluxseg.data.transforms",
    "normalize_image": "fluxseg.data.transforms",
    "open_source": "fluxseg.formats.sources",
    "prepare_dataset": "fluxseg.training.dataset",
    "read_recording": "fluxseg.formats.sources",
    "scores_from_confusion": "fluxseg.model.metrics",
    "simulate_recording": "fluxseg.simulation.sessions",
    "train_and_evaluate": "fluxseg.job",
    "train_step": "fluxseg.training.steps",
    "weighted_cross_entropy": "fluxseg.model.losses",
    "write_recording": "fluxseg.formats.convert",
    "write_report": "fluxseg.report.html",
}

__all__ = ["__version__", "plot", *_HOME]


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
