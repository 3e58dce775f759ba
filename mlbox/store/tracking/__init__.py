"""Experiment tracking: runs, parameters, metrics, and search over them."""
