"""The main job in miniature: does the installation work?

What: 6 simulated fields of 128 px, a tiny U-Net, 3 epochs. The scores mean nothing.
Hardware: 2 CPU cores, under half a minute.
Command: python -m fluxseg.main --config experiments/configs/quick.py --workdir runs/quick
"""

from fluxseg.config import Config, DataConfig, ModelConfig, SimulatorConfig, TrainConfig


def get_config() -> Config:
    """Return settings for a run of seconds."""
    return Config(
        data=DataConfig(tile=64),
        simulator=SimulatorConfig(containers=6, sessions=1, size=128),
        model=ModelConfig(features=(8, 16), convs=1),
        train=TrainConfig(epochs=3, steps=0),
    )
