"""Linen layers and networks that know no paper."""
