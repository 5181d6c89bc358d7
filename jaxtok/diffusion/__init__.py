"""Paths, predictions, times, samplers and guidance, as functions; no flax, no network."""
