"""Plots and the page that a finished run leaves."""
