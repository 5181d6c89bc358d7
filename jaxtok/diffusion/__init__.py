"""Paths, predictions, times, samplers, guidance, objectives, likelihoods, consistency, and discrete diffusion.

Functions; no flax, no network.
"""
