"""Sweeps: what many runs together say about their parameters."""
