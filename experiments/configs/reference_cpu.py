"""The reference protocol at a size that two CPU cores train to the end, on real fields.

What: `experiments/configs/reference.py` with an eighth of its width and crops of 128 px. The
    recipe is the same, but for the learning rate (1e-3: a narrow network with few steps learns
    too little at 1e-4) and the number of epochs (40: ten fields give few steps in each). The
    split is by mouse, and every epoch's line also has the test split, which chooses nothing. The
    confusion matrix and the curves are in the report.
Result: on ten Allen fields, macro IoU 0.723 and neuron IoU 0.574 on the test mouse, 0.737 and 0.599
    on validation (docs/results-labels.md).
Hardware: one busy CPU core, 26 minutes.
Command: python -m fluxseg.main --config experiments/configs/reference_cpu.py
    --workdir runs/reference_cpu --config.data.source FOLDER
"""

import dataclasses

from experiments.configs.reference import get_config as reference
from fluxseg.config import Config, DataConfig


def get_config() -> Config:
    """Return the settings of the small reference protocol."""
    config = reference()
    return dataclasses.replace(
        config,
        data=DataConfig(tile=128),
        model=dataclasses.replace(config.model, features=(8, 16, 16, 32, 64)),
        train=dataclasses.replace(
            config.train, epochs=40, learning_rate=1e-3, score_test_each_epoch=True
        ),
    )
