"""Traces: the activity of neurons over time, from a movie and the neurons' ROIs."""
