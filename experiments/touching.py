"""The default run with the third class "touching": do crowded neurons come apart?

What: as the default, but the network learns where neurons touch as a class of its own.
Hardware: 2 CPU cores, about 8 minutes.
Command: python -m fluxseg.main --config experiments/touching.py --workdir runs/touching
Result (one seed, test split): neuron IoU 0.666 [0.650, 0.679], F1 of single neurons at IoU 0.5
0.814 (precision 0.762, recall 0.873); the default run has 0.665 and 0.803 (0.751, 0.862).
"""

import dataclasses

from fluxseg.config import Config, DataConfig


def get_config() -> Config:
    """Return the default settings with the class "touching"."""
    return dataclasses.replace(Config(), data=DataConfig(touching=True))
