"""Subword tokenizers and alignment, in plain Python."""
