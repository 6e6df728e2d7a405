"""The plugin for napari; nothing here is imported by the rest of fluxseg."""
