"""The model that comes with fluxseg, `model.safetensors`, and its card, `card.md`."""

from pathlib import Path

NAME = "pretrained"  # what stands for it where a path is asked for
PATH = Path(__file__).with_name("model.safetensors")
