"""Losses beside the flow: perceptual, adversarial, spectral, alignment, distillation."""
