"""Separate neurons: found in a probability, matched with true ones, counted and scored."""
