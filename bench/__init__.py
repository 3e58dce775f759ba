"""Benchmarks: each measures its peers and the raw limit in the same run, and never guesses."""
