import dataclasses
import json

import pytest

from fluxseg.config import TrainConfig
from fluxseg.errors import WorkdirError
from fluxseg.model.metrics import Totals
from fluxseg.training.progress import Progress, progress_from_json


def run_epochs(values, **settings):
    config = TrainConfig(epochs=20, **settings)
    progress = Progress()
    for number, value in enumerate(values, 1):
        row = {"epoch": number, config.monitor: value}
        progress = progress_with_step(progress, number).finish_epoch(row, config)
    return progress, config


def progress_with_step(progress, step):
    return dataclasses.replace(progress, step=step * 10, step_in_epoch=10)


def test_the_best_epoch_is_the_first_of_the_best():
    progress, _ = run_epochs([0.1, 0.5, 0.5, 0.3])
    assert progress.best == {
        "epoch": 2, "step": 20, "monitor": "val_neuron_iou", "value": 0.5
    }  # fmt: skip
    progress, _ = run_epochs([0.4, 0.2, 0.3], monitor="val_loss")
    assert progress.best["epoch"] == 2


def test_an_undefined_figure_never_beats_a_defined_one():
    progress, _ = run_epochs([None, 0.2, None])
    assert progress.best["epoch"] == 2
    progress, _ = run_epochs([None, None])
    assert progress.best["epoch"] == 1


def test_progress_survives_json_exactly():
    progress, _ = run_epochs([0.1, 1 / 3])
    totals = Totals.from_device(0.1, 1 / 3, [[2**40, 1], [2, 3]])
    progress = dataclasses.replace(progress, totals=totals, iterator={"next_index": 3})
    again = progress_from_json(json.loads(json.dumps(progress.to_json())), "x")
    assert again.to_json() == progress.to_json()
    assert again.totals.loss_sum == progress.totals.loss_sum
    with pytest.raises(WorkdirError, match="x: the progress of the run is damaged"):
        progress_from_json({"epoch": 1}, "x")
