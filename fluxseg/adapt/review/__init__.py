"""Where a model and labels disagree, as files and pages that people can correct."""
