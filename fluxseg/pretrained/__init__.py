"""The model that comes with fluxseg, `model.safetensors`, and its card, `card.md`."""
