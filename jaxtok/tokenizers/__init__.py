"""Shared compositions of encoder, quantizer and decoder."""
