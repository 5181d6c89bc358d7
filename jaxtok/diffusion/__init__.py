"""Paths, times, objectives, samplers and guidance, as functions."""
