"""Metrics, one pinned protocol per number."""
