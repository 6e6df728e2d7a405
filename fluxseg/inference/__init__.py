"""A trained model applied to whole fields of view."""
