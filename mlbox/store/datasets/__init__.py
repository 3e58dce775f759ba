"""Datasets: immutable versions of training rows, and what is known of them."""
